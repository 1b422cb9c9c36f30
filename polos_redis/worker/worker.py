"""The worker: reads runnable executions from the queues and runs their activations."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgpack

from polos_redis import settings, tasks
from polos_redis.client import PolosClient
from polos_redis.connection.notices import Notices
from polos_redis.definitions.published import define
from polos_redis.definitions.queue import Queue
from polos_redis.errors import ConfigurationError, ConnectionLostError, PolosError, RedisRefusedError
from polos_redis.executions.starting import Origin
from polos_redis.links import Links
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.notifications.channels import Channel, channels_of
from polos_redis.notifications.outbox import Outbox
from polos_redis.runtime.activation import Activation, State
from polos_redis.runtime.context import WorkflowContext
from polos_redis.runtime.durable_state import DurableState
from polos_redis.runtime.resources import Resources
from polos_redis.state import keys
from polos_redis.state.store import Fence, Store, text
from polos_redis.threads import DaemonThreads
from polos_redis.triggers.declarations import declare
from polos_redis.values import codec
from polos_redis.wire.wire import FIRST_PAUSE
from polos_redis.worker.errands import Errands
from polos_redis.worker.lease import Lease
from polos_redis.worker.readers import Reader, Readers
from polos_redis.worker.reaper import Reaper
from polos_redis.worker.server_checks import check_servers
from polos_redis.worker.timers import Timers
from polos_redis.workflow import Workflow, registered

if TYPE_CHECKING:
    from polos_redis.metrics.endpoint import MetricsEndpoint

logger = logging.getLogger("polos.worker")

BLOCK_SECONDS = 2.0
TICK_SECONDS = 0.02
CLOSE_SECONDS = 5.0  # at the end: how long giving entries back may take
READ_COUNT = 256  # entries of one read at the most
HAND_BACK_BATCH = 100
LONGEST_READ_PAUSE = 0.25  # seconds between attempts at a read that the server can't serve now

EntryPlace = tuple[bytes, str, bytes]  # an entry's partition, queue and id: two streams can give the same id


class Worker:
    """Runs activations of the given workflows (all that this process has defined, when left out), and of the
    tools of agents among them.

    Any number of workers share the work. A worker that dies is noticed within `lease_seconds` and its
    executions go on elsewhere from their journals; on SIGTERM or SIGINT it stops reading, lets running steps
    finish for up to `grace_seconds`, gives the rest back and returns; a second signal stops it at once. It
    reads the queues of its workflows and the default queue, or only those of `queues`. `channels` send
    notifications of its suspensions; left out, there is the webhook of POLOS_WEBHOOK_URL, if that is set.
    """

    def __init__(
        self,
        client: PolosClient,
        workflows: Iterable[Workflow[Any, Any]] | None = None,
        *,
        concurrency: int | None = None,
        lease_seconds: float | None = None,
        max_deliveries: int | None = None,
        grace_seconds: float | None = None,
        put_back_seconds: float | None = None,
        audit_seconds: float | None = None,
        queues: Iterable[str | Queue] | str | None = None,
        metrics_port: int | None = None,
        metrics_host: str | None = None,
        channels: Iterable[Channel] | None = None,
        handle_signals: bool = True,
    ) -> None:
        self.client = client
        self._workflows = None if workflows is None else list(workflows)
        self.workflows: dict[bytes, Workflow[Any, Any]] = {}
        self.concurrency: int = settings.resolve("concurrency", concurrency)
        self.lease_seconds: float = settings.resolve("lease_seconds", lease_seconds)
        self.max_deliveries: int = settings.resolve("max_deliveries", max_deliveries)
        self.grace_seconds: float = settings.resolve("grace_seconds", grace_seconds)
        self.put_back_ms = int(settings.resolve("put_back_seconds", put_back_seconds) * 1000)
        self.handle_signals = handle_signals
        self.metrics_port: int | None = settings.resolve("metrics_port", metrics_port)
        self.metrics_host: str = settings.resolve("metrics_host", metrics_host)
        self.metrics_url: str | None = None
        self.stats = WorkerStats()
        self.value_limit = client.max_value_bytes
        self.audit_ms = int(settings.resolve("audit_seconds", audit_seconds) * 1000)
        self.links = Links.from_settings(client.namespace)
        self.channels = channels_of(channels)
        self.channel_names: Sequence[str] = [channel.name for channel in self.channels]
        self._queues: list[str] | None = settings.resolve("queues", queues)
        self.queues: list[str] = []
        self.worker_id = f"{socket.gethostname()[:40].replace(':', '-')}-{os.getpid()}-{os.urandom(4).hex()}"
        self.block_seconds = min(BLOCK_SECONDS, self.lease_seconds / 2)
        self.draining = False
        self.resources = Resources()
        self.active: set[Activation] = set()
        self._held: dict[EntryPlace, Activation | None] = {}  # entries delivered here and not yet let go
        self._given_back: set[Activation] = set()
        self._timers: dict[bytes, Timers] = {}
        self._outboxes: list[Outbox] = []
        self._endpoint: MetricsEndpoint | None = None
        self._stop = 0
        self._stopping, self._stop_now = asyncio.Event(), asyncio.Event()
        self._idle, self._room = asyncio.Event(), asyncio.Event()
        self._running = False
        self.ready = asyncio.Event()

    # --- the run ------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped. Raises `ConfigurationError` when the server can't be worked with."""
        if self._running:
            raise ConfigurationError("this worker runs already: make another Worker for another run")
        self._running = True
        chosen = _with_needed(registered().values() if self._workflows is None else self._workflows)
        self.workflows = {workflow.id.encode("utf-8", "surrogatepass"): workflow for workflow in chosen}
        if not self.workflows:
            raise ConfigurationError(
                "there is no workflow to work on: import the module that defines them first"
            )
        for workflow in self.workflows.values():
            workflow.resolve()
        own = {keys.DEFAULT_QUEUE, *(workflow.queue.name for workflow in chosen)}
        self.queues = sorted(own if self._queues is None else self._queues)
        loop = self._loop = asyncio.get_running_loop()
        self._ours: set[asyncio.Task[Any]] = set()
        self._executor = DaemonThreads(self.concurrency, "polos-step")
        self._ticking = False
        tasks.install(loop)
        session = await self.client.session()
        self.store = Store(session.wire, self.client.namespace, self.client.partitions, patience=None)
        await check_servers(self.store.wire)
        ids = [workflow.id for workflow in self.workflows.values()]
        self._lease = Lease(self.store, self.worker_id, self.lease_seconds, ids, self.stats)
        self._readers = Readers(self.store.wire, self.store.prefixes, self.block_seconds, self._room)
        self._notices = Notices(
            self.store.wire, self.store.prefixes, self.worker_id, self._received, self._recheck_all
        )
        restore = self._take_signals()
        background: list[asyncio.Task[Any]] = []
        try:
            await self._make_groups(self.store.prefixes)
            await declare(self.store, self.workflows.values())
            await define(self.store, self.workflows.values())
            await self._lease.renew()
            await self._notices.start(*self.store.prefixes)
            self._first_epoch = self.store.wire.epoch
            await self._show_metrics()
            logger.info("worker ready", extra={"worker": self.worker_id, "workflows": ids})
            timers = [
                Timers(self.store, prefix, self.worker_id, Errands(self.client, self.store, prefix))
                for prefix in self.store.prefixes
            ]
            self._timers = {timers.prefix: timers for timers in timers}
            loops: list[Coroutine[Any, Any, None]] = [self._lease.run(), self._look_around()]
            loops += [timers.run() for timers in timers]
            loops += [self._reaper(timers).run() for timers in timers]
            self._outboxes = [
                Outbox(self.client, self.store, prefix, channel, self.links)
                for prefix in self.store.prefixes
                for channel in self.channels
            ]
            loops += [outbox.run() for outbox in self._outboxes]
            background = [tasks.spawn(one, "polos-worker-loop") for one in loops]
            reading = [tasks.spawn(self._read(reader), "polos-reader") for reader in self._readers]
            background += reading
            self.ready.set()
            stopping = tasks.spawn(self._stopping.wait())
            await asyncio.wait([*background, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            for task in background:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    raise task.exception()  # type: ignore[misc]
            await self._drain(reading)
        finally:
            self.draining = True
            await self._leave(background)
            restore()
        logger.info("worker stopped", extra={"worker": self.worker_id})

    def stop(self) -> None:
        """Begin to stop, as SIGTERM does; a second call stops at once. From the worker's own loop. One that
        has not begun to run stops as soon as it does."""
        self._stop += 1
        if self._stop == 1:
            self.draining = True
            self._stopping.set()
            self._room.set()
        else:
            self._stop_now.set()

    async def _drain(self, reading: list[asyncio.Task[None]]) -> None:
        logger.info("worker stops", extra={"worker": self.worker_id, "active": len(self.active)})
        unblock = tasks.spawn(self._unblock_readers(reading))
        for activation in list(self.active):
            if activation.in_flight == 0 and activation.waits and activation.state is State.RUNNING:
                self.hand_back(activation)  # it only waits here for its siblings: it can do so elsewhere
                activation.end("handed back")
        if self.active:
            self._idle.clear()
            waits = [tasks.spawn(self._idle.wait()), tasks.spawn(self._stop_now.wait())]
            await asyncio.wait(waits, timeout=self.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        for activation in list(self.active):
            logger.warning("given back", extra={"execution": activation.id})
            self.hand_back(activation)
            activation.end("handed back")
        await asyncio.wait(reading, timeout=self.block_seconds + 1)
        unblock.cancel()

    async def _unblock_readers(self, reading: list[asyncio.Task[None]]) -> None:
        """End the blocked reads early; a clean stop waits for their replies anyway."""
        while not all(task.done() for task in reading):
            await self._readers.unblock()
            await asyncio.sleep(0.02)

    async def _leave(self, background: Sequence[asyncio.Task[Any]]) -> None:
        for activation in list(self.active):
            self.hand_back(activation)
            activation.end("handed back")
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for timers in self._timers.values():
            await timers.errands.stop()
        await asyncio.gather(*(outbox.stop() for outbox in self._outboxes))
        late = self._loop.time() + (CLOSE_SECONDS if self.store.wire.connected else 1.0)
        while self._ours and self._loop.time() < late:
            await asyncio.wait(list(self._ours), timeout=late - self._loop.time())
        for task in list(self._ours):
            task.cancel()
        with contextlib.suppress(PolosError, TimeoutError):
            async with asyncio.timeout(1):
                for prefix in self.store.prefixes:
                    for queue in self.queues:
                        counter = await self.store.wire.call(
                            "HGET", prefix + keys.WORKERS.encode(), self.worker_id, patience=0.5
                        )
                        await self.store.prune(prefix, queue, self.worker_id, counter or b"")
        if self._endpoint is not None:
            await self._endpoint.close()
        with contextlib.suppress(Exception):  # of other services, which are left in any case
            await self.resources.close()
        await self._notices.close()
        await self._readers.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _take_signals(self) -> Callable[[], None]:
        taken: list[signal.Signals] = []
        if self.handle_signals:
            for one in (signal.SIGTERM, signal.SIGINT):
                with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                    self._loop.add_signal_handler(one, self.stop)
                    taken.append(one)

        def restore() -> None:
            for one in taken:
                self._loop.remove_signal_handler(one)

        return restore

    def _reaper(self, timers: Timers) -> Reaper:
        return Reaper(
            self.store,
            timers.prefix,
            self.worker_id,
            lease_seconds=self.lease_seconds,
            block_seconds=self.block_seconds,
            max_deliveries=self.max_deliveries,
            in_charge=lambda: timers.holding,
            in_touch=lambda: self._lease.age(timers.prefix) < self.lease_seconds / 2,
            stats=self.stats,
        )

    # --- what it counts -----------------------------------------------------------------

    async def _show_metrics(self) -> None:
        if self.metrics_port is None:
            return
        from polos_redis.metrics.endpoint import MetricsEndpoint

        self._endpoint = MetricsEndpoint(self, self.metrics_host, self.metrics_port)
        self.metrics_url = await self._endpoint.open()
        logger.info("metrics", extra={"worker": self.worker_id, "url": self.metrics_url})

    @property
    def lease_age(self) -> float:
        """Seconds since the last renewal of its lease, in the partition where that is longest ago; 0 before
        it is ready."""
        if not self.ready.is_set():
            return 0.0
        return max(self._lease.age(prefix) for prefix in self.store.prefixes)

    @property
    def reconnects(self) -> int:
        """How many connections were made anew since it was ready: that of its calls, and of its reads."""
        if not self.ready.is_set():
            return 0
        return self.store.wire.epoch - self._first_epoch + self._readers.reconnects

    # --- reading ------------------------------------------------------------------------

    async def _make_groups(self, prefixes: Sequence[bytes]) -> None:
        for prefix in prefixes:
            for queue in self.queues:
                await self.store.make_group(prefix, queue)

    async def _read(self, reader: Reader) -> None:
        streams = [
            (prefix, queue, prefix + keys.QUEUE.encode() + queue.encode())
            for prefix in reader.prefixes
            for queue in self.queues
        ]
        by_key = {key: (prefix, queue) for prefix, queue, key in streams}
        epoch, turn, reconciled, pause = -1, 0, 0.0, FIRST_PAUSE
        while not self.draining:
            try:
                for prefix in reader.prefixes:
                    await self._lease.wait_until_fresh(prefix)
                if epoch != reader.wire.epoch or not reader.wire.connected:
                    await reader.wire.call("PING", patience=None)
                    reader.client_id = await reader.wire.send("CLIENT", "ID")
                    epoch, reconciled = reader.wire.epoch, 0.0
                if self._loop.time() - reconciled > self.lease_seconds / 2:
                    await self._reconcile(reader, streams)
                    reconciled = self._loop.time()
                free = self.concurrency - len(self.active)
                free, block = self._readers.share(reader, free, len(streams))
                if not free:
                    self._room.clear()
                    await self._room.wait()
                    continue
                names = [key for _, _, key in streams]
                if free < len(names):
                    turn = (turn + free) % len(names)
                    names = (names + names)[turn : turn + free]
                count = min(READ_COUNT, max(1, free // len(names)))
                async with self._readers.reading(reader, count * len(names)):
                    reply = await reader.wire.send(
                        "XREADGROUP", "GROUP", keys.GROUP, self.worker_id, "COUNT", count,
                        "BLOCK", max(1, int(block * 1000)), "STREAMS", *names, *([">"] * len(names)),
                    )  # fmt: skip
                    pause, reader.quiet = FIRST_PAUSE, not reply
                    for key, entries in reply or ():
                        prefix, queue = by_key[key]
                        for entry, flat in entries:
                            self._deliver(prefix, queue, entry, flat)
            except ConnectionLostError as error:
                if getattr(error, "code", "") != "UNBLOCKED":
                    if pause == FIRST_PAUSE:
                        logger.warning("reading has to wait", extra={"error": str(error)})
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_READ_PAUSE)
            except RedisRefusedError as error:
                if getattr(error, "code", "") == "NOGROUP":
                    await self._make_groups(reader.prefixes)  # the stream was lost with the store
                else:
                    logger.error("the queue can't be read", extra={"error": str(error)})
                    await asyncio.sleep(1.0)

    async def _reconcile(self, reader: Reader, streams: Sequence[tuple[bytes, str, bytes]]) -> None:
        """Hand back what is pending for this worker and not running here: a reply was lost, or the store went
        back. On the reading connection with no read outstanding, so that nothing is on its way."""
        for prefix, queue, key in streams:
            after = "-"
            held = set(self._held)  # as it is before the look: what is let go meanwhile is no news
            while True:
                rows = await reader.wire.send(
                    "XPENDING", key, keys.GROUP, after, "+", HAND_BACK_BATCH, self.worker_id
                )
                unknown = [row[0] for row in rows if (prefix, queue, row[0]) not in held]
                if unknown:
                    logger.warning("handed back what never arrived", extra={"entries": len(unknown)})
                    await self._requeue(prefix, queue, unknown)
                if len(rows) < HAND_BACK_BATCH:
                    break
                after = "(" + text(rows[-1][0])

    async def _requeue(self, prefix: bytes, queue: str, entries: Sequence[bytes]) -> None:
        await self.store.requeue(
            prefix, queue, self.worker_id, entries, lost=False, max_deliveries=self.max_deliveries
        )

    def _deliver(self, prefix: bytes, queue: str, entry: bytes, flat: list[bytes] | None) -> None:
        """Start an activation for an entry: [id, .., workflow, .., run, .. (, input, .. (, about, ..) (,
        journal, ..))]."""
        self._held[prefix, queue, entry] = None
        if not flat or self.draining or not self._lease.is_fresh(prefix):
            self.spawn(self._let_go(prefix, queue, entry))
            return
        try:
            execution_id, name, run = flat[1].decode(), flat[3], int(flat[5])
            more = dict(zip(flat[8::2], flat[9::2], strict=True)) if len(flat) > 8 else {}
            records = msgpack.unpackb(more[b"journal"], raw=True) if b"journal" in more else None
        except (IndexError, ValueError):
            logger.error("an entry that can't be read was removed", extra={"entry": text(entry)})
            self.spawn(self._let_go(prefix, queue, entry))
            return
        workflow = self.workflows.get(name)
        if workflow is None:
            known_as = {"execution": execution_id, "workflow": text(name)}
            logger.info("unknown workflow, put back", extra=known_as)
            self.spawn(self._put_back(Fence(prefix, flat[1], entry, b""), queue))
            return
        self.stats.activations[workflow.id] += 1
        activation = Activation(self, workflow, execution_id, entry, run, queue)
        self._held[prefix, queue, entry] = activation
        self.active.add(activation)
        if records is not None:
            activation.take_along(dict(zip(records[::2], records[1::2], strict=True)))
        if len(flat) > 6:
            self._start(activation, flat[7], more.get(b"origin"))
        else:
            self.spawn(self._load(activation))
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_SECONDS, self._tick)

    async def _let_go(self, prefix: bytes, queue: str, entry: bytes) -> None:
        try:
            await self._requeue(prefix, queue, [entry])
        finally:
            self._held.pop((prefix, queue, entry), None)  # refused, it is found pending by `_reconcile`

    async def _put_back(self, fence: Fence, queue: str) -> None:
        try:
            await self.store.put_back(fence, queue, self.put_back_ms)
        finally:
            self._held.pop((fence.prefix, queue, fence.entry), None)

    async def _load(self, activation: Activation) -> None:
        try:
            epoch = -1
            loaded = None
            while epoch != self.store.wire.epoch:
                epoch = self.store.wire.epoch
                loaded = await self.store.load(activation.fence)
        except PolosError as error:
            activation.dropped(f"it can't be loaded: {error}", pause=True)
            return
        if activation.state is State.ENDED:
            return
        if loaded is None:
            activation.dropped("lost")
            return
        activation.take(loaded, epoch)
        self._start(activation, loaded.input, loaded.origin)

    def _start(self, activation: Activation, packed: bytes, origin: bytes | None) -> None:
        try:
            if origin is not None:
                activation.origin = Origin.unpack(activation.workflow.id, origin)
            given = activation.workflow.check_input(codec.decode(packed))
            if activation.origin.initial_state is not None:
                state = activation.workflow.check_state(codec.decode(activation.origin.initial_state))
                activation.durable_state = DurableState(state, self.value_limit)
        except Exception as error:
            activation.fail_before_start(error)
            return
        ctx = WorkflowContext(activation)
        activation.start(lambda: activation.workflow.call(ctx, given))

    # --- what activations need (their Host) ---------------------------------------------

    def lease_is_fresh(self, prefix: bytes) -> bool:
        return self._lease.is_fresh(prefix)

    async def wait_for_lease(self, prefix: bytes) -> None:
        await self._lease.wait_until_fresh(prefix)

    def in_thread(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        context = contextvars.copy_context()
        context.run(tasks.OWNER.set, tasks.INSIDE_STEP)  # it may start tasks in the loop
        return self._loop.run_in_executor(self._executor, context.run, _call_in_thread, function)

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None:
        """Run a task of the worker's own; its failure is logged, a cancellation is its end."""
        task = tasks.spawn(coro)
        self._ours.add(task)
        task.add_done_callback(self._spawned_done)

    def _spawned_done(self, task: asyncio.Task[Any]) -> None:
        self._ours.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a task of the worker failed", exc_info=task.exception())

    def released(self, activation: Activation) -> None:
        """An activation has ended: its slot is free."""
        self.active.discard(activation)
        if activation not in self._given_back:
            fence = activation.fence
            self._held.pop((fence.prefix, activation.queue, fence.entry), None)
        self._room.set()
        if not self.active:
            self._idle.set()

    def hand_back(self, activation: Activation, *, pause: bool = False) -> None:
        """Give an activation's entry back to the queue (or delete it there, if it is not the live one)."""
        if activation not in self._given_back:
            self._given_back.add(activation)
            self.spawn(self._hand_back(activation, pause))

    async def _hand_back(self, activation: Activation, pause: bool) -> None:
        try:
            if pause:
                await self._put_back(activation.fence, activation.queue)
            else:
                await self._let_go(activation.fence.prefix, activation.queue, activation.fence.entry)
        finally:
            self._given_back.discard(activation)

    # --- around -------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.time()
        for activation in list(self.active):
            activation.tick(now)
        self._ticking = bool(self.active)
        if self._ticking:
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _received(self, notice: list[Any]) -> None:
        if notice[0] == b"errand":
            if (timers := self._timers.get(notice[1])) is not None:
                timers.hurry()
            return
        execution_id = notice[1].decode()
        for activation in self.active:
            if activation.id == execution_id:
                if notice[0] == b"wake":
                    activation.notify(text(notice[2]), notice[3])
                elif notice[0] == b"cancelled" and notice[2] == activation.fence.entry:
                    logger.info("cancelled", extra={"execution": execution_id})
                    activation.end("cancelled")
                return

    def _recheck_all(self) -> None:
        """After the reply channel was away: an answer or a cancel may have been told to nobody."""
        for activation in self.active:
            if activation.main is not None and activation.state is State.RUNNING:
                self.spawn(activation.verify())

    def _recheck(self) -> None:
        """Look again at what the living activations wait for: a notice may have been lost."""
        for activation in self.active:
            if activation.waits and activation.state is State.RUNNING:
                self.spawn(activation.verify())

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(self.lease_seconds / 3)
            self._recheck()


def _with_needed(chosen: Iterable[Workflow[Any, Any]]) -> list[Workflow[Any, Any]]:
    """These workflows and what they need beside them, each once."""
    found: dict[int, Workflow[Any, Any]] = {}
    left = list(chosen)
    while left:
        one = left.pop(0)
        if id(one) not in found:
            found[id(one)] = one
            left += one.needed
    return list(found.values())


def _call_in_thread(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except StopIteration as error:  # a future can't carry it
        raise RuntimeError(f"the step's function raised StopIteration({error.value!r})") from error
