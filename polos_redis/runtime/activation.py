"""The activation: one pass of a workflow's code on a worker, from its queue entry to its end or its park.

The code runs from the top; `ctx` calls find their records in the journal, and new calls run and are
journaled. When the code returns, the execution finishes; when it waits, the execution is parked (see
`parking`).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from polos_redis import tasks
from polos_redis.definitions.exhausted import PAUSE
from polos_redis.definitions.parameters import underlying
from polos_redis.definitions.unreached import IGNORE, STOP
from polos_redis.errors import JournalFullError, NotAwaitedError, PolosError, StepKeyError
from polos_redis.runtime.branches import BRANCH
from polos_redis.runtime.call_sites import CallSite, described
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.failure_log import log_failure
from polos_redis.runtime.fenced_journal import FencedJournal, refusal
from polos_redis.runtime.gate import Gate, State
from polos_redis.runtime.holding import Hold, named
from polos_redis.runtime.host import Host
from polos_redis.runtime.lifecycle_events import LifecycleEvents
from polos_redis.runtime.outcome import Outcome, failed, outcome_of
from polos_redis.runtime.parking import Parking
from polos_redis.runtime.progress import Progress, Report
from polos_redis.runtime.replay import Replay
from polos_redis.runtime.spans import activation_span, note_span
from polos_redis.state import journal, keys
from polos_redis.state.executions import Loaded
from polos_redis.state.fencing import Fence
from polos_redis.state.origin import Origin
from polos_redis.state.stored_errors import parse_error
from polos_redis.state.stuck import EXHAUSTED, StuckReason
from polos_redis.values import bounds, codec
from polos_redis.values.text import raw, text

if TYPE_CHECKING:
    from polos_redis.definitions.definition import WorkflowDefinition
    from polos_redis.runtime.durable_state import DurableState

logger = logging.getLogger("polos.execution")

E = TypeVar("E", bound=BaseException)


T = TypeVar("T")


_making_progress = threading.Lock()
_nonces = itertools.count(1)  # a worker's id is random, so worker id and number make a unique owner
_origin_of_a_root = functools.lru_cache(
    Origin
)  # one object for all executions without people, session and parent


class Activation:
    """One activation; the worker creates it for a queue entry that was delivered after `lapses` of its lease.

    `waited`: the resolved waits of this pass, each as (kind, ms), for metrics. `call_sites`: the step keys
    used so far; `passed_over`: step keys that this replay need not reach; `unreached`: those of accepted
    decisions that it has to reach before it does anything new, see `holding`. `in_flight`: the number of
    running ctx calls; `staying`: that of calls which wait to be cancelled as they were before; `touches`: the
    uses of ctx by the code so far.
    """

    __slots__ = (
        "_fatal",
        "_hold",
        "_log_next_run",
        "_may_retry",
        "call_sites",
        "code",
        "durable_state",
        "ended_as",
        "events",
        "fence",
        "gate",
        "host",
        "id",
        "in_flight",
        "journal",
        "loop",
        "origin",
        "parking",
        "passed_over",
        "progress",
        "queue",
        "root",
        "run",
        "state",
        "staying",
        "touches",
        "unreached",
        "waited",
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
        self.code = CodeTasks(execution_id, workflow.id, self.loop)
        self.events = LifecycleEvents(workflow.id, execution_id)
        self.journal = FencedJournal(host, self.fence, self.code, self, lapses=lapses)
        self.gate = Gate(self)
        self.parking = Parking(self)
        self.state = State.RUNNING
        self.ended_as = ""
        self.origin = _origin_of_a_root(workflow.id)
        self.durable_state: DurableState | None = None
        self.progress: Progress | None = None
        self.passed_over: set[str] = set()
        self.unreached: set[str] = set()
        self.call_sites: dict[str, CallSite] = {}
        self.waited: list[tuple[str, int]] = []
        self.in_flight = 0
        self.staying = 0
        self.touches = 0
        self._fatal: BaseException | None = None
        self._hold: Hold | None = None
        self._may_retry = True
        self._log_next_run: Callable[[], None] | None = None

    # --- the start -----------------------------------------------------------------------

    def start(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start the workflow's code."""
        self.events.started_at = self.loop.time()
        if self.host.tracer is not None:
            self.code.span = activation_span(self.host.tracer, self)
        self.code.start(call, self._code_done)
        if logger.isEnabledFor(logging.INFO):
            logger.info("start", extra={**self.code.facts, "run": self.run})

    def take(self, loaded: Loaded, epoch: int, lapses: int) -> None:
        """Continue an execution that was started before. It was loaded on the connection `epoch`, after
        `lapses` lapses of the lease."""
        self.journal.take(loaded, epoch, lapses)
        self._repeat()
        self.events.start_emitted = loaded.started
        if loaded.heartbeats:
            self.progress = Progress(loaded.heartbeats)
        self._look()

    def take_inlined(self, records: dict[bytes, bytes]) -> None:
        """Continue an execution with the journal inlined in its queue entry."""
        self.journal.take_inlined(records)
        self._repeat()
        self.events.start_emitted = True
        self._look()

    def _repeat(self) -> None:
        if self.journal.records:
            self.code.replay = Replay(self, int(self.fence.entry.partition(b"-")[0]))

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

    # --- calls of ctx -------------------------------------------------------------------

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
        if self.unreached:
            self._reach((key,))
        branch = BRANCH.get()
        if branch is not None:
            branch.note(key)
        known = self.journal
        stored = known.records.get(raw(key))
        if stored is None:
            known.expected += 1
            if known.expected > known.notable:
                self._check_length(key, call_site)
        return stored

    def touch(self) -> None:
        """Note a use of ctx by the code. Raises the error that stops the execution, if there is one."""
        self.touches += 1
        if self._fatal is not None:
            raise self._fatal

    def expect(self, records: int, key: str, call_site: CallSite) -> None:
        """Note that a new call adds further records to the journal. Raises `JournalFullError` when these are
        too many."""
        self.journal.expected += records
        if self.journal.expected > self.journal.notable:
            self._check_length(key, call_site)

    def _check_length(self, key: str, call_site: CallSite) -> None:
        """Warn once that the journal is long, and stop the execution when it is full."""
        records, limit = self.journal.expected, self.host.max_journal_records
        if records > limit:
            self._may_retry = False  # it would be full again
            raise self.stop_with(JournalFullError(key, described(call_site), records, limit))
        self.journal.notable = limit
        extra = {**self.code.facts, "records": records, "limit": limit}
        logger.warning(
            "the journal is long: call ctx.continue_as_new, or let children do parts of the work", extra=extra
        )

    def may_start(self) -> bool:
        """Whether a ctx call, a new one too, may start right now."""
        return self.gate.is_open() and not (self.unreached or self.parking.given_up)

    @property
    def over(self) -> bool:
        """Whether whatever the code still does is discarded."""
        return self.state is State.ENDED or self.state is State.FINISHING

    def landed(self) -> None:
        """Note that a ctx call is no longer in flight; the code may be idle now."""
        self.in_flight -= 1
        if self.gate.held_back:
            self.gate.leave_if_held_back()
        if self.parking.waits:
            self.parking.arm()

    async def check(self, value: Any, work: bounds.Work[T]) -> T:
        """Run a check of a value from outside, in turns if the value is large. The code is busy meanwhile."""
        if bounds.is_small(value):
            return bounds.at_once(work)
        self.in_flight += 1
        try:
            return await bounds.in_turns(work)
        finally:
            self.landed()

    def stop_with(self, error: E) -> E:
        """Make the execution fail with this error, even if the workflow catches it; returns the error."""
        self._fatal = self._fatal or error
        return error

    async def emit(self, event_type: str, value: Any) -> None:
        """Emit an event of this execution now, at least once. The write is fenced: a worker that lost the
        execution emits nothing."""
        events = self.events.custom(event_type, codec.encode(value, limit=self.host.value_limit))
        write = self.host.store.fenced.write
        await self.journal.commit(b"", b"", lambda known: write(self.fence, known, b"", b"", b"", events))

    def tick(self, now: float) -> None:
        """Emit the starts of long-running steps, and their progress; the worker calls this every 20 ms."""
        if self.state is State.RUNNING and self.started and self.journal.current:
            overdue = self.events.overdue(now)
            if overdue is not None:
                self.journal.note_starts(*overdue)
            if self.progress is not None:
                reports = self.progress.due(now, self.events.running)
                if reports:
                    self._write_progress(self.progress, reports)

    def _write_progress(self, progress: Progress, reports: Sequence[Report]) -> None:
        def written(future: asyncio.Future[int]) -> None:
            if future.cancelled() or future.exception() is not None:
                progress.write_again(reports)

        future = self.journal.note_progress([report.row() for report in reports])
        future.add_done_callback(written, context=tasks.OUTSIDE)

    def progress_of_steps(self) -> Progress:
        """Returns the progress that its steps report, from the first report on. Any thread may call it."""
        with _making_progress:
            if self.progress is None:
                self.progress = Progress()
            return self.progress

    # --- decisions ----------------------------------------------------------------------

    def notify(self, key: str, record: bytes, answer: int = 0) -> None:
        """Receive the notice of a decision. That of an accepted `answer` has its number, see
        `FencedJournal.heard_answer`."""
        if answer:
            self.journal.heard_answer(answer)
            if self.must_reach(key):
                self.unreached.add(key)
        self.parking.notify(key, record)

    def reread(self, loaded: Loaded) -> None:
        """Receive the decisions in a journal that was read again."""
        self.events.start_emitted = self.events.start_emitted and loaded.started
        self._look()
        self.parking.reread(self.journal.records)

    def _look(self) -> None:
        """Note the accepted decisions in the journal that the code has not reached."""
        found = journal.accepted(self.journal.records)
        if found:
            self.unreached.update(filter(self.must_reach, found))

    def must_reach(self, key: str) -> bool:
        """Whether this key, if it is journaled, is one that the code has yet to reach."""
        return key not in self.call_sites and key not in self.passed_over

    def pass_over(self, keys: Collection[str]) -> None:
        """Note step keys that the code need not reach, as it has reached what came of them."""
        self.passed_over.update(keys)
        if self.unreached:
            self._reach(keys)

    def _reach(self, keys: Collection[str]) -> None:
        self.unreached.difference_update(keys)
        if self._hold is not None and not self.unreached:
            self._hold.release()
            self._hold = None
            self.loop.call_soon(self._go_on, context=tasks.OUTSIDE)

    def _go_on(self) -> None:
        """Park or finish, if that was held back."""
        if self.state is State.RUNNING and not self.gate.held_back and self.code.main is not None:
            if self.code.main.done():
                self._finish()
            else:
                self.parking.arm()

    async def reach_decisions(self, call_site: CallSite, *, in_flight: bool = False) -> None:
        """Hold a call back until the code has reached every accepted decision; `in_flight`: the call counts
        as such."""
        if in_flight:
            self.landed()
        try:
            while self.unreached:
                await self._holding(described(call_site)).wait()
                if not self.gate.is_open():
                    await self.gate.passed()
        finally:
            self.in_flight += in_flight

    def hold_park(self, key: str) -> None:
        """Hold the park at this wait back until the code has reached every accepted decision."""
        self._holding(described(self.call_sites[key]))

    def _holding(self, at: str) -> Hold:
        if self._hold is None:
            self._hold = Hold(self, at)
        return self._hold

    @property
    def holds(self) -> bool:
        """Whether the park or the end is held back, if anything is."""
        return bool(self.parking.waits) or (self.code.main is not None and self.code.main.done())

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that may let the code go on."""
        return self.in_flight > 0 or (self.staying > 0 and not self.code.is_done)

    @property
    def is_waiting(self) -> bool:
        """Whether the code waits for decisions, of open waits or to be reached."""
        return bool(self.parking.waits) or self._hold is not None

    def continued(self) -> None:
        """Continue in place: a decision came before the park, or the journal was read again."""
        self.state = State.RUNNING
        self.gate.open()
        self._go_on()

    async def give_up(self) -> None:
        """Journal which waits the code has given up, before it does anything new."""
        keys, self.parking.given_up = self.parking.given_up, set()
        if not keys:
            return
        names, give_up = [raw(key) for key in keys], self.host.store.fenced.give_up
        self.in_flight += 1
        try:
            await self.journal.commit(b"", b"", lambda known: give_up(self.fence, known, names))
        except asyncio.CancelledError:
            if not self.over:
                self.parking.given_up |= keys
            raise
        finally:
            self.landed()

    def saved_state(self) -> bytes | None:
        """Returns the packed state of the workflow, empty for none. If it can't be saved, or an error stops
        the execution anyway, fails the execution and returns None."""
        if self._fatal is not None and not self.unreached:
            self._finish()
            return None
        try:
            return b"" if self.durable_state is None else self.durable_state.pack()
        except BaseException as error:  # a property of the state may raise anything
            self.stop_with(error)
            self._finish()
            return None

    # --- the end ------------------------------------------------------------------------

    def _code_done(self, task: asyncio.Task[Any]) -> None:
        tasks.mark_retrieved(task)
        if self.gate.held_back and self.state is State.RUNNING:
            self.gate.leave_if_held_back()
        elif self.state is State.RUNNING:
            self._finish()
        elif self.state is State.ENDED:
            self.code.main_ended()

    def _outcome(self) -> Outcome:
        note = f" ({named(self.unreached, self.journal.records)} not reached)" if self.unreached else ""
        main, fatal = self.code.main, self._fatal
        assert main is not None
        if isinstance(fatal, NotAwaitedError) and main.done() and (main.cancelled() or main.exception()):
            fatal = None  # the code's own error may be why it did not come to the call's await
        if fatal is not None:
            return failed(fatal, self.durable_state, self.run, note)
        return outcome_of(main, self.durable_state, self.run, self.host.value_limit, note)

    def _finish(self) -> None:
        """End the execution as its code has ended. A successful end is held back while accepted decisions are
        unreached; without any code left to reach them, the execution is stuck."""
        if self.state is State.ENDED:
            return
        outcome = self._outcome()
        mode = self.workflow.unreached
        if mode != IGNORE:
            outcome.unreached = self.journal.unreached(self.call_sites, self.passed_over)
        if outcome.status == "completed":
            if mode == STOP:
                self.unreached.update(map(text, outcome.unreached))
            if self.unreached:
                self.state = State.RUNNING
                hold = self._holding(self._last_call())
                if self.code.is_done:
                    hold.stick()
                return
            if outcome.unreached:
                logger.warning(
                    "journaled steps were not reached",
                    extra={**self.code.facts, "steps": [text(name) for name in outcome.unreached]},
                )
        self.state = State.FINISHING
        if self.parking.given_up and outcome.status == "failed":  # it may be retried
            self.host.spawn(self._give_up_and_finish())
            return
        outcome.events = self.events.first()
        if outcome.status == "failed":
            self.note_span()  # it may be retried
        if outcome.status == "failed" and self._may_retry and self.workflow.retries and not self.unreached:
            self.host.spawn(self._auto_retry(outcome))
        else:
            self._end_as(outcome)

    def _end_as(self, outcome: Outcome) -> None:
        """End the execution, or leave it paused if it has failed and its workflow asks for that."""
        if outcome.status == "failed" and self._may_retry and self.workflow.on_exhausted == PAUSE:
            self.host.spawn(self._pause(outcome))
        else:
            self.journal.finish(outcome, self._finished, self._finish)

    async def _pause(self, outcome: Outcome) -> None:
        """Leave a failed execution paused until somebody retries or cancels it."""
        error = parse_error(outcome.value)
        why = f"{error.type}: {error.message}"
        reason = StuckReason(EXHAUSTED, (), "", why).pack()
        stick = self.host.store.fenced.stick
        try:
            reply = await self.journal.leave(
                lambda known, answers: stick(
                    self.fence, known, answers, outcome.state, reason, outcome.value, outcome.events
                )
            )
        except PolosError as refused:
            self.dropped(f"pause refused: {refused}", pause=True)
            return
        if reply == 0:
            self._log_failure(logging.WARNING, "paused", outcome, {"run": self.run} if self.run > 1 else {})
            self.host.stats.paused[self.workflow.id] += 1
            self.end("paused")
        elif reply > 0:
            self._finish()
        else:
            self.dropped(refusal(reply))

    async def _give_up_and_finish(self) -> None:
        await self.give_up()
        self._finish()

    def _last_call(self) -> str:
        """Returns the call of ctx that the code has returned after, as `file:line`; without any, where its
        function begins."""
        if self.call_sites:
            return described(next(reversed(self.call_sites.values())))
        code = underlying(self.workflow.function).__code__
        return described((code, code.co_firstlineno))

    async def _auto_retry(self, outcome: Outcome) -> None:
        """Continue a failed execution as a new run, if its workflow has `retries` left."""
        times, delay_ms = self.workflow.retries, int(self.workflow.retry_delay * 1000)
        auto_retry = self.host.store.fenced.auto_retry
        facts = {"run": self.run + 1, "delay_ms": delay_ms}
        self.expect_next_run(
            lambda: self._log_failure(logging.WARNING, "failed, continues as a new run", outcome, facts)
        )
        try:
            run = await self.journal.reply_to(
                lambda known: auto_retry(self.fence, known, outcome.value, times, delay_ms, outcome.events)
            )
        except PolosError as error:
            self.dropped(f"retry refused: {error}", pause=True)
            return
        if run > 0:
            self.next_run_begins()
            self.end("auto-retried")
            return
        self.expect_next_run(None)
        if run == 0:
            self._end_as(outcome)
        else:
            self.dropped(refusal(run))

    def expect_next_run(self, log: Callable[[], None] | None) -> None:
        """Note what logs that the next run begins, if the write under way ends this one; None if it does not.
        The next run may start here before the reply to that write, and is to be logged after this."""
        self._log_next_run = log

    def next_run_begins(self) -> None:
        """Log that the next run begins, once."""
        log, self._log_next_run = self._log_next_run, None
        if log is not None:
            log()

    def note_span(self) -> None:
        """Store where the span of this activation is, which is about to end; the next one links to it."""
        if self.code.span is not None:
            note_span(self, self.code.span)

    def _fail_span(self, outcome: Outcome) -> None:
        if self.code.span is not None and outcome.error is not None:
            self.code.span.fail(outcome.error)

    def _log_failure(self, level: int, message: str, outcome: Outcome, facts: dict[str, Any]) -> None:
        self._fail_span(outcome)
        if outcome.error is not None:
            log_failure(level, message, outcome.error, {**self.code.facts, **facts, "error": outcome.line})

    def _finished(self, outcome: Outcome, status: str, here: bool) -> None:
        """End after the execution has ended with a status, `here` or by an earlier write whose reply was lost
        or by someone entitled to."""
        if status == outcome.status == "failed":
            self._log_failure(logging.ERROR, "failed", outcome, {"run": self.run} if self.run > 1 else {})
        if here:
            if outcome.status != "failed" and logger.isEnabledFor(logging.INFO):
                logger.info("finish", extra={**self.code.facts, "status": outcome.status})
            stats = self.host.stats
            stats.ended[self.workflow.id, outcome.status] += 1
            if outcome.unreached:
                stats.unreached[self.workflow.id] += len(outcome.unreached)
            for kind, ms in self.waited:
                stats.waits[kind].add(ms / 1000)
        if self.code.span is not None:
            self.code.span.note({"polos.status": status})
        self.end("finished")

    def dropped(self, why: str, *, pause: bool = False) -> None:
        """End without writing to the store, and hand the queue entry back; after a pause if an immediate
        retry would only be refused again."""
        if self.state is not State.ENDED:
            logger.warning("dropped", extra={**self.code.facts, "why": why})
            self.host.stats.dropped[self.workflow.id] += 1
            self.host.hand_back(self, pause=pause)
            self.end(why)

    def end(self, how: str) -> None:
        """End the activation: free its slot at once, then cancel its code and discard what it still does."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self.ended_as = how
        self._log_next_run = None
        self.host.released(self)
        if self._hold is not None:
            self._hold.release()
            self._hold = None
        self.gate.close()
        self.parking.close()
        self.journal.close()
        self.code.end(self.parking.cancel_waits)
        if self.code.span is not None:
            self.code.span.note({"polos.ended": how})
            self.code.span.end()
