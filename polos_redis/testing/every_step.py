"""Runs a workflow once for each point where its worker may crash, and compares what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from polos_redis import tasks
from polos_redis.client import PolosClient
from polos_redis.definitions import registry
from polos_redis.embedded.server import EmbeddedServer
from polos_redis.errors import ExecutionCancelledError, ExecutionFailedError, InvalidInputError
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.results import Suspension
from polos_redis.state import keys
from polos_redis.testing import skipping
from polos_redis.testing.crashing import CrashingWire, CrashPoint, crashing_wire
from polos_redis.testing.reach import is_reached
from polos_redis.testing.suspension import OpenSuspension, whereabouts
from polos_redis.testing.worlds import GRACE_SECONDS, new_namespace
from polos_redis.values.text import raw
from polos_redis.worker.host import WorkerHost
from polos_redis.worker.served import Chosen
from polos_redis.worker.worker_task import WorkerTask
from polos_redis.workflow import Workflow

In = TypeVar("In")
Out = TypeVar("Out")

KEY = "replay_at_every_step"  # one idempotency key, so that ids are the same in every run
SECONDS = 30.0  # for one run
FINAL = ("completed", "failed", "cancelled")
RUNNING_SECONDS = 1.0  # a step that runs beside the crash may end within
PAUSE_SECONDS = 0.01  # between two looks at what the crashed worker holds
MOST_ENTRIES = 100


async def replay_at_every_step(
    workflow: Workflow[In, Out],
    input: In | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
    effects: list[Any] | None = None,
    workflows: Chosen = None,
    url: str | None = None,
    timeout: float = SECONDS,
    allow_unused: bool = False,
) -> Out:
    """Run a workflow once undisturbed, and once for each point where its worker may crash: right after each
    step was journaled, and right before the end of a run, its children's included. Returns its result.

    Each run has a new namespace. Another worker continues after the crash, and time is skipped whenever all
    waits. A crash must not change the result or error, the `effects`, or whether the code reaches all that
    was journaled: `AssertionError` says what differs after which crash. `effects` is a list that the test's
    fakes append to; it is emptied before each run, its order does not count, and it ends with the effects
    of one run. Steps that run at the moment of the crash may end and are journaled; one that takes more than
    a second longer runs again. `ctx.step.uuid`, `now` and `random` have the same values in every run.

    `answers` maps step keys of suspensions, also of children, to answers, or to async functions that are
    given the `OpenSuspension`: one that does not answer lets it time out. A suspension without an entry is
    an `AssertionError`, and so is an entry that no suspension needs, unless `allow_unused`. The workers
    serve `workflows`, by default those of the workflow's module and what that imports. `url` and the
    private server otherwise are as in `world`. One run may take `timeout` seconds, or `TimeoutError` says
    where it was.

    Raises `ExecutionFailedError` or `ExecutionCancelledError` if that is how every run ends.
    """
    if tasks.in_workflow():
        raise InvalidInputError("replay_at_every_step was called in a workflow: call it in a test")
    if workflows is None:
        module = sys.modules[registry.module_of(workflow)]
        workflows = partial(is_reached, module=module)
    values: dict[tuple[str, str], Any] = {}

    async def run(url: str, crash_at: int) -> tuple[_RunEnd, list[CrashPoint]]:
        async with new_namespace(url, is_erased=True) as client:
            one = _Run(client, workflow, answers or {}, workflows, values, timeout)
            return await one.run(input, crash_at, [] if effects is None else effects)

    async with contextlib.AsyncExitStack() as stack:
        if url is None:
            url = (await stack.enter_async_context(EmbeddedServer())).url
        undisturbed, points = await run(url, 0)
        if undisturbed.stuck:
            raise AssertionError(f"the execution got stuck without a crash: {undisturbed.stuck}")
        if undisturbed.unused and not allow_unused:
            names = ", ".join(map(repr, undisturbed.unused))
            raise AssertionError(
                f"the answers have entries that no suspension has needed: {names}; the execution "
                f"{undisturbed.ended()}. Remove them, or pass allow_unused=True"
            )
        for number, point in enumerate(points, 1):
            outcome, met = await run(url, number)
            if differences := outcome.differences(undisturbed):
                point = met[number - 1] if len(met) >= number else point
                crash = f"after a crash {point} (crash {number} of {len(points)})"
                raise AssertionError(f"{crash}, {'; '.join(differences)}")
    if effects is not None:
        effects[:] = undisturbed.effects
    if undisturbed.error is not None:
        raise undisturbed.error
    found: Out = undisturbed.result
    return found


@dataclass(frozen=True, slots=True)
class _RunEnd:
    """How a run ended: with a result or an error, or `stuck` with a reason; and what it has done. `unused`
    are the keys of answers that no suspension needed."""

    result: Any
    error: ExecutionFailedError | ExecutionCancelledError | None
    stuck: str
    unreached: list[str]
    effects: list[Any]
    unused: list[str]

    def differences(self, undisturbed: _RunEnd) -> list[str]:
        """Returns in words how it differs from the run without a crash."""
        found: list[str] = []
        if self.stuck:
            found.append(f"the execution got stuck: {self.stuck}")
        elif self._end() != undisturbed._end():
            found.append(f"it {self.ended()}; without the crash it {undisturbed.ended()}")
        if self.unreached != undisturbed.unreached:
            found.append(f"its code did not reach the journaled {', '.join(map(repr, self.unreached))}")
        if more := _without(self.effects, undisturbed.effects):
            found.append(f"these effects happened besides, or again: {_listed(more)}")
        if less := _without(undisturbed.effects, self.effects):
            found.append(f"these effects did not happen: {_listed(less)}")
        return found

    def _end(self) -> tuple[Any, ...]:
        if isinstance(self.error, ExecutionFailedError):
            return "failed", self.error.error_type, self.error.error_message
        return ("completed", self.result) if self.error is None else ("cancelled",)

    def ended(self) -> str:
        """Returns how it ended, in words."""
        if isinstance(self.error, ExecutionFailedError):
            return f"failed with {self.error.error_type}: {self.error.error_message}"
        return f"returned {self.result!r}" if self.error is None else "was cancelled"


class _Run:
    """One run of a workflow: two workers, of which one crashes, and a driver that answers and skips time."""

    def __init__(
        self,
        client: PolosClient,
        workflow: Workflow[Any, Any],
        answers: Mapping[str, Any],
        workflows: Chosen,
        values: dict[tuple[str, str], Any],
        timeout: float,
    ) -> None:
        self._client = client
        self._workflow = workflow
        self._answers = answers
        self._workflows = workflows
        self._values = values
        self._timeout = timeout
        self._working: WorkerTask | None = None
        self._asked: set[tuple[str, str, int]] = set()

    @property
    def is_sending(self) -> bool:
        """Whether notifications are being sent: there are no channels."""
        return False

    def hurry(self) -> None:
        """Fire the timers now."""
        if self._working is not None:
            self._working.hurry()

    async def run(self, input: Any, crash_at: int, effects: list[Any]) -> tuple[_RunEnd, list[CrashPoint]]:
        """Run it to its end; returns how it ended, and the crash points that were met."""
        effects.clear()
        client = self._client
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(PolosClient(client.url, client.namespace))
            wire = await crashing_wire(first, keys.derived_id(self._workflow.id, KEY), crash_at)
            crashing = await self._start(first, stack)
            wire.on_crash = self._host.lease.freeze
            stack.callback(self._host.lease.thaw)
            stack.callback(wire.release)
            for _ in range(2):
                stack.callback(crashing.worker.stop)  # before its calls go on, so that its code does not
            handle = await client.invoke(self._workflow, input, idempotency_key=KEY)
            parts = [tasks.spawn(self._continue(wire, crashing, stack)), tasks.spawn(self._drive(handle))]
            try:
                async with asyncio.timeout(self._timeout):
                    await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            except TimeoutError:
                crash = f" after a crash {wire.points[crash_at - 1]}" if wire.crashed.is_set() else ""
                at = await whereabouts(client, handle)
                raise TimeoutError(
                    f"execution {handle.id} did not end within {self._timeout:g} s{crash}: {at}"
                ) from None
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.wait(parts)
            for part in parts:
                if not part.cancelled():
                    part.result()
            return await self._outcome(handle, effects), wire.points

    @property
    def _host(self) -> WorkerHost:
        assert self._working is not None
        assert self._working.worker.host is not None
        return self._working.worker.host

    async def _start(self, client: PolosClient, stack: contextlib.AsyncExitStack) -> WorkerTask:
        """Start a worker, which is stopped at the end of the run."""
        worker = WorkerTask(client, self._workflows, channels=(), grace_seconds=GRACE_SECONDS)
        stack.push_async_callback(worker.stop, at_once=True)
        await worker.start()
        self._working = worker
        self._host.recorded_values = self._values
        return worker

    async def _continue(
        self, wire: CrashingWire, crashed: WorkerTask, stack: contextlib.AsyncExitStack
    ) -> None:
        """After the crash, let another worker continue: give it at once what the crashed one holds."""
        await wire.crashed.wait()
        await self._end_steps(wire, crashed)
        client = self._client
        await self._start(client, stack)
        store, worker = await client.store(), crashed.worker
        for prefix in store.prefixes:
            await store.wire.call("DEL", prefix + keys.TIMER_LEADER.encode())
        while True:
            for prefix, queue in itertools.product(store.prefixes, worker.queues):
                stream = prefix + keys.QUEUE.encode() + queue.encode()
                rows = await store.wire.call(
                    "XPENDING", stream, keys.GROUP, "-", "+", MOST_ENTRIES, worker.worker_id
                )
                if rows:
                    await store.queues.requeue(
                        prefix, queue, worker.worker_id, [row[0] for row in rows],
                        max_deliveries=worker.max_deliveries,
                    )  # fmt: skip
            await asyncio.sleep(PAUSE_SECONDS)  # its blocked read may still be given entries

    async def _end_steps(self, wire: CrashingWire, crashed: WorkerTask) -> None:
        """Let the steps that ran beside the crash end and be journaled, unless that takes long: they would
        run again, as they do after any crash, and a test's effects would depend on their speed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + RUNNING_SECONDS
        while loop.time() < end:
            running = {(raw(one.id), raw(key)) for one in crashed.worker.active for key in one.events.running}
            if running <= wire.unanswered:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        wire.is_cut = True

    async def _drive(self, handle: ExecutionHandle[Any]) -> None:
        """Answer, and skip time whenever all waits, until the execution has ended or is stuck."""
        clock = (await self._client.store()).clock
        while True:
            ahead = await skipping.idle(clock, self, (), math.inf)
            view = await self._client.get_execution(handle.id)
            if view["status"] in FINAL or view["stuck"] is not None:
                return
            opened = [*view["open_suspensions"], *view["open_suspensions_below"]]
            new = [one for one in opened if _opening(one) not in self._asked]
            for one in new:
                await self._answer(one)
            dues = [one.due_ms for one in ahead if one.due_ms is not None]
            if not new and not dues:
                at = await whereabouts(self._client, handle)
                raise AssertionError(f"nothing wakes execution {handle.id}: {at}")
            if not new:
                await skipping.skip_to(clock, self, ahead, min(dues))

    async def _answer(self, view: Any) -> None:
        key = view["step_key"]
        if key not in self._answers:
            raise AssertionError(
                f"suspension {key!r} has no answer: give it one, such as answers={{{key!r}: ...}}, or an "
                "async function that lets it time out"
            )
        self._asked.add(_opening(view))
        answer = self._answers[key]
        suspension = OpenSuspension(view["execution_id"], key, view["data"], view, self._client)
        if callable(answer):
            await answer(suspension)
        else:
            await suspension.answer(answer)

    async def _outcome(self, handle: ExecutionHandle[Any], effects: list[Any]) -> _RunEnd:
        """Returns how the run has ended, before the end of its workers."""
        view = await self._client.get_execution(handle.id)
        result, error = None, None
        stuck = "" if view["stuck"] is None else view["stuck"]["message"]
        if not stuck:
            try:
                result = await handle.result()
            except (ExecutionFailedError, ExecutionCancelledError) as raised:
                error = raised
        asked = {key for _, key, _ in self._asked}
        unused = [key for key in self._answers if key not in asked]
        return _RunEnd(result, error, stuck, view["unreached_steps"], list(effects), unused)


def _without(some: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Returns what some have beyond others, in any order."""
    left = list(some)
    for one in others:
        if one in left:
            left.remove(one)
    return left


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(repr, values))


def _opening(view: Suspension) -> tuple[str, str, int]:
    """A suspension of one run: `ctx.continue_as_new` and retries may open it again."""
    return view.execution_id, view.step_key, view.run
