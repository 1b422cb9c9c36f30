"""The lease: a worker's claim to be alive, a counter in Redis that the worker raises every few seconds.

No clock is compared across machines: others presume a worker dead when its counter stands still on their own
clock, and a worker judges itself by its own last renewal.

A thread renews it, over a connection of its own: code that blocks the event loop makes a worker slow, not
dead, and its steps must not run elsewhere meanwhile. A frozen process still loses its lease, as does one
whose C code holds the interpreter's lock, and one whose loop is blocked for longer than its guard allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack

from polos_redis.errors import PolosError, ReleaseTooOldError
from polos_redis.metrics.worker_stats import WorkerStats
from polos_redis.state import scripts
from polos_redis.state.store import Store
from polos_redis.wire.routing import wire_to
from polos_redis.worker.loop_guard import LoopGuard

logger = logging.getLogger("polos.worker")

END_SECONDS = 2.0  # for the thread, when the worker stops

# A monotonic clock that goes on while the machine sleeps, where there is one: others see the sleep as well.
now: Callable[[], float] = time.monotonic
if hasattr(time, "clock_gettime"):
    now = functools.partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """The lease of one worker: a counter in each partition, valid only there. While a partition can't be
    renewed (its node is away, its slot migrates) the worker continues in the others.

    `lapses` is how often the counter of each partition has stood still for a lease. What began before a lapse
    must check that it is still its worker's, even if the lease has been renewed since. `given_up` is called
    in the thread when the `guard` gives up the loop. Each renewal stores the `facts` about the worker, which
    are called in the thread, too. So is `outdated`, after each renewal that finds that the namespace needs a
    newer release; the lease is renewed all the same.
    """

    def __init__(
        self,
        store: Store,
        url: str,
        worker_id: str,
        seconds: float,
        workflows: Mapping[str, str | None],
        queues: Sequence[str],
        stats: WorkerStats,
        guard: LoopGuard,
        given_up: Callable[[], None] = lambda: None,
        facts: Callable[[], Mapping[str, Any]] = dict,
        outdated: Callable[[ReleaseTooOldError], None] = lambda error: None,
    ) -> None:
        self.store = store
        self.worker_id = worker_id
        self.seconds = seconds
        self.lapses = dict.fromkeys(store.prefixes, 0)
        self.guard = guard
        self._given_up = given_up
        self._url = url
        self._stats = stats
        self._facts = facts
        self._outdated = outdated
        self._serves: dict[str, Any] = {}
        self.announce(workflows, queues)
        self._renewed = dict.fromkeys(store.prefixes, float("-inf"))
        self._fresh = {prefix: asyncio.Event() for prefix in store.prefixes}
        self._reported = float("-inf")  # when a lapse was logged last
        self._frozen = False
        self._stopping = False
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None  # of the thread

    def announce(self, workflows: Mapping[str, str | None], queues: Sequence[str]) -> None:
        """Say with the next renewal what this worker serves: ids of workflows, and the versions of those that
        have one."""
        self._serves = {
            "workflows": list(workflows),
            "versions": {one: version for one, version in workflows.items() if version is not None},
            "queues": list(queues),
            "lease_seconds": self.seconds,
        }

    def age(self, prefix: bytes) -> float:
        """Returns the seconds since the last renewal in a partition."""
        return now() - self._renewed[prefix]

    def is_fresh(self, prefix: bytes) -> bool:
        """Whether this worker may start anything in a partition: it renewed less than a lease ago."""
        return now() - self._renewed[prefix] < self.seconds

    def is_held(self, prefix: bytes, lapses: int) -> bool:
        """Whether the lease of a partition is fresh, and has not lapsed since its `lapses` were read."""
        return now() - self._renewed[prefix] < self.seconds and lapses == self.lapses[prefix]

    async def wait_until_fresh(self, prefix: bytes) -> None:
        """Return after the next renewal, or at once when the lease is fresh."""
        while not self.is_fresh(prefix):
            self._fresh[prefix].clear()
            await self._fresh[prefix].wait()

    def freeze(self) -> None:
        """Let the lease lapse and renew it no more, so that the worker starts nothing: a test's crash."""
        self._frozen = True
        for prefix in self._renewed:
            self.lapses[prefix] += 1
            self._renewed[prefix] = float("-inf")

    def thaw(self) -> None:
        """Take the lease up again; what began before it was frozen stays doubtful."""
        self._frozen = False
        for prefix, fresh in self._fresh.items():
            self._renewed[prefix] = now()
            fresh.set()

    async def renew(self) -> None:
        """Raise the counters, before `run`."""
        await asyncio.gather(*(self._renew(self.store, prefix) for prefix in self.store.prefixes))

    async def _renew(self, store: Store, prefix: bytes) -> None:
        serves = msgpack.packb({**self._serves, "facts": self._facts()})
        since = now()  # from the request on, not from the reply
        await store.workers.renew(prefix, self.worker_id, serves)
        if (before := self._renewed[prefix]) > 0:
            self._stats.renewals_missed += max(0, round((since - before) / (self.seconds / 3)) - 1)
            if (stood_still := now() - before) >= self.seconds:
                self.lapses[prefix] += 1  # before the lease is fresh again: nobody sees only the one
                self._renewed[prefix] = since
                self._report_lapse(stood_still)
        self._renewed[prefix] = since
        if prefix == store.prefixes[0]:
            try:
                await store.partitions.check_reader()
            except ReleaseTooOldError as error:
                self._outdated(error)

    async def run(self) -> None:
        """Renew until cancelled, three times per lease."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        threading.Thread(
            target=self._run_in_thread, args=(loop, ended), name="polos-lease", daemon=True
        ).start()
        try:
            while not ended.done():
                self.guard.beat()
                await asyncio.wait({ended}, timeout=self.guard.interval / 2)
            ended.result()
        finally:
            self._stopping = True
            if self._stop is not None:
                with contextlib.suppress(RuntimeError):  # it has ended
                    self._stop[0].call_soon_threadsafe(self._stop[1].set)
            await asyncio.wait({ended}, timeout=END_SECONDS)

    # --- in the thread ------------------------------------------------------------------

    def _report_lapse(self, seconds: float) -> None:
        """Log that the lease had lapsed: once, as it mostly lapses in all partitions."""
        if now() - self._reported >= self.seconds:
            self._reported = now()
            logger.warning("the lease had lapsed", extra={"seconds": round(seconds, 1)})

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
        wire = wire_to(
            self._url,
            name="polos-lease",
            scripts=(scripts.RENEW_LEASE,),
            partitions=partitions.number,
            credentials=self.store.wire.credentials,
        )
        store = Store(wire, partitions.namespace, partitions.number, patience=None)
        running = [asyncio.create_task(self._keep(store, prefix, loop)) for prefix in store.prefixes]
        running.append(asyncio.create_task(self._watch_the_loop()))
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
        """Renew in one partition, unless the loop is given up."""
        while True:
            await asyncio.sleep(self.seconds / 3)
            if self.guard.is_over or self._frozen:
                continue
            try:
                await self._renew(store, prefix)
            except PolosError as error:
                logger.error("the lease could not be renewed", extra={"error": str(error)})
            else:
                with contextlib.suppress(RuntimeError):  # the worker's loop was closed
                    loop.call_soon_threadsafe(self._fresh[prefix].set)

    async def _watch_the_loop(self) -> None:
        over = False
        while True:
            await asyncio.sleep(self.guard.interval)
            self.guard.look()
            if self.guard.is_over and not over:
                self._given_up()
            elif over and not self.guard.is_over:
                logger.warning("the event loop turns again: the lease is renewed")
            over = self.guard.is_over


def _resolve(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if not ended.done():
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
