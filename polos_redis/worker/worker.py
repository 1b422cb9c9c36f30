"""The worker: the process that runs executions, from its start until it has drained.

A worker reads its queues (`readers.py`, `reading.py`), keeps a ledger of what was delivered to it
(`deliveries.py`), turns entries into activations (`dispatch.py`) and hosts them (`host.py`). Meanwhile it
renews its lease (`lease.py`) and has duties in every partition (`duties.py`): timers, errands, the reaper
and notifications.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from polos_redis import settings, tasks
from polos_redis.client import PolosClient
from polos_redis.connection.clients import check_client
from polos_redis.connection.connection import PatientConnection
from polos_redis.connection.notices import Notices
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.published import define, limits_of
from polos_redis.definitions.queue import Queue
from polos_redis.errors import ConfigurationError, PolosError, ReleaseTooOldError
from polos_redis.links import Links
from polos_redis.metrics.worker_facts import WorkerFacts
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.notifications.channels import Channel
from polos_redis.notifications.configured import configured_channels
from polos_redis.notifications.outbox import Outbox
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.steps import unawaited
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.triggers.declarations import declare
from polos_redis.watchdog import Watchdog, stacks
from polos_redis.worker.background import Background
from polos_redis.worker.blocking import work_of
from polos_redis.worker.deliveries import Deliveries
from polos_redis.worker.dispatch import Dispatch
from polos_redis.worker.duties import Duties
from polos_redis.worker.errands import ErrandRunner
from polos_redis.worker.host import WorkerHost
from polos_redis.worker.lease import Lease
from polos_redis.worker.log_rewriter import LogRewriter
from polos_redis.worker.loop_guard import LoopGuard
from polos_redis.worker.read_connections import Readers
from polos_redis.worker.read_loop import Reading, make_groups
from polos_redis.worker.reaper import Reaper
from polos_redis.worker.reserved import ReservedStreams
from polos_redis.worker.served import Chosen, Served
from polos_redis.worker.server_checks import wait_for_servers
from polos_redis.worker.timers import TimerLeader

logger = logging.getLogger("polos.worker")

T = TypeVar("T")

BLOCK_SECONDS = 2.0
CLOSE_SECONDS = 5.0  # at the end: how long returning entries may take


class Worker:
    """Runs executions of the given workflows (by default, of all that this process defines, also while the
    worker runs; a function chooses among these), including the tools of agents among them.

    Any number of workers share the work. A dead worker is noticed within `lease_seconds` and its executions
    continue elsewhere from their journals. While Redis is unreachable a worker waits, also at its start; it
    says so in the log. On SIGTERM or SIGINT a worker stops reading, lets running steps
    finish for up to `grace_seconds`, hands the rest back and returns; a second signal stops it at once. It
    reads the queues of its workflows and the default queue, or only those of `queues`. `channels` send the
    notifications of its suspensions; by default the webhook of POLOS_WEBHOOK_URL does, if that is set.

    Code that blocks the event loop does not cost the worker its lease, for up to `max_blocked_seconds`. Then
    the stacks of all threads are logged and the lease is given up: other workers continue the executions.
    `on_blocked` is called at that moment, in another thread; `polos worker` exits there. A loop that turns
    again takes the lease up again.
    """

    def __init__(
        self,
        client: PolosClient,
        workflows: Chosen = None,
        *,
        concurrency: int | None = None,
        lease_seconds: float | None = None,
        blocked_seconds: float | None = None,
        max_blocked_seconds: float | None = None,
        max_deliveries: int | None = None,
        max_journal_records: int | None = None,
        grace_seconds: float | None = None,
        put_back_seconds: float | None = None,
        audit_seconds: float | None = None,
        queues: Iterable[str | Queue] | str | None = None,
        metrics_port: int | None = None,
        metrics_host: str | None = None,
        channels: Iterable[Channel] | None = None,
        handle_signals: bool = True,
        on_blocked: Callable[[], object] | None = None,
    ) -> None:
        check_client("Worker", client)
        self.client = client
        self.concurrency: int = settings.resolve("concurrency", concurrency)
        self.lease_seconds: float = settings.resolve("lease_seconds", lease_seconds)
        self.blocked_seconds: float = settings.resolve("blocked_seconds", blocked_seconds)
        self.max_blocked_seconds: float = settings.resolve("max_blocked_seconds", max_blocked_seconds)
        self.max_deliveries: int = settings.resolve("max_deliveries", max_deliveries)
        self.max_journal_records: int = settings.resolve("max_journal_records", max_journal_records)
        self.grace_seconds: float = settings.resolve("grace_seconds", grace_seconds)
        self.put_back_ms = int(settings.resolve("put_back_seconds", put_back_seconds) * 1000)
        self.audit_ms = int(settings.resolve("audit_seconds", audit_seconds) * 1000)
        self.handle_signals = handle_signals
        self.on_blocked = on_blocked
        self.metrics_port: int | None = settings.resolve("metrics_port", metrics_port)
        self.metrics_host: str = settings.resolve("metrics_host", metrics_host)
        self.metrics_url: str | None = None
        self.stats = WorkerStats()
        self.links = Links.from_settings(client.namespace)
        self.channels = configured_channels(channels)
        self.queues: list[str] = []  # those it reads, once it runs
        self.worker_id = f"{socket.gethostname()[:40].replace(':', '-')}-{os.getpid()}-{os.urandom(4).hex()}"
        self.block_seconds = min(BLOCK_SECONDS, self.lease_seconds / 2)
        self.ready = asyncio.Event()
        self.host: WorkerHost | None = None  # once it is connected
        self._workflows = workflows if workflows is None or callable(workflows) else list(workflows)
        self._queues: list[str] | None = settings.resolve("queues", queues)
        self._running = False
        self._guard = LoopGuard(self.max_blocked_seconds)
        self._watchdog: Watchdog | None = None
        self._signals = 0  # received
        self._stops = 0  # calls of `stop`
        self._outdated: ReleaseTooOldError | None = None  # why it stops
        self._stopping, self._stop_now = asyncio.Event(), asyncio.Event()
        self._background = Background()
        self._duties: dict[bytes, Duties] = {}
        self._readings: list[Reading] = []
        self._loops: list[asyncio.Task[None]] = []
        self._closing = contextlib.AsyncExitStack()
        self._served: Served | None = None
        self._announcing = asyncio.Lock()
        self._first_epoch = 0
        self._started = time.monotonic()

    # --- the run ------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped. Waits while Redis is unreachable. Raises `ConfigurationError` when the server
        can't be used, `RedisRefusedError` when it refuses the connection, and `RedisUnavailableError` when
        what answers there is no Redis server. If the namespace is upgraded meanwhile, so that this release
        can't read it, it stops as on SIGTERM and raises `ReleaseTooOldError`."""
        if self._running:
            raise ConfigurationError("this worker was run already: create another one")
        self._running, self._started = True, time.monotonic()
        served = self._served = Served(self._workflows)
        workflows = served.by_id
        own = {keys.DEFAULT_QUEUE, *(workflow.queue.name for workflow in workflows.values())}
        self.queues = sorted(own if self._queues is None else self._queues)
        tasks.install(asyncio.get_running_loop())
        unawaited.install()
        restore = self._take_signals()
        try:
            host = self.host = await self._unless_stopped(self._connect(workflows.values()))
            if host is not None:
                await self._work(host, served)
        finally:
            restore()
        logger.info("worker stopped", extra={"worker": self.worker_id})
        if self._outdated is not None:
            raise self._outdated

    async def _work(self, host: WorkerHost, served: Served) -> None:
        """Start, work until stopped, drain and leave."""
        readers = Readers(host.store.wire, host.store.prefixes, self.block_seconds, host.room)
        dispatch = Dispatch(host, served.by_id)
        self._readings = [
            Reading(
                reader,
                readers,
                self.queues,
                host,
                dispatch,
                ReservedStreams(host.store, self.worker_id, reader.prefixes, self.queues, served.by_id),
            )
            for reader in readers
        ]
        try:
            self._closing.callback(dispatch.unknown.close)
            self._closing.push_async_callback(host.close)
            self._closing.push_async_callback(readers.close)
            reading = await self._unless_stopped(self._start(host, served.by_id.values()))
            if reading is not None:
                await self._until_stopped()
                await self._drain(host, readers, reading)
        finally:
            host.drain()
            await self._leave(host)

    def stop(self) -> None:
        """Stop gracefully, as on SIGTERM; a second call stops at once. Call it in the worker's own loop. A
        worker that still starts, or waits for Redis, gives up."""
        self._stops += 1
        if self._stops == 1:
            self._begin_to_stop()
        else:
            self._stop_now.set()

    def _begin_to_stop(self) -> None:
        self._stopping.set()
        if self.host is not None:
            self.host.drain()

    def _stop_outdated(self, error: ReleaseTooOldError) -> None:
        """Stop gracefully, as this release can't read the namespace any more."""
        if self._outdated is None:
            self._outdated = error
            logger.error("this worker stops: %s", error, extra={"worker": self.worker_id})
            self._begin_to_stop()

    def hurry(self) -> None:
        """Fire the timers now that are due, instead of at the next look."""
        for duties in self._duties.values():
            duties.hurry()

    @property
    def is_sending(self) -> bool:
        """Whether notifications are being sent."""
        return any(duties.is_sending for duties in self._duties.values())

    async def _connect(self, workflows: Collection[WorkflowDefinition[Any, Any]]) -> WorkerHost:
        """Wait for Redis, check it and return the host, on the client's connections."""
        connection = PatientConnection(self.client)
        await wait_for_servers(connection.wire(), self.client.namespace, self.client.partitions)
        store = await connection.store()
        versions = {workflow.id: workflow.version for workflow in workflows}
        lease = Lease(
            store,
            self.client.url,
            self.worker_id,
            self.lease_seconds,
            versions,
            self.queues,
            self.stats,
            self._guard,
            self._give_up,
            self._facts,
            partial(self._in_loop, asyncio.get_running_loop(), self._stop_outdated),
        )
        deliveries = Deliveries(
            store,
            self.worker_id,
            self._background,
            put_back_ms=self.put_back_ms,
            max_deliveries=self.max_deliveries,
        )
        return WorkerHost(
            connection,
            store,
            self.worker_id,
            lease,
            deliveries,
            self._background,
            stats=self.stats,
            concurrency=self.concurrency,
            max_journal_records=self.max_journal_records,
            audit_ms=self.audit_ms,
            channel_names=[channel.name for channel in self.channels],
            links=self.links,
        )

    async def _start(
        self, host: WorkerHost, workflows: Collection[WorkflowDefinition[Any, Any]]
    ) -> list[asyncio.Task[None]]:
        """Announce this worker and its workflows, then start working; returns the tasks that read."""
        store = host.store
        self._duties = {prefix: self._duties_in(prefix, host) for prefix in store.prefixes}
        notices = Notices(store.wire, store.prefixes, self.worker_id, self._notify, host.verify_all)
        self._closing.push_async_callback(notices.close)
        await make_groups(store, store.prefixes, self.queues)
        await declare(store, workflows)
        await define(store, workflows)
        await host.lease.renew()
        await notices.start(*store.prefixes, patience=None)
        self._first_epoch = store.wire.epoch
        self._watch(host)
        await self._show_metrics()
        ids = [workflow.id for workflow in workflows]
        logger.info("worker ready", extra={"worker": self.worker_id, "workflows": ids})
        rewriter = LogRewriter(store, lambda prefix: self._duties[prefix].leads)
        loops: list[Coroutine[Any, Any, None]] = [host.lease.run(), host.verify_regularly(), rewriter.run()]
        for duties in self._duties.values():
            loops += duties.loops()
        reading = [tasks.spawn(one.run(), "polos-reader") for one in self._readings]
        self._loops = [*(tasks.spawn(one, "polos-worker-loop") for one in loops), *reading]
        assert self._served is not None
        self._closing.callback(self._served.watch(self._serve_more))
        return reading

    def _serve_more(self, workflows: Collection[WorkflowDefinition[Any, Any]]) -> None:
        """Announce workflows that were defined while this worker runs, and read their queues."""
        self._background.spawn(self._announce(workflows))

    async def _announce(self, workflows: Collection[WorkflowDefinition[Any, Any]]) -> None:
        assert self.host is not None
        assert self._served is not None
        store, ids = self.host.store, [workflow.id for workflow in workflows]
        async with self._announcing:  # the last definition of a workflow is published last
            try:
                limits_of(self._served.by_id.values())
                if self._queues is None:
                    more = {workflow.queue.name for workflow in workflows}.difference(self.queues)
                    await make_groups(store, store.prefixes, sorted(more))
                    self.queues += sorted(more)  # the readings see it too
                await declare(store, workflows)
                await define(store, workflows)
            except PolosError as error:
                facts = {"workflows": ids, "error": str(error)}
                logger.error("workflows defined later can't be announced", extra=facts)
                return
            versions = {one.id: one.version for one in self._served.by_id.values()}
            self.host.lease.announce(versions, self.queues)
            logger.info("workflows added", extra={"worker": self.worker_id, "workflows": ids})

    def _watch(self, host: WorkerHost) -> None:
        """Report code that blocks the event loop."""

        def count() -> None:
            self.stats.loop_blocked += 1

        seconds = min(self.blocked_seconds, self.lease_seconds / 2)
        self._watchdog = Watchdog(seconds, logger, partial(work_of, host.active), count)
        self._watchdog.start()
        self._closing.callback(self._watchdog.stop)

    @staticmethod
    def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], argument: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(call, argument)

    def _give_up(self) -> None:
        """Report a loop that has been blocked for too long. The lease's thread calls this and has stopped
        renewing; the log may be what blocks, so it comes last."""
        if self.on_blocked is not None:
            self.on_blocked()
        facts = {"worker": self.worker_id, "seconds": round(self._guard.blocked_seconds)}
        if logger.isEnabledFor(logging.ERROR):
            message = "the event loop is blocked: the lease is given up"
            logger.handle(
                logger.makeRecord(
                    logger.name, logging.ERROR, __file__, 0, message, (), None, extra=facts, sinfo=stacks()
                )
            )

    def _duties_in(self, prefix: bytes, host: WorkerHost) -> Duties:
        store, client = host.store, self.client
        errands = ErrandRunner(
            store,
            prefix,
            lease_seconds=self.lease_seconds,
            retention_ms=client.retention_ms,
            largest_input=client.max_value_bytes,
        )
        timers = TimerLeader(store, prefix, self.worker_id, errands)
        reaper = Reaper(
            store,
            prefix,
            self.worker_id,
            lease_seconds=self.lease_seconds,
            block_seconds=self.block_seconds,
            max_deliveries=self.max_deliveries,
            in_charge=lambda: timers.holding,
            overdue=lambda: max(0.0, host.lease.age(prefix) - self.lease_seconds / 2),
            stats=self.stats,
        )
        return Duties(
            timers, reaper, [Outbox(client, store, prefix, channel, self.links) for channel in self.channels]
        )

    def _notify(self, notice: list[Any]) -> None:
        """Pass on a notice of a script."""
        if notice[0] == b"errand":
            self._duties[notice[1]].hurry()
        elif self.host is not None:
            self.host.notify(notice)

    async def _unless_stopped(self, starting: Coroutine[Any, Any, T]) -> T | None:
        """Returns the result of a part of the start; None if `stop` cancelled it."""
        part, stopping = tasks.spawn(starting), tasks.spawn(self._stopping.wait())
        try:
            await asyncio.wait([part, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            part.cancel()  # no effect on one that is done
            await asyncio.wait([part])
        return None if part.cancelled() else part.result()

    async def _until_stopped(self) -> None:
        """Say that the worker is ready, and wait for `stop`. Raises the failure of a loop."""
        stopping = tasks.spawn(self._stopping.wait())
        self.ready.set()
        await asyncio.wait([*self._loops, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in self._loops:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _drain(self, host: WorkerHost, readers: Readers, reading: list[asyncio.Task[None]]) -> None:
        """Let running steps finish within the grace period and hand back what is left."""
        logger.info("worker stops", extra={"worker": self.worker_id, "active": len(host.active)})
        temporary = [tasks.spawn(readers.unblock())]  # a clean stop waits for the replies of the reads
        try:
            host.return_waiting()
            if host.active:
                host.idle.clear()
                ends = [tasks.spawn(host.idle.wait()), tasks.spawn(self._stop_now.wait())]
                temporary += ends
                await asyncio.wait(ends, timeout=self.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
            host.return_all()
            await asyncio.wait(reading, timeout=self.block_seconds + 1)
        finally:
            for task in temporary:
                task.cancel()

    async def _leave(self, host: WorkerHost) -> None:
        """End every loop, return every entry, and remove this worker from Redis."""
        host.return_all()
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await asyncio.gather(*(duties.stop() for duties in self._duties.values()))
        await self._background.finish(CLOSE_SECONDS if host.store.wire.connected else 1.0)
        with contextlib.suppress(PolosError, TimeoutError):
            async with asyncio.timeout(1):
                await self._withdraw(host.store)
        await self._closing.aclose()

    async def _withdraw(self, store: Store) -> None:
        """Remove this worker's lease and its empty consumers."""
        await asyncio.gather(*(self._withdraw_in(store, prefix) for prefix in store.prefixes))

    async def _withdraw_in(self, store: Store, prefix: bytes) -> None:
        reserved = [name for reading in self._readings for name in reading.reserved.joined(prefix)]
        for queue in [*reserved, *self.queues]:
            counter = await store.wire.call(
                "HGET", prefix + keys.WORKERS.encode(), self.worker_id, patience=0.5
            )
            await store.workers.prune(prefix, queue, self.worker_id, counter or b"")

    def _take_signals(self) -> Callable[[], None]:
        """Stop on SIGTERM and SIGINT; returns a function that restores the handlers.

        A blocked loop calls none of its handlers, so the guard learns of the signal besides: from then on the
        loop may be blocked for the grace period only, and not at all after a second signal.
        """
        loop = asyncio.get_running_loop()
        handled: list[signal.Signals] = []

        def note(by_loop: Any, number: int, frame: FrameType | None) -> None:
            self._guard.allow_only(0 if self._signals else self.grace_seconds)
            self._signals += 1
            if callable(by_loop):
                by_loop(number, frame)

        if self.handle_signals:
            for one in (signal.SIGTERM, signal.SIGINT):
                with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                    loop.add_signal_handler(one, self.stop)
                    handled.append(one)
                    signal.signal(one, partial(note, signal.getsignal(one)))
                    signal.siginterrupt(one, False)

        def restore() -> None:
            for one in handled:
                loop.remove_signal_handler(one)

        return restore

    # --- metrics ------------------------------------------------------------------------

    async def _show_metrics(self) -> None:
        if self.metrics_port is None:
            return
        from polos_redis.metrics.endpoint import MetricsEndpoint

        endpoint = MetricsEndpoint(self, self.metrics_host, self.metrics_port)
        self._closing.push_async_callback(endpoint.close)
        self.metrics_url = await endpoint.open()
        logger.info("metrics", extra={"worker": self.worker_id, "url": self.metrics_url})

    def _facts(self) -> dict[str, Any]:
        abandoned = {} if self.host is None else self.host.abandoned_steps.copy()
        blocked = None if self._watchdog is None else self._watchdog.blocking()
        up_seconds = time.monotonic() - self._started
        return WorkerFacts.of(self, up_seconds, abandoned=list(abandoned.values()), blocked=blocked).plain()

    @property
    def active(self) -> Collection[Activation]:
        """The activations that run here now."""
        return () if self.host is None else self.host.active

    @property
    def lease_age(self) -> float:
        """The lease's age in seconds, in the partition where it is oldest; 0 until the worker is ready."""
        if self.host is None or not self.ready.is_set():
            return 0.0
        return max(self.host.lease.age(prefix) for prefix in self.host.store.prefixes)

    @property
    def reconnects(self) -> int:
        """The number of reconnects since the worker was ready, of its calls and its reads."""
        if self.host is None or not self.ready.is_set():
            return 0
        calls = self.host.store.wire.epoch - self._first_epoch
        return calls + sum(reading.reader.reconnects for reading in self._readings)
