"""An overview of a namespace at work: how fast, how many, and what waits."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from polos_redis.diagnosis.queues import QueueReading, read_queues
from polos_redis.diagnosis.workers import WorkerReading, read_workers
from polos_redis.metrics.namespace_stats import read_namespace_stats
from polos_redis.metrics.worker_facts import WorkerFacts
from polos_redis.state.executions import STORED_STATUSES
from polos_redis.state.store import Store

LOOK_SECONDS = 0.25
MARGIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WorkRates:
    """What the workers do per second: activations, executions that end, those of them that fail, and attempts
    of steps."""

    activations: float = 0.0
    ended: float = 0.0
    failed: float = 0.0
    steps: float = 0.0


@dataclass(frozen=True, slots=True)
class Overview:
    """One look at a namespace. `executions` counts those that are stored by status. `rates` is None until a
    worker has renewed its lease twice; "oldest" is an age."""

    rates: WorkRates | None
    executions: dict[str, int]
    suspensions: int
    oldest_suspension_seconds: float
    timers: int
    timers_due: int
    errands: int
    errands_due: int
    errands_set_aside: int
    queues: tuple[QueueReading, ...]
    workers: tuple[WorkerReading, ...]

    def plain(self) -> dict[str, Any]:
        """Returns JSON values."""
        numbers = {
            name: getattr(self, name) for name in self.__slots__ if name not in ("rates", "queues", "workers")
        }
        return {
            "rates": None if self.rates is None else asdict(self.rates),
            **numbers,
            "queues": [one.plain() for one in self.queues],
            "workers": [one.plain() for one in self.workers],
        }


class Overviews:
    """Reads overviews of a namespace, one after the other.

    A worker counts what it does and stores the counters with each renewal of its lease, so a rate is that
    between its last two renewals. One whose lease is not renewed for its duration, on this process's clock,
    is silent; one seen for the first time is alive.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._renewed: dict[str, tuple[int | None, float]] = {}
        self._facts: dict[str, tuple[WorkerFacts | None, WorkerFacts]] = {}  # of the last two renewals

    async def read(self) -> Overview:
        """Returns the next overview. Raises `RedisUnavailableError`."""
        workers, stats = await asyncio.gather(read_workers(self._store), read_namespace_stats(self._store))
        self._saw(workers)
        executions = dict.fromkeys(STORED_STATUSES, 0)
        for (_, status), number in stats.executions.items():
            executions[status] += number
        return Overview(
            rates=self._rates(workers.values()),
            executions=executions,
            suspensions=stats.suspensions,
            oldest_suspension_seconds=stats.oldest_suspension_ms / 1000,
            timers=stats.timers,
            timers_due=stats.timers_due,
            errands=stats.errands,
            errands_due=stats.errands_due,
            errands_set_aside=stats.errands_set_aside,
            queues=tuple(await read_queues(self._store, stats, workers.values())),
            workers=tuple(sorted(workers.values(), key=lambda one: one.id)),
        )

    async def read_with_rates(self) -> Overview:
        """Returns an overview as soon as each live worker has renewed its lease twice, or could have."""
        found = await self.read()
        longest = max((one.lease_seconds for one in found.workers if one.alive), default=0.0)
        deadline = time.monotonic() + longest * 2 / 3 + MARGIN_SECONDS
        while time.monotonic() < deadline and any(
            one.alive and self._facts[one.id][0] is None for one in found.workers
        ):
            await asyncio.sleep(LOOK_SECONDS)
            self._saw(await read_workers(self._store))
        return await self.read()

    def _saw(self, workers: dict[str, WorkerReading]) -> None:
        now, renewed, facts = time.monotonic(), self._renewed, self._facts
        self._renewed, self._facts = {}, {}
        for name, one in workers.items():
            before = renewed.get(name)
            if before is None or before[0] != one.renewals:
                before = (one.renewals, now)
            self._renewed[name] = before
            one.alive = one.renewals is not None and now - before[1] < one.lease_seconds
            if one.facts is not None:
                last = facts.get(name, (None, one.facts))
                self._facts[name] = last if last[1] == one.facts else (last[1], one.facts)

    def _rates(self, workers: Iterable[WorkerReading]) -> WorkRates | None:
        sums, known = Counter[str](), False
        for one in workers:
            before, after = self._facts.get(one.id, (None, None))
            if not one.alive or before is None or after is None:
                continue
            known = True
            for name in WorkRates.__slots__:
                done = getattr(after, name) - getattr(before, name)
                sums[name] += done / (after.up_seconds - before.up_seconds)
        return WorkRates(**{name: round(sums[name], 1) for name in WorkRates.__slots__}) if known else None
