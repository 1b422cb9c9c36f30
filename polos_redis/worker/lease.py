"""The lease: a worker's claim to be alive, a counter in Redis that the worker raises every few seconds.

No clock is compared across machines: others presume a worker dead when its counter stands still on their own
monotonic clock, and a worker judges itself by its own last renewal.

A thread renews it, over a connection of its own: code that blocks the event loop makes a worker slow, not
dead, and its steps must not run elsewhere meanwhile. A frozen process still loses its lease, and so does one
whose loop does not turn for `BLOCKED_LEASES` leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sequence

import msgpack

from polos_redis.errors import PolosError
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.state import scripts
from polos_redis.state.store import Store
from polos_redis.wire.routing import wire_to

logger = logging.getLogger("polos.worker")

BLOCKED_LEASES = 20
END_SECONDS = 2.0  # for the thread, when the worker stops


class Lease:
    """The lease of one worker: a counter in each partition, valid only there. While a partition can't be
    renewed (its node is away, its slot migrates) the worker continues in the others.

    `lapses` is how often a counter has stood still for a lease. Whoever has started something before a lapse
    must look whether it is still its own, even if the lease has been renewed since.
    """

    def __init__(
        self,
        store: Store,
        url: str,
        worker_id: str,
        seconds: float,
        workflows: Sequence[str],
        queues: Sequence[str],
        stats: WorkerStats,
    ) -> None:
        self.store = store
        self.worker_id = worker_id
        self.seconds = seconds
        self.lapses = 0
        self._url = url
        self._stats = stats
        self._serves = b""
        self.announce(workflows, queues)
        self._renewed = dict.fromkeys(store.prefixes, float("-inf"))
        self._fresh = {prefix: asyncio.Event() for prefix in store.prefixes}
        self._turned = time.monotonic()  # when the worker's loop turned last
        self._stopping = False
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None  # of the thread

    def announce(self, workflows: Sequence[str], queues: Sequence[str]) -> None:
        """Say with the next renewal what this worker serves."""
        serves = {"workflows": list(workflows), "queues": list(queues), "lease_seconds": self.seconds}
        self._serves = msgpack.packb(serves)

    def age(self, prefix: bytes) -> float:
        """Returns the seconds since the last renewal in a partition."""
        return time.monotonic() - self._renewed[prefix]

    def is_fresh(self, prefix: bytes) -> bool:
        """Whether this worker may start anything in a partition: it renewed less than a lease ago."""
        return time.monotonic() - self._renewed[prefix] < self.seconds

    def is_held(self, prefix: bytes, lapses: int) -> bool:
        """Whether the lease is fresh, and has not lapsed since this number of lapses was read."""
        return time.monotonic() - self._renewed[prefix] < self.seconds and lapses == self.lapses

    async def wait_until_fresh(self, prefix: bytes) -> None:
        """Return after the next renewal, or at once when the lease is fresh."""
        while not self.is_fresh(prefix):
            self._fresh[prefix].clear()
            await self._fresh[prefix].wait()

    async def renew(self) -> None:
        """Raise the counters, before `run`."""
        await asyncio.gather(*(self._renew(self.store, prefix) for prefix in self.store.prefixes))

    async def _renew(self, store: Store, prefix: bytes) -> None:
        since = time.monotonic()  # from the request on, not from the reply
        await store.workers.renew(prefix, self.worker_id, self._serves)
        if (before := self._renewed[prefix]) > 0:
            self._stats.renewals_missed += max(0, round((since - before) / (self.seconds / 3)) - 1)
            if time.monotonic() - before >= self.seconds:
                self.lapses += 1  # before the lease is fresh again: nobody sees only the one
        self._renewed[prefix] = since

    async def run(self) -> None:
        """Renew until cancelled, three times per lease."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        threading.Thread(
            target=self._run_in_thread, args=(loop, ended), name="polos-lease", daemon=True
        ).start()
        try:
            while not ended.done():
                self._turned = time.monotonic()
                await asyncio.wait({ended}, timeout=self.seconds / 3)
            ended.result()
        finally:
            self._stopping = True
            if self._stop is not None:
                with contextlib.suppress(RuntimeError):  # it has ended
                    self._stop[0].call_soon_threadsafe(self._stop[1].set)
            await asyncio.wait({ended}, timeout=END_SECONDS)

    # --- in the thread ------------------------------------------------------------------

    def _run_in_thread(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._keep_all(loop))
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the worker's loop was closed
            loop.call_soon_threadsafe(_resolve, ended, error)

    async def _keep_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """Renew in all partitions until the worker stops."""
        stop = asyncio.Event()
        self._stop = (asyncio.get_running_loop(), stop)
        partitions = self.store.partitions
        credentials = self.store.wire.credentials
        wire = wire_to(self._url, name="polos-lease", scripts=(scripts.RENEW_LEASE,), credentials=credentials)
        store = Store(wire, partitions.namespace, partitions.number, patience=None)
        running = [asyncio.create_task(self._keep(store, prefix, loop)) for prefix in store.prefixes]
        stopped = asyncio.create_task(stop.wait())
        try:
            while not self._stopping and not stopped.done():
                done, _ = await asyncio.wait({stopped, *running}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (stopped, *running):
                task.cancel()
            await asyncio.gather(stopped, *running, return_exceptions=True)
            await wire.close()

    async def _keep(self, store: Store, prefix: bytes, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            await asyncio.sleep(self.seconds / 3)
            blocked = time.monotonic() - self._turned
            if blocked > BLOCKED_LEASES * self.seconds:
                logger.error("the lease is given up: the loop is blocked", extra={"seconds": round(blocked)})
                continue
            try:
                await self._renew(store, prefix)
            except PolosError as error:
                logger.error("the lease could not be renewed", extra={"error": str(error)})
            else:
                with contextlib.suppress(RuntimeError):  # the worker's loop was closed
                    loop.call_soon_threadsafe(self._fresh[prefix].set)


def _resolve(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if not ended.done():
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
