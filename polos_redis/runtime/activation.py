"""The activation: one pass of a workflow's code on a worker, from its queue entry to its end or its park.

The code runs from the top; `ctx` calls find their records in the journal, and what is new runs and is
journaled. Then the code has returned and the execution finishes, or it waits and is parked:

- at once, if every open wait is awaited by the main task and the code has started no other task;
- else when the code is idle (see `idleness`).

The park script goes first, as a decision may have come: then it answers with that, and the code goes on in
place. Only when it has parked the execution is the code cancelled and what it still does discarded.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NoReturn

from polos_redis import tasks
from polos_redis.errors import PolosError, StepKeyError, StoredValueError
from polos_redis.runtime.branches import BRANCH
from polos_redis.runtime.call_sites import CallSite, described
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.fenced_journal import FencedJournal, refusal
from polos_redis.runtime.host import Host
from polos_redis.runtime.idleness import IdleWatch
from polos_redis.runtime.lifecycle_events import LifecycleEvents
from polos_redis.runtime.outcome import Outcome, failed, outcome_of
from polos_redis.state import journal
from polos_redis.state.executions import Loaded
from polos_redis.state.fencing import NO_SUCH_WAIT, Fence
from polos_redis.state.origin import Origin
from polos_redis.values import codec
from polos_redis.values.text import raw, text

if TYPE_CHECKING:
    from polos_redis.definitions.definition import WorkflowDefinition
    from polos_redis.runtime.durable_state import DurableState

logger = logging.getLogger("polos.execution")


class State(Enum):
    """Where an activation stands."""

    RUNNING = auto()
    PARKING = auto()  # the park script is under way: new ctx calls wait for its reply
    FINISHING = auto()  # the code has returned; its result is on the way
    ENDED = auto()


@dataclass(slots=True)
class Wait:
    """An open wait that the workflow's code awaits now."""

    future: asyncio.Future[bytes]
    by_main: bool


_nonces = itertools.count(1)  # a worker's id is random, so worker id and number make a unique owner
_origin_of_a_root = functools.lru_cache(Origin)  # the same for every execution without another


class Activation:
    """One activation; the worker creates it for a delivered queue entry.

    `waits`: the open waits its code awaits; `given_up`: those whose tasks the code has cancelled; `waited`:
    decided waits the code has come past, each as (kind, ms), for metrics. `call_sites`: the step keys used so
    far; `passed_over`: step keys that this replay rightly does not reach. `in_flight`: ctx calls at work.
    """

    __slots__ = (
        "_fatal",
        "_gate",
        "_may_retry",
        "_notices",
        "_outcome",
        "_watch",
        "call_sites",
        "code",
        "durable_state",
        "ended_as",
        "events",
        "fence",
        "given_up",
        "host",
        "id",
        "in_flight",
        "journal",
        "loop",
        "origin",
        "passed_over",
        "queue",
        "root",
        "run",
        "state",
        "touches",
        "waited",
        "waits",
        "workflow",
    )

    def __init__(
        self,
        host: Host[Activation],
        workflow: WorkflowDefinition[Any, Any],
        execution_id: str,
        entry: bytes,
        run: int,
        queue: str,
    ) -> None:
        self.host = host
        self.workflow = workflow
        self.id = execution_id
        self.queue = queue
        self.run = run
        self.root = execution_id.partition(".")[0]
        owner = f"{host.worker_id}:{next(_nonces)}".encode()
        self.fence = Fence(host.store.partitions.prefix(execution_id), execution_id.encode(), entry, owner)
        self.loop = asyncio.get_running_loop()
        self.code = CodeTasks(execution_id, self.loop)
        self.events = LifecycleEvents(workflow.id, execution_id)
        self.journal = FencedJournal(host, self.fence, self.code, self)
        self.state = State.RUNNING
        self.ended_as = ""
        self.origin = _origin_of_a_root(workflow.id)
        self.durable_state: DurableState | None = None
        self.given_up: set[str] = set()
        self.passed_over: set[str] = set()
        self.call_sites: dict[str, CallSite] = {}
        self.waits: dict[str, Wait] = {}
        self.waited: list[tuple[str, int]] = []
        self.in_flight = 0
        self.touches = 0
        self._fatal: PolosError | None = None
        self._gate: asyncio.Event | None = None
        self._may_retry = True
        self._notices: dict[str, bytes] = {}
        self._outcome: asyncio.Task[Any] | None = None
        self._watch: IdleWatch | None = None

    # --- beginning ----------------------------------------------------------------------

    def start(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start the workflow's code."""
        self.events.started_at = self.loop.time()
        self.code.start(call, self._code_done)
        if logger.isEnabledFor(logging.INFO):
            logger.info("start", extra={"execution": self.id, "workflow": self.workflow.id, "run": self.run})

    def take(self, loaded: Loaded, epoch: int) -> None:
        """Take what the store knows of an execution that was begun before, loaded on this connection."""
        self.journal.take(loaded, epoch)
        self.events.start_emitted = loaded.started

    def take_along(self, records: dict[bytes, bytes]) -> None:
        """Take the journal that came with the queue entry of a wake-up."""
        self.journal.take_along(records)
        self.events.start_emitted = True

    def fail_before_start(self, error: BaseException) -> None:
        """Fail the execution without running its code: its input can't be read or does not fit."""

        self._may_retry = False  # it would be refused again

        async def refuse() -> NoReturn:
            raise error

        self.start(refuse)

    @property
    def started(self) -> bool:
        """Whether the code has been started: before, what the store knows is not known here."""
        return self.code.main is not None

    # --- calls of ctx -------------------------------------------------------------------

    def may_start(self) -> bool:
        """Whether a ctx call may begin right now; else it has to pass the gate first."""
        return (
            self.state is State.RUNNING
            and not self.host.draining
            and self.host.lease_is_fresh(self.fence.prefix)
        )

    def register(self, key: str, call_site: CallSite) -> bytes | None:
        """Begin a ctx call: refuse a used key; returns the key's record if it is journaled."""
        self.touches += 1
        if self._fatal is not None:
            raise self._fatal  # it was caught: nothing more begins all the same
        if not isinstance(key, str) or not key:
            raise self.stop_with(
                StepKeyError(
                    f"a step key is a string that is not empty, not {key!r} (at {described(call_site)})"
                )
            )
        if key in self.call_sites:
            raise self.stop_with(
                StepKeyError(
                    f"step key {key!r} is used twice in one execution, at {described(self.call_sites[key])} "
                    f"and at {described(call_site)}: every step of an execution needs a key of its own"
                )
            )
        self.call_sites[key] = call_site
        branch = BRANCH.get()
        if branch is not None:
            branch.note(key)
        return self.journal.records.get(raw(key))

    async def pass_gate(self) -> None:
        """Before something new begins: wait while parking, for a fresh lease, or leave when it is over."""
        while not self.may_start():
            self.touches += 1
            if self.state is State.PARKING:
                if self._gate is None:
                    self._gate = asyncio.Event()
                await self._gate.wait()
            elif self.over:
                await self.code.leave()
            elif self.host.draining:
                self.host.hand_back(self)
                self.end("handed back")
            else:
                await self.host.wait_for_lease(self.fence.prefix)
                try:
                    await self.journal.verify()
                except PolosError as error:
                    self.dropped(f"it can't be loaded: {error}", pause=True)

    @property
    def over(self) -> bool:
        """Whether nothing that the code does counts any more."""
        return self.state is State.ENDED or self.state is State.FINISHING

    def landed(self) -> None:
        """A ctx call is no longer in flight; the code may be idle now."""
        self.in_flight -= 1
        self._arm()

    def stop_with(self, error: PolosError) -> PolosError:
        """Make the execution fail with this error, whatever the workflow catches; returns it."""
        self._fatal = self._fatal or error
        return error

    async def emit(self, event_type: str, value: Any) -> None:
        """Emit an event of this execution now, at least once. The write is fenced: a worker that has lost the
        execution emits nothing more."""
        events = self.events.custom(event_type, codec.encode(value, limit=self.host.value_limit))
        write = self.host.store.fenced.write
        await self.journal.commit(b"", b"", lambda known: write(self.fence, known, b"", b"", events))

    def tick(self, now: float) -> None:
        """Emit the starts of what has lasted a while; the worker calls this every 20 ms."""
        if self.state is State.RUNNING and self.started and self.journal.current:
            self.journal.emit(self.events.overdue(now))

    # --- waits --------------------------------------------------------------------------

    async def wait(self, key: str) -> bytes:
        """Wait for the decision of an open wait; returns its record."""
        wait = Wait(self.loop.create_future(), asyncio.current_task() is self.code.main)
        self.waits[key] = wait
        notice = self._notices.pop(key, None)
        if notice is not None:
            self.notify(key, notice)
        elif self.in_flight == 0 and not self.code.spawned and all(w.by_main for w in self.waits.values()):
            self.park()
        else:
            self._arm()
        try:
            return await wait.future
        except asyncio.CancelledError:
            if not self.over:
                self.given_up.add(key)
            raise
        finally:
            if self.waits.get(key) is wait:
                del self.waits[key]
            self.touches += 1

    def notify(self, key: str, record: bytes) -> None:
        """A decision reaches this activation: by a notice, a park, or reading the journal again."""
        if journal.is_open(record):
            return
        wait = self.waits.get(key)
        if wait is None:
            before = self.journal.records.get(raw(key))
            if before is None or journal.is_open(before):  # else it comes late: the decision is known
                self._notices[key] = record  # the code may be about to wait for it
            return
        if wait.future.done():
            return
        self.journal.records[raw(key)] = record
        self.touches += 1
        wait.future.set_result(record)

    def reread(self, loaded: Loaded) -> None:
        """The journal was read again: take the decisions that have come."""
        self.events.start_emitted = self.events.start_emitted and loaded.started
        for key in list(self.waits):
            self.notify(key, self.journal.records[raw(key)])

    def _cancel_waits(self) -> None:
        for wait in self.waits.values():
            wait.future.cancel("the activation has ended")

    # --- parking ------------------------------------------------------------------------

    def _arm(self) -> None:
        """Park when the code is idle, if there is a wait to park at."""
        if self.waits and self.state is State.RUNNING:
            if self._watch is None:
                self._watch = IdleWatch(self, self.loop)
            self._watch.arm()

    def may_park(self) -> bool:
        """Whether the code runs, has an open wait and no ctx call in flight."""
        return self.state is State.RUNNING and bool(self.waits) and not self.in_flight

    def park(self) -> None:
        """Park, unless all waits have been decided meanwhile: their tasks are about to go on."""
        if not all(wait.future.done() for wait in self.waits.values()):
            self.state = State.PARKING
            self.host.spawn(self._parking())

    async def _parking(self) -> None:
        try:
            await self._ask_to_park()
        except Exception as error:
            logger.exception("could not park", extra={"execution": self.id})
            self.dropped(f"could not park: {type(error).__name__}", pause=True)

    async def _ask_to_park(self) -> None:
        waits = [raw(key) for key in self.waits]
        given_up = [raw(key) for key in self.given_up]
        try:
            state = b"" if self.durable_state is None else self.durable_state.pack()
        except StoredValueError as error:
            self.stop_with(error)
            assert self.code.main is not None
            self._finish(self._outcome_of(self.code.main))
            return
        park = self.host.store.fenced.park
        try:
            reply = await self.journal.reply_to(lambda known: park(self.fence, known, state, given_up, waits))
        except PolosError as error:
            self.dropped(f"park refused: {error}", pause=True)
            return
        if self.state is State.ENDED:
            return
        if type(reply) is not int:
            self._unpark(reply)
        elif reply == 0:
            logger.info(
                "park", extra={"execution": self.id, "workflow": self.workflow.id, "waits": [*self.waits]}
            )
            self.host.stats.parks[self.workflow.id] += 1
            self.end("parked")
        else:
            self.dropped(refusal(reply), pause=reply == NO_SUCH_WAIT)

    def _unpark(self, reply: list[bytes]) -> None:
        """Go on in place with the decisions that came before the park: [.., step key, record, ...]."""
        self.state = State.RUNNING
        self._open_gate()
        for key, record in zip(reply[1::2], reply[2::2], strict=True):
            self.notify(text(key), record)
        if self._outcome is not None:
            self._finish(self._outcome_of(self._outcome))
        else:
            self._arm()

    def _open_gate(self) -> None:
        if self._gate is not None:
            self._gate.set()
            self._gate = None

    # --- the end ------------------------------------------------------------------------

    def _code_done(self, task: asyncio.Task[Any]) -> None:
        tasks.mark_retrieved(task)
        if self.state is State.RUNNING:
            self._finish(self._outcome_of(task))
        elif self.state is State.PARKING:
            self._outcome = task  # this is how it ended, if the park does not happen
        elif self.state is State.ENDED:
            self.code.cancel_spawned()

    def _outcome_of(self, task: asyncio.Task[Any]) -> Outcome:
        if self._fatal is not None:
            return failed(self._fatal, self.durable_state, self.run)
        return outcome_of(task, self.durable_state, self.run, self.host.value_limit)

    def _finish(self, outcome: Outcome) -> None:
        self.state = State.FINISHING
        outcome.events = self.events.first()
        outcome.unreached = self.journal.unreached(self.call_sites, self.passed_over)
        if outcome.unreached and outcome.status == "completed":
            logger.warning(
                "journaled steps were not reached",
                extra={"execution": self.id, "steps": [text(name) for name in outcome.unreached]},
            )
        if outcome.status == "failed" and self._may_retry and self.workflow.retries:
            self.host.spawn(self._auto_retry(outcome))
        else:
            self.journal.finish(outcome, self._finished)

    async def _auto_retry(self, outcome: Outcome) -> None:
        """Let a failed execution go on as a new run, if its workflow has `retries` left."""
        times, delay_ms = self.workflow.retries, int(self.workflow.retry_delay * 1000)
        auto_retry = self.host.store.fenced.auto_retry
        try:
            run = await self.journal.reply_to(
                lambda known: auto_retry(self.fence, known, outcome.value, times, delay_ms, outcome.events)
            )
        except PolosError as error:
            self.dropped(f"retry refused: {error}", pause=True)
            return
        if run == 0:
            self.journal.finish(outcome, self._finished)
        elif run < 0:
            self.dropped(refusal(run))
        else:
            logger.warning(
                "failed, goes on as a new run", extra={"execution": self.id, "run": run, "delay_ms": delay_ms}
            )
            self.end("tried again")

    def _finished(self, outcome: Outcome, here: bool) -> None:
        """The execution has ended, `here` or by a write that was not known to have succeeded."""
        if here:
            if logger.isEnabledFor(logging.INFO):
                extra = {"execution": self.id, "workflow": self.workflow.id, "status": outcome.status}
                logger.info("finish", extra=extra)
            stats = self.host.stats
            stats.ended[self.workflow.id, outcome.status] += 1
            for kind, ms in self.waited:
                stats.waits[kind].add(ms / 1000)
        self.end("finished")

    def dropped(self, why: str, *, pause: bool = False) -> None:
        """End without a trace in the store, but for handing back what may still be pending here; after a
        pause, where trying again at once would only be refused again."""
        if self.state is not State.ENDED:
            logger.warning("dropped", extra={"execution": self.id, "why": why})
            self.host.stats.dropped[self.workflow.id] += 1
            self.host.hand_back(self, pause=pause)
            self.end(why)

    def end(self, how: str) -> None:
        """It is over here: free the slot at once, then end what is left of the code, and discard it."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self.ended_as = how
        self.host.released(self)
        self._open_gate()
        self._watch = None
        self.journal.close()
        self.code.end(self._cancel_waits)
