"""The host: a worker as its activations see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from polos_redis import tasks

if TYPE_CHECKING:
    from polos_redis.connection.connection import Connection
    from polos_redis.links import Links
    from polos_redis.metrics.worker_stats import WorkerStats
    from polos_redis.runtime.resources import Resources
    from polos_redis.state.store import Store
    from polos_redis.tracing.spans import Tracer

A = TypeVar("A", contravariant=True)


class Host(Protocol[A]):
    """A worker as its activations (`A`) need it.

    The calls of `connection` and `store` wait for Redis without end: an outage is not the failure of a
    workflow's code. `draining`: the worker stops, so nothing new may start. `stuck_seconds`: code that has an
    accepted decision to reach and does not use ctx for so long is stuck. `released` frees the slot of an
    activation that has ended; `hand_back` gives its queue entry back, after a pause where an immediate retry
    would only be refused again, and with a `reason` that people are to see. `lapses` counts how often the
    lease of a partition was lost; `lease_is_held` says whether it is fresh, and has not lapsed since.
    `abandon` replaces a thread of `in_thread` that has exceeded its time; `facts` say of which step it is.
    `spawn` starts a task that outlives the activation and logs its failure. `recorded_values` has the values
    of `ctx.step.uuid`, `now` and `random` that a test repeats, by execution and step key, and takes new ones;
    None elsewhere. `tracer` is None unless the process is configured for tracing.
    """

    store: Store
    worker_id: str
    stats: WorkerStats
    value_limit: int
    max_journal_records: int
    audit_ms: int
    channel_names: Sequence[str]
    links: Links | None
    resources: Resources
    draining: bool
    stuck_seconds: float
    recorded_values: dict[tuple[str, str], Any] | None
    tracer: Tracer | None

    @property
    def connection(self) -> Connection: ...
    def lapses(self, prefix: bytes) -> int: ...
    def lease_is_held(self, prefix: bytes, lapses: int) -> bool: ...
    async def wait_for_lease(self, prefix: bytes) -> None: ...
    def in_thread(self, step: tasks.Owner, function: Callable[[], Any]) -> asyncio.Future[Any]: ...
    def abandon(self, thread: asyncio.Future[Any], facts: Mapping[str, Any]) -> None: ...
    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None: ...
    def released(self, activation: A) -> None: ...
    def hand_back(self, activation: A, *, pause: bool = False, reason: str = "") -> None: ...
