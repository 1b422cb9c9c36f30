"""A recorded history in place of a worker and Redis: what a replay's activation sees of them.

The activation and its steps are the real ones. They find every record that the history has. Whatever it does
not have stops where it would begin: a step's function is not called, and a write gets no reply. So nothing is
changed anywhere, and code that has left the recorded path does not get on.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from polos_redis import settings, tasks
from polos_redis.connection.connection import Connection
from polos_redis.connection.session import Session
from polos_redis.links import Links
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.call_sites import CallSite
from polos_redis.runtime.context import WorkflowContext
from polos_redis.runtime.resources import Resources
from polos_redis.runtime.step import Step
from polos_redis.runtime.steps.child_requests import ChildCall
from polos_redis.runtime.steps.time_limits import TimeLimit
from polos_redis.state.fencing import Fence, FencedWrites
from polos_redis.state.start import Child
from polos_redis.state.store import Store
from polos_redis.values.text import text
from polos_redis.wire.transport import Arg, Script
from polos_redis.wire.wire import Wire

if TYPE_CHECKING:
    from polos_redis.tracing.spans import Tracer

_NOWHERE = "redis://replay.invalid"
_FOREVER = 1e12  # seconds: a replay decides itself when code is stuck


class Observer:
    """What a replay learns from its activation.

    `calls` are the step keys of the calls so far, and `stopped` those that the history has no
    outcome of; `ended` is called when the activation ends, with the reason if it was handed back.
    `outcome`: status, value and state (codec or stored error) if the code has ended. `before_call` is called
    with each call's key and place.
    """

    def __init__(
        self, ended: Callable[[], None], before_call: Callable[[str, CallSite], None] | None = None
    ) -> None:
        self.calls: set[str] = set()
        self.stopped: set[str] = set()
        self.outcome: tuple[str, bytes, bytes] | None = None
        self.handed_back = ""
        self.ended = ended
        self.before_call = before_call


async def _forever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody resolves this future")


class _RecordedWire(Wire):
    """No server: calls get no reply."""

    __slots__ = ()

    def send(self, *args: Arg) -> Future[Any]:
        return asyncio.get_running_loop().create_future()

    def run(self, script: Script, key: bytes, *args: Arg) -> Future[Any]:
        return asyncio.get_running_loop().create_future()

    async def _repeat(self, send: Callable[[], Future[Any]], patience: float | None) -> Any:
        await _forever()


class _RecordedConnection(Connection):
    """The connection of handles, which reach nothing."""

    async def session(self) -> Session:
        await _forever()


class _RecordedWrites(FencedWrites):
    """Accepts what ends an activation and what changes nothing that code could see."""

    def __init__(self, store: Store, observer: Observer) -> None:
        super().__init__(store.partitions)
        self._observer = observer

    def _run(self, script: Script, by: Fence, known: int, *rest: Arg) -> Future[Any]:
        self._observer.stopped.add(text(rest[0]))  # type: ignore[arg-type] # a step key comes first
        return asyncio.get_running_loop().create_future()

    def write(
        self, by: Fence, known: int, key: bytes, record: bytes, starts: bytes, events: Sequence[bytes] = ()
    ) -> Future[int]:
        return _done(known + (key != b""))  # events, or a step that the code has cancelled

    def give_up(self, by: Fence, known: int, given_up: Sequence[bytes]) -> Future[int]:
        return _done(known)

    def park(
        self,
        by: Fence,
        known: int,
        answers: int,
        state: bytes,
        given_up: Sequence[bytes],
        waits: Sequence[bytes],
        unreached: Sequence[bytes] = (),
    ) -> Future[Any]:
        return _done(0)

    def stick(
        self,
        by: Fence,
        known: int,
        answers: int,
        state: bytes,
        reason: bytes,
        error: bytes = b"",
        events: Sequence[bytes] = (),
    ) -> Future[int]:
        if error:  # it has failed, and would pause
            self._observer.outcome = "failed", error, state
        return _done(0)

    def finish(
        self,
        by: Fence,
        known: int,
        answers: int,
        status: str,
        value: bytes,
        event: bytes,
        fields: Sequence[bytes],
        events: Sequence[bytes],
    ) -> Future[int]:
        state = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"state", b"")
        self._observer.outcome = status, value, state
        return _done(0)

    def continue_as_new(
        self,
        by: Fence,
        known: int,
        answers: int,
        input: bytes,
        origin: bytes,
        state: bytes,
        events: Sequence[bytes],
    ) -> Future[Any]:
        return _done(0)  # this run ends; a history has the last one only

    def auto_retry(
        self, by: Fence, known: int, error: bytes, times: int, delay_ms: int, events: Sequence[bytes]
    ) -> Future[int]:
        return _done(0)  # no further run: this one's end is of interest


def _done(value: int) -> Future[int]:
    future: Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


class _RecordedStep(Step):
    """The journaled calls of a replay: no step's function is called."""

    __slots__ = ("_observer",)

    def __init__(self, activation: Activation, observer: Observer) -> None:
        super().__init__(activation)
        self._observer = observer

    def _note(self, key: str, call_site: CallSite) -> None:
        observer = self._observer
        if key not in observer.calls and not self._activation.over:
            observer.calls.add(key)
            if observer.before_call is not None:
                observer.before_call(key, call_site)

    async def _start_call(self, key: str, call_site: CallSite) -> bytes | None:
        self._note(key, call_site)
        return await super()._start_call(key, call_site)

    async def _run(
        self,
        key: str,
        in_loop: bool,
        call: Callable[[], Any],
        max_retries: int,
        base_delay: float,
        max_delay: float,
        call_site: CallSite,
        limit: TimeLimit | None = None,
    ) -> Any:
        async def stop() -> NoReturn:
            self._observer.stopped.add(key)
            await _forever()

        self._note(key, call_site)
        return await super()._run(key, True, stop, max_retries, base_delay, max_delay, call_site)

    async def _child(self, key: str, index: int, call: ChildCall) -> Child:
        self._observer.stopped.add(key)
        try:
            return await super()._child(key, index, call)
        except Exception:  # the child is refused, as it was when the history was recorded
            self._observer.stopped.discard(key)
            raise


class RecordedHost:
    """The host of one replay's activation."""

    worker_id = "replay"
    audit_ms = 0
    channel_names: Sequence[str] = ()
    links: Links | None = None
    draining = False
    recorded_values: dict[tuple[str, str], Any] | None = None
    tracer: Tracer | None = None
    stuck_seconds = _FOREVER

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.connection = _RecordedConnection(_NOWHERE, "replay", partitions=1)
        self.store = Store(_RecordedWire(_NOWHERE), "replay", 1)
        self.store.fenced = _RecordedWrites(self.store, observer)
        self.stats = WorkerStats()
        self.value_limit = self.connection.max_value_bytes
        self.max_journal_records: int = settings.resolve("max_journal_records")
        self.resources = Resources()
        self._tasks: set[asyncio.Task[Any]] = set()

    def context(self, activation: Activation) -> WorkflowContext:
        """Returns the `ctx` of the replay."""
        ctx = WorkflowContext(activation)
        ctx.step = _RecordedStep(activation, self._observer)
        return ctx

    # --- runtime's Host -----------------------------------------------------------------

    def lapses(self, prefix: bytes) -> int:
        return 0

    def lease_is_held(self, prefix: bytes, lapses: int) -> bool:
        return True

    async def wait_for_lease(self, prefix: bytes) -> None:
        pass

    def in_thread(self, step: tasks.Owner, function: Callable[[], Any]) -> Future[Any]:
        return asyncio.get_running_loop().create_future()

    def abandon(self, thread: Future[Any], facts: Mapping[str, Any]) -> None:
        raise AssertionError("a replay starts no thread")

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None:
        task = tasks.spawn(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def released(self, activation: Activation) -> None:
        self._observer.ended()

    def hand_back(self, activation: Activation, *, pause: bool = False, reason: str = "") -> None:
        self._observer.handed_back = reason
