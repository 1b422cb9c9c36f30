"""The activation: one pass of a workflow's code on a worker, from its queue entry to its end or its park.

The code runs from the top; `ctx` calls find their records in the journal, and new calls run and are
journaled. When the code returns, the execution finishes; when it waits, the execution is parked:

- at once, if the main task awaits every open wait and the code has started no other task;
- otherwise when the code is idle (see `idleness`).

The park script runs first. If a decision has come meanwhile, it returns that, and the code continues in
place. Otherwise the execution is parked, the code is cancelled, and anything it still does is discarded.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from polos_redis import tasks
from polos_redis.errors import PolosError, StepKeyError
from polos_redis.runtime.branches import BRANCH
from polos_redis.runtime.call_sites import CallSite, described
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.fenced_journal import FencedJournal, refusal
from polos_redis.runtime.host import Host
from polos_redis.runtime.idleness import IdleWatch
from polos_redis.runtime.lifecycle_events import LifecycleEvents
from polos_redis.runtime.outcome import Outcome, failed, outcome_of
from polos_redis.state import journal, keys
from polos_redis.state.executions import Loaded
from polos_redis.state.fencing import NO_SUCH_WAIT, Fence
from polos_redis.state.origin import Origin
from polos_redis.values import bounds, codec
from polos_redis.values.text import raw, text
from polos_redis.values.times import to_datetime_us

if TYPE_CHECKING:
    from polos_redis.definitions.definition import WorkflowDefinition
    from polos_redis.runtime.durable_state import DurableState

logger = logging.getLogger("polos.execution")

E = TypeVar("E", bound=BaseException)


T = TypeVar("T")


class State(Enum):
    """The state of an activation."""

    RUNNING = auto()
    PARKING = auto()  # the park script is running: new ctx calls wait for its reply
    FINISHING = auto()  # the code has returned; its outcome is being written
    ENDED = auto()


@dataclass(slots=True)
class Wait:
    """An open wait that the workflow's code awaits now."""

    future: asyncio.Future[bytes]
    by_main: bool


_nonces = itertools.count(1)  # a worker's id is random, so worker id and number make a unique owner
_origin_of_a_root = functools.lru_cache(
    Origin
)  # one object for all executions without people, session and parent


class Activation:
    """One activation; the worker creates it for a queue entry that was delivered after `lapses` of its lease.

    `waits`: the open waits its code awaits; `given_up`: those whose tasks the code has cancelled; `waited`:
    the resolved waits of this pass, each as (kind, ms), for metrics. `call_sites`: the step keys used so far;
    `passed_over`: step keys that this replay need not reach. `in_flight`: the number of running ctx calls.
    `held_back`: why it can't go on, once it has met a stored value that can't be read.
    """

    __slots__ = (
        "_created_at",
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
        "held_back",
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
        lapses: int,
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
        self.journal = FencedJournal(host, self.fence, self.code, self, lapses=lapses)
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
        self.held_back = ""
        self._created_at: datetime | None = None
        self._fatal: BaseException | None = None
        self._gate: asyncio.Event | None = None
        self._may_retry = True
        self._notices: dict[str, bytes] = {}
        self._outcome: asyncio.Task[Any] | None = None
        self._watch: IdleWatch | None = None

    # --- the start -----------------------------------------------------------------------

    def start(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start the workflow's code."""
        self.events.started_at = self.loop.time()
        self.code.start(call, self._code_done)
        if logger.isEnabledFor(logging.INFO):
            logger.info("start", extra={"execution": self.id, "workflow": self.workflow.id, "run": self.run})

    def take(self, loaded: Loaded, epoch: int, lapses: int) -> None:
        """Continue an execution that was started before, as loaded on this connection after so many lapses of
        the lease."""
        self.journal.take(loaded, epoch, lapses)
        self.events.start_emitted = loaded.started

    def take_inlined(self, records: dict[bytes, bytes]) -> None:
        """Continue an execution with the journal inlined in its queue entry."""
        self.journal.take_inlined(records)
        self.events.start_emitted = True

    def fail_before_start(self, error: BaseException) -> None:
        """Fail the execution without running its code: its input can't be read or does not fit."""

        self._may_retry = False  # it would fail again

        async def refuse() -> NoReturn:
            raise error

        self.start(refuse)

    @property
    def started(self) -> bool:
        """Whether the code was started; until then the journal is not loaded."""
        return self.code.main is not None

    async def created_at(self) -> datetime:
        """When the execution was created, to the microsecond: with its id, what no other execution has. Read
        on first use, since queue entries don't carry it."""
        if self._created_at is None:
            executions = self.host.store.executions
            (created,) = await self.journal.ask(lambda: executions.read_fields(self.id, "created"))
            self._created_at = to_datetime_us(int(created or 0))  # 0: deleted, so nothing will be written
        return self._created_at

    # --- calls of ctx -------------------------------------------------------------------

    def may_start(self) -> bool:
        """Whether a ctx call may start right now; if not, it has to pass the gate first."""
        return (
            self.state is State.RUNNING
            and not self.held_back
            and not self.host.draining
            and self.journal.held
        )

    def _check_key(self, key: Any, call_site: CallSite) -> None:
        try:
            keys.check_text("a step key", key, keys.LONGEST_STEP_KEY, error=StepKeyError)
        except StepKeyError as error:
            raise self.stop_with(StepKeyError(f"{error} (at {described(call_site)})")) from None

    def register(self, key: str, call_site: CallSite) -> bytes | None:
        """Start a ctx call; returns the record of its key if it is journaled. Raises `StepKeyError` for an
        invalid or used key."""
        self.touches += 1
        if self._fatal is not None:
            raise self._fatal  # the code caught it, but no further call starts
        if not isinstance(key, str) or not 0 < len(key) <= keys.LONGEST_STEP_KEY // 4:
            self._check_key(key, call_site)
        if key in self.call_sites:
            raise self.stop_with(
                StepKeyError(
                    f"step key {key!r} is used twice in one execution, at {described(self.call_sites[key])} "
                    f"and at {described(call_site)}: give every step of an execution its own key"
                )
            )
        self.call_sites[key] = call_site
        branch = BRANCH.get()
        if branch is not None:
            branch.note(key)
        return self.journal.records.get(raw(key))

    async def pass_gate(self, *, in_flight: bool = False) -> None:
        """Wait until a call may start: for the park's reply or a fresh lease; `in_flight`: the call counts as
        such. Leaves if the activation is over."""
        while not self.may_start():
            self.touches += 1
            if self.state is State.PARKING:
                if self._gate is None:
                    self._gate = asyncio.Event()
                await self._gate.wait()
            elif self.over:
                await self.code.leave()
            elif self.held_back:
                self.in_flight -= in_flight
                await self.stay_back()
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
        """Whether whatever the code still does is discarded."""
        return self.state is State.ENDED or self.state is State.FINISHING

    def landed(self) -> None:
        """Note that a ctx call is no longer in flight; the code may be idle now."""
        self.in_flight -= 1
        self._leave_if_held_back()
        self._arm()

    async def check(self, value: Any, work: bounds.Work[T]) -> T:
        """Run a check of a value from outside, in turns if the value is large. The code is busy meanwhile."""
        if bounds.is_small(value):
            return bounds.at_once(work)
        self.in_flight += 1
        try:
            return await bounds.in_turns(work)
        finally:
            self.landed()

    def hold_back(self, what: str, error: PolosError) -> None:
        """Stop at a stored value that can't be read here, and offer the execution again later: a deployment
        may read it. Nothing is failed or counted. Steps in flight may finish; nothing else starts."""
        if self.held_back or self.state is State.ENDED:
            return
        self.held_back = f"{what}: {error}"
        extra = {"execution": self.id, "workflow": self.workflow.id, "why": self.held_back}
        logger.error("held back", extra=extra)
        self._leave_if_held_back()

    async def stay_back(self) -> NoReturn:
        """Wait for the end of an activation that is held back."""
        self._leave_if_held_back()
        await self.loop.create_future()
        raise AssertionError("nobody resolves this future")

    def _leave_if_held_back(self) -> None:
        if self.held_back and self.in_flight == 0 and self.state is not State.ENDED:
            self.host.stats.dropped[self.workflow.id] += 1
            self.host.hand_back(self, pause=True, reason=self.held_back)
            self.end("held back")

    def stop_with(self, error: E) -> E:
        """Make the execution fail with this error, even if the workflow catches it; returns the error."""
        self._fatal = self._fatal or error
        return error

    async def emit(self, event_type: str, value: Any) -> None:
        """Emit an event of this execution now, at least once. The write is fenced: a worker that lost the
        execution emits nothing."""
        events = self.events.custom(event_type, codec.encode(value, limit=self.host.value_limit))
        write = self.host.store.fenced.write
        await self.journal.commit(b"", b"", lambda known: write(self.fence, known, b"", b"", events))

    def tick(self, now: float) -> None:
        """Emit the starts of long-running steps; the worker calls this every 20 ms."""
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

    def notify(self, key: str, record: bytes, answer: int = 0) -> None:
        """Receive the decision of a wait: from a notice, a park, or the journal when it is read again. The
        notice of an accepted `answer` has its number, see `FencedJournal.heard_answer`."""
        if answer:
            self.journal.heard_answer(answer)
        if journal.is_open(record):
            return
        wait = self.waits.get(key)
        if wait is None:
            before = self.journal.records.get(raw(key))
            if before is None or journal.is_open(before):  # otherwise the decision is known already
                self._notices[key] = record  # the code may be about to wait for it
            return
        if wait.future.done():
            return
        self.journal.records[raw(key)] = record
        self.touches += 1
        wait.future.set_result(record)

    def reread(self, loaded: Loaded) -> None:
        """Receive the decisions in a journal that was read again."""
        self.events.start_emitted = self.events.start_emitted and loaded.started
        for key in list(self.waits):
            self.notify(key, self.journal.records[raw(key)])

    def _cancel_waits(self) -> None:
        for wait in self.waits.values():
            wait.future.cancel("the activation has ended")

    # --- parking ------------------------------------------------------------------------

    def _arm(self) -> None:
        """Watch for idleness if there is a wait to park at."""
        if self.waits and self.state is State.RUNNING:
            if self._watch is None:
                self._watch = IdleWatch(self, self.loop)
            self._watch.arm()

    def may_park(self) -> bool:
        """Whether the code runs, has an open wait and no ctx call in flight."""
        return self.state is State.RUNNING and bool(self.waits) and not self.in_flight

    def park(self) -> None:
        """Park, unless all waits have been decided meanwhile and their tasks are about to continue."""
        if not all(wait.future.done() for wait in self.waits.values()):
            self.state = State.PARKING
            self.host.spawn(self._parking())

    async def _parking(self) -> None:
        try:
            await self._send_park()
        except Exception as error:
            logger.exception("could not park", extra={"execution": self.id})
            self.dropped(f"could not park: {type(error).__name__}", pause=True)

    async def _send_park(self) -> None:
        waits = [raw(key) for key in self.waits]
        given_up = [raw(key) for key in self.given_up]
        try:
            state = b"" if self.durable_state is None else self.durable_state.pack()
        except BaseException as error:  # a property of the state may raise anything
            self.stop_with(error)
            assert self.code.main is not None
            self._finish(self._outcome_of(self.code.main))
            return
        park = self.host.store.fenced.park
        try:
            reply = await self.journal.leave(
                lambda known, answers: park(self.fence, known, answers, state, given_up, waits)
            )
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
        elif reply > 0:
            self._unpark([])
        else:
            self.dropped(refusal(reply), pause=reply == NO_SUCH_WAIT)

    def _unpark(self, reply: list[bytes]) -> None:
        """Continue in place with the decisions that came before the park: [.., step key, record, ...]; none
        if the journal was read again."""
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
        if self.held_back and self.state is State.RUNNING:
            self._leave_if_held_back()
        elif self.state is State.RUNNING:
            self._finish(self._outcome_of(task))
        elif self.state is State.PARKING:
            self._outcome = task  # its outcome, if the park is refused
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
        """Continue a failed execution as a new run, if its workflow has `retries` left."""
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
                "failed, continues as a new run",
                extra={"execution": self.id, "run": run, "delay_ms": delay_ms},
            )
            self.end("auto-retried")

    def _finished(self, outcome: Outcome, here: bool) -> None:
        """End after the execution has ended, `here` or by an earlier write whose reply was lost."""
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
        """End without writing to the store, and hand the queue entry back; after a pause if an immediate
        retry would only be refused again."""
        if self.state is not State.ENDED:
            logger.warning("dropped", extra={"execution": self.id, "why": why})
            self.host.stats.dropped[self.workflow.id] += 1
            self.host.hand_back(self, pause=pause)
            self.end(why)

    def end(self, how: str) -> None:
        """End the activation: free its slot at once, then cancel its code and discard what it still does."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self.ended_as = how
        self.host.released(self)
        self._open_gate()
        self._watch = None
        self.journal.close()
        self.code.end(self._cancel_waits)
