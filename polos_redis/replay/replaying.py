"""Replaying: the code of a workflow runs against a history, and is compared with it at its end.

The code runs as on a worker that has been given the execution again: an activation with the recorded journal.
It ends when the code has ended or is parked, or when nothing of it can go on: it has come to where the
history ends, or has left the recorded path.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from traceback import walk_tb
from typing import Any

from polos_redis import frames, tasks
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.parameters import underlying
from polos_redis.definitions.registry import registered
from polos_redis.definitions.unreached import IGNORE
from polos_redis.errors import NotStorableError
from polos_redis.executions.history import History
from polos_redis.replay.clock import SkippingLoop
from polos_redis.replay.divergence import (
    Divergence,
    how_it_was,
    place,
    recorded,
    shown,
    started_ms,
)
from polos_redis.replay.recorded import Observer, RecordedHost
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.call_sites import CallSite
from polos_redis.runtime.code_start import start_code
from polos_redis.state import stored_errors
from polos_redis.state.executions import Loaded
from polos_redis.values import bounds, codec
from polos_redis.values.digests import stored_digest
from polos_redis.values.text import raw, text

BeforeCall = Callable[[str, CallSite], None]

# Failures that the code does not raise: a replay of it may end anywhere.
_FROM_OUTSIDE = ("WorkerLostError", "WorkflowTimeoutError")
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")  # in the repr of an object


def replays(
    histories: Iterable[History],
    workflows: Mapping[str, WorkflowDefinition[Any, Any]] | None = None,
    before_call: BeforeCall | None = None,
) -> Iterator[tuple[History, Divergence | None]]:
    """Replay histories one after another; yields each with its divergence, None if there is none.

    `workflows` by id, by default all that this process has defined. `before_call` is called before each call
    of ctx with its step key and place.
    """
    known = registered() if workflows is None else workflows
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        for history in histories:
            yield history, runner.run(_replay(history, known.get(history.workflow_id), before_call))


def replayed_elsewhere(
    histories: Iterable[History], workflows: Mapping[str, WorkflowDefinition[Any, Any]] | None = None
) -> list[tuple[History, Divergence | None]]:
    """As `replays`, in a thread: for callers whose thread runs an event loop already."""
    found: list[tuple[History, Divergence | None]] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.extend(replays(histories, workflows))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="polos-replay")
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return found


async def _replay(
    history: History, workflow: WorkflowDefinition[Any, Any] | None, before_call: BeforeCall | None
) -> Divergence | None:
    if workflow is None:
        message = f"no workflow {history.workflow_id!r} is defined here: import the module that defines it"
        return Divergence(history.id, history.workflow_id, "workflow", message)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    tasks.install(loop)
    replay = _HistoryReplay(history, workflow, before_call)
    start = tasks.spawn(replay.start())
    while not replay.ended:
        before = replay.touches
        await loop.quiet()
        if replay.touches == before:
            break
    if start.done():
        start.result()
    replay.end()
    await loop.quiet()  # what the code still does to clean up
    return replay.divergence


class _HistoryReplay:
    """One replay. `divergence` is known once it has ended."""

    def __init__(
        self, history: History, workflow: WorkflowDefinition[Any, Any], before_call: BeforeCall | None
    ) -> None:
        self._history = history
        self._observer = Observer(self._compare, before_call)
        self._host = RecordedHost(self._observer)
        queue = str(history.view.get("queue", "default"))
        self._activation = Activation(self._host, workflow, history.id, _ENTRY, history.run, queue, 0)
        self.ended = False
        self.divergence: Divergence | None = None

    @property
    def touches(self) -> int:
        return self._activation.touches

    async def start(self) -> None:
        history, activation = self._history, self._activation
        packed, origin = history.stored("input") or codec.encode(None), history.stored("origin")
        activation.take(Loaded(packed, True, 0, origin, history.records), activation.journal.epoch, 0)
        await bounds.in_turns(start_code(activation, packed, origin, self._host.context))

    def end(self) -> None:
        """End a replay whose code does not go on."""
        self._activation.end("replayed")

    def _compare(self) -> None:
        """Compare with the history; called once, when the activation ends."""
        self.ended = True
        self.divergence = self._divergence()

    # --- the comparison -----------------------------------------------------------------

    def _divergence(self) -> Divergence | None:
        if self._activation.gate.held_back:
            return self._found("unreadable", self._activation.gate.held_back)
        if self._observer.handed_back or self._activation.ended_as not in _ENDS:
            why = self._observer.handed_back or self._activation.ended_as
            return self._found("outcome", f"the replay was given up: {why}")
        missing = self._missing()
        if self._observer.outcome is None:
            return self._compare_stopped(missing)
        return self._compare_ended(missing, *self._observer.outcome)

    def _compare_stopped(self, missing: list[str]) -> Divergence | None:
        """The code has not ended: it waits, or has come to a call without an outcome."""
        history, new = self._history, self._new_calls()
        if missing:
            if new:
                return self._new_call(new[0], f"the history goes on with {recorded(history, missing[0])}")
            return self._unreached(missing[0])
        finished = history.status == "completed" or (
            history.status == "failed" and self._recorded_error().type not in _FROM_OUTSIDE
        )
        if new and (finished or history.status == "waiting"):
            return self._new_call(new[0], f"the execution {how_it_was(history)} without it")
        if finished or (history.status == "waiting" and self._activation.ended_as == "continued"):
            where = self._stands_at()
            message = f"the code {self._stops()} at {where}, but the execution {how_it_was(history)}"
            return self._found("outcome", message, where=where)
        return None

    def _compare_ended(
        self, missing: list[str], status: str, value: bytes, state: bytes
    ) -> Divergence | None:
        history = self._history
        if status == "failed":
            return self._compare_failure(missing, value)
        if missing:
            return self._unreached(missing[0])
        last = self._last_call()
        if history.status in ("failed", "waiting"):
            error = self._recorded_error() if history.status == "failed" else None
            if error is not None and error.type in _FROM_OUTSIDE:
                return None
            how = how_it_was(history) + (f" with {error.type}: {error.message}" if error else "")
            return self._found(
                "outcome", f"the code returns after {last}, but the execution {how}", where=last
            )
        if history.status != "completed":
            return None
        for name, ours in (("output", value), ("state", state)):
            theirs = history.stored(name)
            if theirs is not None and not _are_equal(ours, theirs):
                verbs = ("returns", "returned") if name == "output" else ("leaves ctx.state as", "left it as")
                return self._found(
                    "result",
                    f"the code {verbs[0]} {shown(ours)}, but the execution {verbs[1]} {shown(theirs)}",
                )
        return None

    def _compare_failure(self, missing: list[str], value: bytes) -> Divergence | None:
        history, error = self._history, stored_errors.parse_error(value)
        where = self._failed_at()
        fails = f"the code fails{f' at {where}' if where else ''} with {error.type}: {error.message}"
        if history.status == "failed" and (theirs := self._recorded_error()).type not in _FROM_OUTSIDE:
            if (error.type, _ADDRESS.sub("", error.message)) != (
                theirs.type,
                _ADDRESS.sub("", theirs.message),
            ):
                return self._found(
                    "outcome", f"{fails}, but the execution with {theirs.type}: {theirs.message}", where=where
                )
        elif history.status in ("completed", "waiting"):
            return self._found("outcome", f"{fails}, but the execution {how_it_was(history)}", where=where)
        if missing:
            what = recorded(history, missing[0])
            return self._found("unreached", f"{fails}, and does not reach {what}", missing[0], where)
        return None

    # --- facts --------------------------------------------------------------------------

    def _missing(self) -> list[str]:
        """The step keys in the history that the code has not reached, by time."""
        activation, history = self._activation, self._history
        missing = set(activation.unreached)
        if activation.workflow.unreached != IGNORE:
            missing |= set(
                map(text, activation.journal.unreached(activation.call_sites, activation.passed_over))
            )
            missing -= set(history.unreached)
        return sorted(missing, key=lambda key: (started_ms(history, key), key))

    def _new_calls(self) -> list[str]:
        """The step keys of the calls that the history has no outcome of, in their order."""
        activation, observer = self._activation, self._observer
        if activation.unreached:  # then whatever is new is held back
            records = self._history.records
            held = {key for key in observer.calls if raw(key) not in records} | observer.stopped
        else:
            held = observer.stopped
        return [key for key in activation.call_sites if key in held]

    def _new_call(self, key: str, but: str) -> Divergence:
        where = place(self._activation.call_sites[key])
        again = "again " if raw(key) in self._history.records else ""
        message = f"the code calls {key!r} {again}at {where}, but {but}"
        return self._found("call", message, key, where)

    def _unreached(self, key: str) -> Divergence:
        main, what = self._activation.code.main, recorded(self._history, key)
        if main is not None and main.done():
            where = self._last_call()
            message = f"the code returns after {where} and does not reach {what}"
        else:
            where = self._stands_at()
            message = f"the code {self._stops()} at {where} and does not reach {what}"
        return self._found("unreached", message, key, where)

    def _recorded_error(self) -> stored_errors.ErrorRecord:
        return stored_errors.parse_error(self._history.stored("error") or b"")

    def _last_call(self) -> str:
        sites = self._activation.call_sites
        return place(next(reversed(sites.values()))) if sites else self._start()

    def _start(self) -> str:
        code = underlying(self._activation.workflow.function).__code__
        return place((code, code.co_firstlineno))

    def _stops(self) -> str:
        return "continues as new" if self._activation.ended_as == "continued" else "stops"

    def _stands_at(self) -> str:
        """The line of the user's code that the main task is at."""
        main = self._activation.code.main
        found = [] if main is None else frames.suspended(main)
        return _innermost([(one.f_code, one.f_lineno) for one in found]) or self._last_call()

    def _failed_at(self) -> str:
        """The line of the user's code that the failure comes from."""
        main = self._activation.code.main
        if main is None or not main.done() or main.cancelled():
            return ""
        error = main.exception()
        if error is None:
            return ""
        return _innermost([(one.f_code, line) for one, line in walk_tb(error.__traceback__)])

    def _found(self, kind: str, message: str, step_key: str | None = None, where: str = "") -> Divergence:
        return Divergence(self._history.id, self._history.workflow_id, kind, message, step_key, where)


_ENTRY = b"99999999999999-0"  # as of a queue's stream, later than all that is recorded
_ENDS = ("replayed", "finished", "parked", "stuck", "paused", "continued")


def _innermost(lines: Sequence[CallSite]) -> str:
    """The innermost line of users' code; "" if there is none."""
    own = frames.of_user(lines, lambda one: one[0].co_filename)
    return place(own[-1]) if own else ""


def _are_equal(ours: bytes, theirs: bytes) -> bool:
    try:
        return ours == theirs or stored_digest(ours) == stored_digest(theirs)
    except NotStorableError:
        return False
