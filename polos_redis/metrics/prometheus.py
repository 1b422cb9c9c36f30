"""Metrics for Prometheus: of a namespace's state, which any process can read, and of what one worker counts.

prometheus_client is imported when something is shown, not before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from polos_redis.connection.connection import Connection
from polos_redis.errors import ConfigurationError, RedisUnavailableError
from polos_redis.metrics.namespace_stats import LeaseWatch, NamespaceStats, read_namespace_stats
from polos_redis.metrics.worker_stats import Durations, ObservedWorker

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LOOK_SECONDS = 5.0  # Prometheus gives up after ten

Sample = tuple[Sequence[str], Any]  # the labels' values, and a number; of a histogram, `Durations`


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is called, which labels it has, and what it tells."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    meaning: str


STATE = (
    Metric("polos_executions", "gauge", ("workflow", "status"), "executions, until they are forgotten"),
    Metric("polos_suspensions_open", "gauge", (), "suspensions that wait for a person"),
    Metric("polos_suspension_oldest_seconds", "gauge", (), "how long the oldest of them is open; 0 for none"),
    Metric("polos_queue_waiting", "gauge", ("queue",), "runnable executions that no worker has taken yet"),
    Metric("polos_queue_delivered", "gauge", ("queue",), "executions that workers have taken"),
    Metric("polos_queue_limit", "gauge", ("queue",), "the queue's limit, where it has one"),
    Metric("polos_queue_slots", "gauge", ("queue",), "slots taken under the limit"),
    Metric("polos_queue_waiters", "gauge", ("queue",), "executions that wait for a slot"),
    Metric("polos_timers", "gauge", (), "timers that are set"),
    Metric("polos_timers_due", "gauge", (), "timers that are due and not fired yet"),
    Metric("polos_errands", "gauge", (), "errands that are noted"),
    Metric("polos_errands_due", "gauge", (), "errands that are due and not done yet"),
    Metric("polos_workers", "gauge", (), "workers alive"),
    Metric("polos_partitions_unattended", "gauge", (), "partitions in which no worker fires timers"),
    Metric("polos_names_left_out", "gauge", ("what",), "workflows and queues beyond the first 1000 by name"),
)

WORKER = (
    Metric("polos_worker_active", "gauge", (), "activations under way"),
    Metric("polos_worker_concurrency", "gauge", (), "how many may be"),
    Metric("polos_activations_total", "counter", ("workflow",), "activations begun"),
    Metric("polos_parks_total", "counter", ("workflow",), "activations that have parked"),
    Metric(
        "polos_activations_dropped_total", "counter", ("workflow",), "activations that were lost or refused"
    ),
    Metric("polos_executions_ended_total", "counter", ("workflow", "status"), "executions ended here"),
    Metric("polos_step_seconds", "histogram", ("workflow", "status"), "attempts of steps, by how they ended"),
    Metric("polos_wait_seconds", "histogram", ("kind",), "decided waits of executions ended here"),
    Metric("polos_lease_age_seconds", "gauge", (), "since the lease was renewed"),
    Metric(
        "polos_lease_renewals_missed_total", "counter", (), "renewals of the lease that were late or failed"
    ),
    Metric("polos_entries_recovered_total", "counter", ("outcome",), "what lost workers held"),
    Metric("polos_reconnects_total", "counter", (), "connections to Redis that were made anew"),
)

_lives: WeakKeyDictionary[Connection, LeaseWatch] = WeakKeyDictionary()


async def exposition(connection: Connection) -> bytes:
    """The state of the client's namespace as Prometheus reads it, of `CONTENT_TYPE`.

    Raises `RedisUnavailableError` when it can't be read within five seconds.
    """
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            stats = await read_namespace_stats(await connection.store())
    except TimeoutError:
        raise RedisUnavailableError(
            f"the state could not be read for metrics within {LOOK_SECONDS:g} s: Redis is away or busy"
        ) from None
    workers = _lives.setdefault(connection, LeaseWatch()).count(stats.leases)
    return _text(_of_state(stats, workers))


class WorkerMetrics:
    """What a worker counts, as a collector of prometheus_client: `REGISTRY.register(WorkerMetrics(worker))`
    where a service has the worker in its own process."""

    def __init__(self, worker: ObservedWorker) -> None:
        self._worker = worker

    def describe(self) -> list[Family]:
        """Every metric without its values, so that registering asks for none."""
        return list(_families(WORKER, {}))

    def collect(self) -> Iterator[Family]:
        """Every metric as it is now. From any thread."""
        worker = self._worker
        stats = worker.stats
        return _families(
            WORKER,
            {
                "polos_worker_active": [((), len(worker.active))],
                "polos_worker_concurrency": [((), worker.concurrency)],
                "polos_activations_total": _by_name(stats.activations),
                "polos_parks_total": _by_name(stats.parks),
                "polos_activations_dropped_total": _by_name(stats.dropped),
                "polos_executions_ended_total": list(stats.ended.copy().items()),
                "polos_step_seconds": list(stats.steps.copy().items()),
                "polos_wait_seconds": _by_name(stats.waits),
                "polos_lease_age_seconds": [((), worker.lease_age)],
                "polos_lease_renewals_missed_total": [((), stats.renewals_missed)],
                "polos_entries_recovered_total": _by_name(stats.recovered),
                "polos_reconnects_total": [((), worker.reconnects)],
            },
        )


def need_prometheus() -> None:
    """Raises `ConfigurationError` when the library that shows metrics is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "metrics need prometheus_client: pip install 'polos-redis[metrics]'"
        ) from None


def _of_state(stats: NamespaceStats, workers: int) -> Iterator[Family]:
    queues = [((name,), queue) for name, queue in stats.queues.items()]
    return _families(
        STATE,
        {
            "polos_executions": list(stats.executions.items()),
            "polos_suspensions_open": [((), stats.suspensions)],
            "polos_suspension_oldest_seconds": [((), stats.oldest_suspension_ms / 1000)],
            "polos_queue_waiting": [(name, queue.waiting) for name, queue in queues],
            "polos_queue_delivered": [(name, queue.delivered) for name, queue in queues],
            "polos_queue_limit": [(name, queue.limit) for name, queue in queues if queue.limit is not None],
            "polos_queue_slots": [(name, queue.slots) for name, queue in queues if queue.limit is not None],
            "polos_queue_waiters": [
                (name, queue.waiters) for name, queue in queues if queue.limit is not None
            ],
            "polos_timers": [((), stats.timers)],
            "polos_timers_due": [((), stats.timers_due)],
            "polos_errands": [((), stats.errands)],
            "polos_errands_due": [((), stats.errands_due)],
            "polos_workers": [((), workers)],
            "polos_partitions_unattended": [((), stats.unattended)],
            "polos_names_left_out": _by_name(stats.left_out),
        },
    )


def _by_name(values: dict[str, Any]) -> list[Sample]:
    return [((name,), value) for name, value in values.copy().items()]


def _families(table: Iterable[Metric], samples: dict[str, list[Sample]]) -> Iterator[Family]:
    from prometheus_client import metrics_core as core

    for metric in table:
        family: Family
        given = [
            ([_label(value) for value in labels], value) for labels, value in samples.get(metric.name, ())
        ]
        if metric.kind == "gauge":
            family = core.GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in given:
                family.add_metric(labels, value)
        elif metric.kind == "counter":
            family = core.CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in given:
                family.add_metric(labels, value)
        else:
            family = core.HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in given:
                family.add_metric(labels, *_histogram(value))
        yield family


def _histogram(durations: Durations) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus wants them, each with all that is below it, and the sum."""
    bounds = [*map(str, durations.bounds), "+Inf"]
    return list(zip(bounds, accumulate(durations.counts[:]), strict=True)), durations.seconds


def _label(value: str) -> str:
    """A label's value: ids may be what UTF-8 can't say."""
    return value.encode("utf-8", "backslashreplace").decode()


def _text(families: Iterable[Family]) -> bytes:
    need_prometheus()
    from prometheus_client import CollectorRegistry, generate_latest

    class Once:
        def collect(self) -> Iterable[Family]:
            return families

    registry = CollectorRegistry()
    registry.register(Once())
    return generate_latest(registry)
