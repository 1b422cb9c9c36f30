"""One pass of a workflow's code on a worker: replay the journal, run what is new, park or finish.

The workflow runs as one task. Everything that decides about it (parking, finishing, losing it) happens
outside of that task, in callbacks and tasks of ours, so that nothing user code does with cancellation can
change the outcome. Every write is fenced by the entry and the owner nonce; an activation that is told it
has been lost ends at once and what its code still does is discarded.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum, auto
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgpack

from polos_redis import tasks
from polos_redis.errors import ConnectionLostError, PolosError, StepKeyError, StoredValueError
from polos_redis.executions.starting import Origin
from polos_redis.state import journal
from polos_redis.state.store import FINISHED, LOST, NO_SUCH_WAIT, Fence, Loaded, Store, raw, text
from polos_redis.values import codec

if TYPE_CHECKING:
    from polos_redis.client import PolosClient
    from polos_redis.links import Links
    from polos_redis.metrics.worker_stats import WorkerStats
    from polos_redis.runtime.durable_state import DurableState
    from polos_redis.runtime.resources import Resources
    from polos_redis.workflow import Workflow

logger = logging.getLogger("polos.execution")

IDLE_SECONDS = 0.05  # nothing may have touched ctx for this long, and
IDLE_TURNS = 16  # for this many turns of the loop, before siblings of a wait are held for idle
NOTICE_SECONDS = 0.02  # a start is told at once only when the thing lasts longer
RECANCEL_SECONDS = 5.0
REFUSED_SECONDS = 1.0  # between attempts to connect to a server that refuses us
EVENTS_PER_ENTRY = 8  # a sequence id tells no more apart
LEAVES, LEAVE_SECONDS = 16, 0.05  # code that goes on calling ctx after the end: from then on, slowly


CallSite = tuple[CodeType, int]  # where a ctx call stands


def described(call_site: CallSite) -> str:
    """file:line of a ctx call."""
    return f"{call_site[0].co_filename.rpartition('/')[2]}:{call_site[1]}"


Ending = tuple[str, bytes, bytes, Sequence[bytes], Sequence[bytes]]  # status, value, event, fields, events


class State(Enum):
    """Where an activation stands."""

    RUNNING = auto()
    PARKING = auto()  # the park script is under way: new ctx calls wait for its answer
    FINISHING = auto()  # the code has returned; its result is on the way
    ENDED = auto()


class Host(Protocol):
    """What an activation needs of its worker."""

    client: PolosClient
    store: Store
    worker_id: str
    stats: WorkerStats
    value_limit: int
    audit_ms: int
    channel_names: Sequence[str]
    links: Links | None
    resources: Resources
    draining: bool

    def lease_is_fresh(self, prefix: bytes) -> bool: ...
    async def wait_for_lease(self, prefix: bytes) -> None: ...
    def in_thread(self, function: Callable[[], Any]) -> asyncio.Future[Any]: ...
    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None: ...
    def released(self, activation: Activation) -> None: ...
    def hand_back(self, activation: Activation, *, pause: bool = False) -> None: ...


@dataclass(slots=True)
class Wait:
    """An open wait that the workflow's code awaits now."""

    future: asyncio.Future[bytes]
    by_main: bool


_nonces = itertools.count(1)  # a worker's id is random, so a number makes an owner of its own


def _event_around(fields: dict[str, Any]) -> bytes:
    """The encoded event {**fields, "result": ...} up to its result, which follows as it is stored."""
    return codec.encode({**fields, "result": None})[: -len(codec.encode(None))]


_COMPLETED = _event_around({"status": "completed"})


def _completed_event(output: bytes, run: int) -> bytes:
    """The data of a finish event, around an output that is encoded already."""
    if run == 1:
        return _COMPLETED + output
    return _event_around({"status": "completed", "run": run}) + output


_WORKFLOW_START = b"workflow_start"
_STEP_START = b"step_start"
_STEP_FINISH = b"step_finish"


class Activation:
    """One activation; created by the worker for a delivered entry."""

    __slots__ = (
        "_fatal",
        "_gate",
        "_idle_armed",
        "_leaves",
        "_notices",
        "_outcome",
        "_started_at",
        "_touches",
        "_unheard",
        "_verifying",
        "call_sites",
        "children",
        "durable_state",
        "ended_as",
        "epoch",
        "fence",
        "given_up",
        "host",
        "id",
        "in_flight",
        "journal",
        "known",
        "loop",
        "losses",
        "main",
        "mark",
        "may_retry",
        "origin",
        "passed_over",
        "queue",
        "root",
        "run",
        "running",
        "started",
        "state",
        "waited",
        "waits",
        "workflow",
    )

    def __init__(
        self, host: Host, workflow: Workflow[Any, Any], execution_id: str, entry: bytes, run: int, queue: str
    ) -> None:
        self.host = host
        self.workflow = workflow
        self.id = execution_id
        self.queue = queue
        self.run = run
        self.root = execution_id.partition(".")[0]
        self.mark = b"" if self.root == execution_id else b"\0" + execution_id.encode()
        owner = f"{host.worker_id}:{next(_nonces)}".encode()
        self.fence = Fence(host.store.prefix(execution_id), execution_id.encode(), entry, owner)
        self.state = State.RUNNING
        self.ended_as = ""
        self.journal: dict[bytes, bytes] = {}
        self.known = 0
        self.epoch = host.store.wire.epoch
        self.losses = 0
        self.started = False
        self.origin = Origin(workflow.id)
        self.durable_state: DurableState | None = None
        self.given_up: set[str] = set()  # waits whose tasks the workflow's code has cancelled
        self.passed_over: set[str] = set()  # what losing branches of races have journaled
        self.call_sites: dict[str, CallSite] = {}
        self.waits: dict[str, Wait] = {}
        self.waited: list[tuple[str, int]] = []  # decided waits the code has come past: kind, how many ms
        self.running: dict[str, tuple[float, int]] = {}
        self.in_flight = 0
        self.children: set[asyncio.Task[Any]] = set()
        self.main: asyncio.Task[Any] | None = None
        self.may_retry = True
        self._fatal: PolosError | None = None
        self._gate: asyncio.Event | None = None
        self._idle_armed = False
        self._leaves = 0
        self._notices: dict[str, bytes] = {}
        self._outcome: asyncio.Task[Any] | None = None
        self._started_at = 0.0
        self.loop = asyncio.get_running_loop()
        self._touches = 0
        self._unheard = False
        self._verifying: asyncio.Future[None] | None = None

    # --- beginning ----------------------------------------------------------------------

    def start(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start the workflow's code."""
        context = copy_context()
        context.run(tasks.OWNER.set, self)
        self._started_at = self.loop.time()
        code = call()
        self.main = asyncio.Task(tasks.guard(code), loop=self.loop, context=context)
        tasks.close_unstarted(self.main, code)
        self.main.add_done_callback(self._main_done, context=tasks.OUTSIDE)
        if logger.isEnabledFor(logging.INFO):
            logger.info("start", extra={"execution": self.id, "workflow": self.workflow.id, "run": self.run})

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Take a task the workflow's code has started; it ends with this activation."""
        if self.state is State.ENDED and (self.main is None or self.main.done()):
            task.get_loop().call_soon(task.cancel, context=tasks.OUTSIDE)
            return
        self.children.add(task)
        task.add_done_callback(self._child_done, context=tasks.OUTSIDE)

    def _child_done(self, task: asyncio.Task[Any]) -> None:
        self.children.discard(task)
        if self.state is State.ENDED and not task.cancelled():
            task.exception()  # whatever it was, it is discarded; asyncio need not report it

    def take(self, loaded: Loaded, epoch: int) -> None:
        """What the store knows of an execution that was begun before."""
        self.journal = loaded.journal
        self.known = int(loaded.journal.get(journal.COUNT, b"0"))
        self.started = loaded.started
        self.losses = loaded.losses
        self.epoch = epoch

    def take_along(self, records: dict[bytes, bytes]) -> None:
        """The journal that came with a wake-up. Not having loaded it, this activation is not the owner yet:
        what was decided since is told to nobody, and is found by its first write."""
        self.journal = records
        self.known = int(records[journal.COUNT])
        self.started = True
        self._unheard = True

    def fail_before_start(self, error: BaseException) -> None:
        """The input can't be read or does not fit: fail the execution without running its code."""

        self.may_retry = False  # it would be refused again

        async def refuse() -> NoReturn:
            raise error

        self.start(refuse)

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
        self._touches += 1
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
        branch = tasks.BRANCH.get()
        if branch is not None:
            branch.note(key)
        return self.journal.get(raw(key))

    async def pass_gate(self) -> None:
        """Before something new begins: wait while parking, for a fresh lease, or leave when it is over."""
        while not self.may_start():
            self._touches += 1
            if self.state is State.PARKING:
                if self._gate is None:
                    self._gate = asyncio.Event()
                await self._gate.wait()
            elif self.over:
                await self.leave()
            elif self.host.draining:
                self.host.hand_back(self)
                self.end("handed back")
            else:
                await self.host.wait_for_lease(self.fence.prefix)
                try:
                    await self.verify()
                except PolosError as error:
                    self.dropped(f"it can't be loaded: {error}", pause=True)

    @property
    def over(self) -> bool:
        """Whether nothing that the code does counts any more."""
        return self.state is State.ENDED or self.state is State.FINISHING

    def landed(self) -> None:
        """A step is no longer in flight; its siblings may be idle now."""
        self.in_flight -= 1
        self.arm()

    async def leave(self) -> NoReturn:
        """A ctx call after the end: yield, then be cancelled; a loop around it is slowed down."""
        self._leaves += 1
        await asyncio.sleep(0 if self._leaves < LEAVES else LEAVE_SECONDS)
        raise asyncio.CancelledError("this activation has ended")

    def stop_with(self, error: PolosError) -> PolosError:
        """The execution will fail with this error, whatever the workflow catches."""
        self._fatal = self._fatal or error
        return error

    # --- writes -------------------------------------------------------------------------

    def first_events(self) -> list[bytes]:
        """The start event, when it has not been told yet; every write carries it until one has."""
        if self.started:
            return []
        self.started = True
        data = codec.encode({"workflow_id": self.workflow.id, "execution_id": self.id})
        return [_WORKFLOW_START + self.mark, data]

    async def commit(self, name: bytes, record: bytes, send: Callable[[int], asyncio.Future[Any]]) -> int:
        """Send a fenced write of one record until it is known to have happened; leaves when it is lost."""
        while True:
            try:
                while self.epoch != self.host.store.wire.epoch:
                    await self.verify()
                    found = self.journal.get(name)
                    if record and found is not None and found.startswith(record):
                        return self.known  # a wait is simply asked for again: that finds it open
                reply = await send(self.known)
            except ConnectionLostError:
                await self.reconnect()
                continue
            except PolosError as error:
                self.dropped(f"write refused: {error}", pause=True)
                await self.leave()
            changes: int = reply if type(reply) is int else reply[0]
            if changes < 0:
                await self.lost(changes)
            self._hear(changes, self.known + (name != b""))
            self.known = max(self.known, changes)
            if record:
                self.journal[name] = record + journal.UNTIMED
            elif type(reply) is not int:
                self.journal[name] = reply[1]
            return changes

    async def emit(self, event_type: str, value: Any) -> None:
        """Tell an event of this execution now. It is fenced as any write: a worker that was held for dead
        tells nothing more. At least once, as a repeated call may tell it twice."""
        data = codec.encode(value, limit=self.host.value_limit)
        events = [*self.first_events(), event_type.encode() + self.mark, data]
        write = self.host.store.write
        await self.commit(b"", b"", lambda known: write(self.fence, known, b"", b"", events))

    async def _sent(self, send: Callable[[], asyncio.Future[Any]]) -> Any:
        """Send a fenced write until its reply is known. Raises what the server refuses it with."""
        while True:
            try:
                while self.epoch != self.host.store.wire.epoch:
                    await self.verify()
                return await send()
            except ConnectionLostError:
                await self.reconnect()

    def _hear(self, changes: int, expected: int) -> None:
        """After the first write: look again, if the journal has changed otherwise than by that."""
        if self._unheard:
            self._unheard = False
            if changes != expected:
                self.host.spawn(self.verify())

    async def reconnect(self) -> None:
        """After a lost connection: be connected again (the epoch has then changed).

        A refusal (a password being changed, say) is waited out: it says nothing about the step whose result
        is at hand, so the workflow's code must not see it as that step's failure.
        """
        while self.state is not State.ENDED:
            try:
                await self.host.store.wire.ready(self.fence.prefix)
                break
            except PolosError as error:
                logger.error("can't reconnect", extra={"execution": self.id, "error": str(error)})
                await asyncio.sleep(REFUSED_SECONDS)
        if self.state is State.ENDED:
            await self.leave()

    async def lost(self, code: int) -> NoReturn:
        """A write was refused by the fence: this activation is over, and its entry is not ours to keep."""
        self.dropped("lost" if code == LOST else "journal went back")
        await self.leave()

    def dropped(self, why: str, *, pause: bool = False) -> None:
        """End without a trace in the store, but for handing back what may still be pending here; after a
        pause, where trying again at once would only be refused again."""
        if self.state is not State.ENDED:
            logger.warning("dropped", extra={"execution": self.id, "why": why})
            self.host.stats.dropped[self.workflow.id] += 1
            self.host.hand_back(self, pause=pause)
            self.end(why)

    async def verify(self) -> None:
        """Read the journal again and compare it with what this activation was told.

        Needed after every reconnect: the store may have gone back in time, or an answer may have come while
        nobody could tell us. A difference ends the activation; an answer is passed on.
        """
        if self._verifying is not None:
            await asyncio.shield(self._verifying)
        else:
            self._verifying = asyncio.get_running_loop().create_future()
            try:
                await self._verify()
            finally:
                self._verifying.set_result(None)
                self._verifying = None
        if self.state is State.ENDED:
            await self.leave()

    async def _verify(self) -> None:
        while True:
            epoch = self.host.store.wire.epoch
            before = self.journal.copy()
            loaded = await self.host.store.load(self.fence)
            if epoch == self.host.store.wire.epoch:
                break
        if self.state is State.ENDED:
            return
        if loaded is None:
            self.dropped("lost")
            return
        for name, told in before.items():
            if name == journal.COUNT:
                continue
            now = loaded.journal.get(name)
            if now is None or not (now == told or journal.may_become(told, now)):
                self.dropped("journal went back")
                return
        known = int(loaded.journal.get(journal.COUNT, b"0"))
        if known < self.known:
            self.dropped("journal went back")
            return
        self.epoch = epoch
        self.known = known
        self.started = self.started and loaded.started
        # what a notice has told while the reply was on its way is newer than the reply
        newer = {name: told for name, told in self.journal.items() if told is not before.get(name)}
        self.journal = loaded.journal | newer
        for key in list(self.waits):
            self.notify(key, self.journal[raw(key)])

    # --- waits --------------------------------------------------------------------------

    async def wait(self, key: str) -> bytes:
        """Wait for the decision of an open wait; returns its record."""
        loop = asyncio.get_running_loop()
        wait = Wait(loop.create_future(), asyncio.current_task() is self.main)
        self.waits[key] = wait
        notice = self._notices.pop(key, None)
        if notice is not None:
            self.notify(key, notice)
        else:
            self._maybe_park(wait)
        try:
            return await wait.future
        except asyncio.CancelledError:
            if not self.over:
                self.given_up.add(key)
            raise
        finally:
            if self.waits.get(key) is wait:
                del self.waits[key]
            self._touches += 1

    def notify(self, key: str, record: bytes) -> None:
        """A decision reaches this activation: from the reply stream, a park or a second look."""
        if journal.is_open(record):
            return
        wait = self.waits.get(key)
        if wait is None:
            before = self.journal.get(raw(key))
            if before is None or journal.is_open(before):  # else it comes late: the decision is known
                self._notices[key] = record  # it may be on its way to wait for this
            return
        if wait.future.done():
            return
        self.journal[raw(key)] = record
        self._touches += 1
        wait.future.set_result(record)

    def _maybe_park(self, wait: Wait) -> None:
        """Park at once when nobody else can touch ctx, else when everybody has been idle for a while."""
        if self.in_flight == 0 and not self.children and all(w.by_main for w in self.waits.values()):
            self._park()
        else:
            self.arm()

    def arm(self) -> None:
        """Look for idleness in a while, if there is a wait to park at."""
        if self._idle_armed or not self.waits or self.state is not State.RUNNING:
            return
        self._idle_armed = True
        self.loop.call_later(IDLE_SECONDS, self._look_idle, self._touches, context=tasks.OUTSIDE)

    def _look_idle(self, touches: int) -> None:
        self._idle_armed = False
        if self.state is not State.RUNNING or self.in_flight or not self.waits:
            return  # the end of the step in flight looks again
        if touches != self._touches:
            self.arm()
        else:
            self._idle_armed = True
            self._count_turns(IDLE_TURNS, self._touches)

    def _count_turns(self, left: int, touches: int) -> None:
        if left and touches == self._touches and self.state is State.RUNNING:
            self.loop.call_soon(self._count_turns, left - 1, touches, context=tasks.OUTSIDE)
            return
        self._idle_armed = False
        if touches != self._touches:
            self.arm()
        elif self.state is State.RUNNING and self.waits and not self.in_flight:
            self._park()

    def _park(self) -> None:
        if all(wait.future.done() for wait in self.waits.values()):
            return
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
            assert self.main is not None
            self._finish(self.main)
            return
        park = self.host.store.park
        try:
            reply = await self._sent(lambda: park(self.fence, self.known, state, given_up, waits))
        except PolosError as error:
            self.dropped(f"park refused: {error}", pause=True)
            return
        if self.state is State.ENDED:
            return
        if reply == 0:
            logger.info(
                "park", extra={"execution": self.id, "workflow": self.workflow.id, "waits": [*self.waits]}
            )
            self.host.stats.parks[self.workflow.id] += 1
            self.end("parked")
            return
        if type(reply) is int:
            self.dropped("lost" if reply == LOST else "journal went back", pause=reply == NO_SUCH_WAIT)
            return
        self.state = State.RUNNING
        self._open_gate()
        for key, record in zip(reply[1::2], reply[2::2], strict=True):
            self.notify(text(key), record)
        if self._outcome is not None:
            self._finish(self._outcome)
        else:
            self.arm()

    # --- the end ------------------------------------------------------------------------

    def _main_done(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()  # retrieved, so that asyncio does not complain
        del error
        if self.state is State.PARKING:
            self._outcome = task  # if the park does not happen, this is how it ended
        elif self.state is State.RUNNING:
            self._finish(task)
        elif self.state is State.ENDED:
            self._cancel_children()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self.state = State.FINISHING
        status, value, event, state = self._outcome_of(task)
        events = self.first_events()
        seen = self.call_sites.keys() | self.passed_over
        unreached = [n for n in self.journal if n and not journal.is_result(n) and text(n) not in seen]
        if unreached and status == "completed":
            logger.warning(
                "journaled steps were not reached",
                extra={"execution": self.id, "steps": [text(name) for name in unreached]},
            )
        fields = [b"unreached", msgpack.packb(unreached)] if unreached else []
        if state:
            fields += [b"state", state]
        call = (status, value, event, fields, events)
        if status == "failed" and self.may_retry and self.workflow.retries:
            self.host.spawn(self._auto_retry(call))
        else:
            self._send_finish(call)

    async def _auto_retry(self, call: Ending) -> None:
        """A failed execution whose workflow has `retries` goes on as a new run, if there is one left."""
        times, delay_ms = self.workflow.retries, int(self.workflow.retry_delay * 1000)
        again = self.host.store.auto_retry
        try:
            run = await self._sent(lambda: again(self.fence, self.known, call[1], times, delay_ms, call[4]))
        except PolosError as error:
            self.dropped(f"retry refused: {error}", pause=True)
            return
        if run == 0:
            self._send_finish(call)
        elif run < 0:
            self.dropped("lost" if run == LOST else "journal went back")
        else:
            logger.warning(
                "failed, goes on as a new run", extra={"execution": self.id, "run": run, "delay_ms": delay_ms}
            )
            self.end("tried again")

    def _send_finish(self, call: Ending) -> None:
        if self.epoch != self.host.store.wire.epoch:
            self.host.spawn(self._resend_finish(call))
            return
        future = self.host.store.finish(self.fence, self.known, *call)

        def finished(future: asyncio.Future[Any]) -> None:
            error = future.exception()
            if isinstance(error, ConnectionLostError):
                self.host.spawn(self._resend_finish(call))
            elif error is not None:
                self.dropped(f"finish refused: {error}", pause=True)
            elif future.result() != 0:
                self.dropped("lost" if future.result() == LOST else "journal went back")
            else:
                if logger.isEnabledFor(logging.INFO):
                    logger.info(
                        "finish",
                        extra={"execution": self.id, "workflow": self.workflow.id, "status": call[0]},
                    )
                self._count_end(call[0])
                self.end("finished")

        future.add_done_callback(finished, context=tasks.OUTSIDE)

    def _count_end(self, status: str) -> None:
        stats = self.host.stats
        stats.ended[self.workflow.id, status] += 1
        for kind, ms in self.waited:
            stats.waits[kind].add(ms / 1000)

    async def _resend_finish(self, call: Ending) -> None:
        try:
            await self.reconnect()
            ended = await self.host.store.watch(self.id, "")
            if ended is not None and ended.status in FINISHED:
                self.end("finished")  # by the call whose answer was lost, or by somebody who was allowed to
                return
            await self.verify()
        except PolosError as error:
            self.dropped(f"finish refused: {error}", pause=True)
            return
        self._send_finish(call)

    def _outcome_of(self, task: asyncio.Task[Any]) -> tuple[str, bytes, bytes, bytes]:
        """The status, the output or error, the data of the finish event, and the state to be saved."""
        error: BaseException | None = self._fatal
        state = b""
        if error is None:
            try:
                output = codec.encode(task.result(), limit=self.host.value_limit)
                if self.durable_state is not None:
                    state = self.durable_state.pack()
            except asyncio.CancelledError:
                error = tasks.WorkflowExit("the workflow's code cancelled its own task")
            except BaseException as raised:
                error = raised
            else:
                return "completed", output, _completed_event(output, self.run), state
        described = journal.text_of(error)
        told: dict[str, Any] = {"status": "failed", "error": f"{type(error).__name__}: {described}"}
        event = codec.encode(told if self.run == 1 else {**told, "run": self.run})
        if self.durable_state is not None:
            with contextlib.suppress(StoredValueError):
                state = self.durable_state.pack()
        return "failed", journal.error_record(error), event, state

    def end(self, how: str) -> None:
        """It is over here: free the slot at once, then end what is left of the code, and discard it."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self.ended_as = how
        self.host.released(self)
        self._open_gate()
        if self._left():
            self._cancel_rest()
            if self._left():
                self.loop.call_later(IDLE_SECONDS, self._cancel_waits, context=tasks.OUTSIDE)
        else:
            self.main = None  # its context holds this activation: without the cycle both are freed at once

    def _cancel_rest(self) -> None:
        # One native cancel of the main task: what it awaits, it cancels itself, and may await its clean-up;
        # what it has left is cancelled when it is done.
        if self.main is not None and not self.main.done():
            self.main.cancel("the activation has ended")
        else:
            self._cancel_children()

    def _cancel_waits(self) -> None:
        """What still waits in a shielded scope is not cleaning up: it would wait for ever."""
        if not self._left():
            return  # as nearly always: nothing keeps the activation in memory any longer
        for wait in self.waits.values():
            wait.future.cancel("the activation has ended")
        self.loop.call_later(RECANCEL_SECONDS, self._recancel, context=tasks.OUTSIDE)

    def _cancel_children(self) -> None:
        for task in list(self.children):
            task.cancel("the activation has ended")

    def _left(self) -> list[asyncio.Task[Any]]:
        """The tasks of its code that have not ended."""
        return [task for task in (self.main, *self.children) if task is not None and not task.done()]

    def _recancel(self) -> None:
        left = self._left()
        if left:
            logger.warning(
                "code still runs after its activation's end", extra={"execution": self.id, "tasks": len(left)}
            )
            self._cancel_rest()
            self._cancel_children()

    def _open_gate(self) -> None:
        if self._gate is not None:
            self._gate.set()
            self._gate = None

    # --- start notices ------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Tell the start of what has lasted a while; called by the worker every 20 ms."""
        started = self.main is not None  # until it is loaded, what has been told is not known
        if not started or self.state is not State.RUNNING or self.epoch != self.host.store.wire.epoch:
            return
        events: list[bytes] = []
        if not self.started and now - self._started_at > NOTICE_SECONDS:
            events += self.first_events()
        for key, (since, attempt) in self.running.items():
            if since and now - since > NOTICE_SECONDS:
                self.running[key] = (0.0, attempt)
                events += self.first_events()
                events += self.step_start(key, attempt)
        if not events:
            return
        for first in range(0, len(events), 2 * EVENTS_PER_ENTRY):
            some = events[first : first + 2 * EVENTS_PER_ENTRY]
            future = self.host.store.write(self.fence, self.known, b"", b"", some)
            future.add_done_callback(self._noticed, context=tasks.OUTSIDE)

    def _noticed(self, future: asyncio.Future[int]) -> None:
        if future.exception() is not None:
            return
        if future.result() >= 0:
            self._hear(future.result(), self.known)
        else:
            self.dropped("lost" if future.result() == LOST else "journal went back")

    def step_start(self, key: str, attempt: int) -> list[bytes]:
        """The event of a step's start."""
        data = codec.encode({"step_key": key, "attempt": attempt})
        return [_STEP_START + self.mark, data]

    def step_finish(self, key: str, attempt: int, status: str, error: str | None = None) -> list[bytes]:
        data: dict[str, Any] = {"step_key": key, "attempt": attempt, "status": status}
        if error is not None:
            data["error"] = error
        return [_STEP_FINISH + self.mark, codec.encode(data)]
