"""Metrics in the Prometheus format: the state of a namespace, and the counters of one worker.

prometheus_client is imported on first use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from polos_redis.connection.clients import takes_client
from polos_redis.connection.connection import Connection
from polos_redis.errors import ConfigurationError, RedisUnavailableError
from polos_redis.metrics.namespace_stats import LeaseReading, LeaseWatch, NamespaceStats, read_namespace_stats
from polos_redis.metrics.worker_stats import Durations, ObservedWorker
from polos_redis.redaction import redact_text

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TIMEOUT_SECONDS = 5.0  # Prometheus gives up after ten

Sample = tuple[Sequence[str], Any]  # the labels' values, and a number or `Durations`


@dataclass(frozen=True, slots=True)
class Metric:
    """The definition of one metric; `meaning` is its help text."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    meaning: str


STATE = (
    Metric("polos_executions", "gauge", ("workflow", "status"), "executions that are still stored"),
    Metric(
        "polos_executions_unserved", "gauge", ("workflow",), "queued executions that no live worker serves"
    ),
    Metric("polos_suspensions_open", "gauge", (), "open suspensions"),
    Metric("polos_suspension_oldest_seconds", "gauge", (), "age of the oldest open suspension, or 0"),
    Metric("polos_queue_waiting", "gauge", ("queue",), "runnable executions not yet delivered to a worker"),
    Metric("polos_queue_delivered", "gauge", ("queue",), "executions that workers hold"),
    Metric("polos_queue_limit", "gauge", ("queue",), "the queue's concurrency limit, if it has one"),
    Metric("polos_queue_slots", "gauge", ("queue",), "slots in use, of the limit"),
    Metric("polos_queue_waiters", "gauge", ("queue",), "executions waiting for a slot"),
    Metric("polos_timers", "gauge", (), "pending timers, due or not"),
    Metric("polos_timers_due", "gauge", (), "timers due but not fired"),
    Metric("polos_errands", "gauge", (), "pending errands, due or not"),
    Metric("polos_errands_due", "gauge", (), "errands due but not done"),
    Metric("polos_errands_set_aside", "gauge", (), "errands that failed too often to be tried again"),
    Metric("polos_workers", "gauge", (), "live workers"),
    Metric("polos_partitions_unattended", "gauge", (), "partitions without a timer leader"),
    Metric("polos_names_left_out", "gauge", ("what",), "workflows and queues that are not exported"),
)

WORKER = (
    Metric("polos_worker_active", "gauge", (), "activations in progress"),
    Metric("polos_worker_concurrency", "gauge", (), "maximum number of activations in progress"),
    Metric("polos_activations_total", "counter", ("workflow",), "activations started"),
    Metric("polos_parks_total", "counter", ("workflow",), "activations that parked"),
    Metric("polos_executions_stuck_total", "counter", ("workflow",), "executions that became stuck"),
    Metric("polos_executions_paused_total", "counter", ("workflow",), "executions paused as they had failed"),
    Metric(
        "polos_steps_unreached_total",
        "counter",
        ("workflow",),
        "journaled steps that code, changed since, did not reach until its end",
    ),
    Metric(
        "polos_activations_dropped_total", "counter", ("workflow",), "activations that were lost or refused"
    ),
    Metric(
        "polos_executions_ended_total",
        "counter",
        ("workflow", "status"),
        "executions that ended on this worker",
    ),
    Metric("polos_step_seconds", "histogram", ("workflow", "status"), "step attempts"),
    Metric(
        "polos_wait_seconds", "histogram", ("kind",), "resolved waits of executions that ended on this worker"
    ),
    Metric("polos_lease_age_seconds", "gauge", (), "time since the lease was renewed"),
    Metric("polos_lease_renewals_missed_total", "counter", (), "lease renewals that were late or failed"),
    Metric("polos_loop_blocked_total", "counter", (), "times the event loop was blocked for too long"),
    Metric("polos_entries_recovered_total", "counter", ("outcome",), "entries recovered from lost workers"),
    Metric("polos_reconnects_total", "counter", (), "reconnections to Redis"),
)

_lease_watches: WeakKeyDictionary[Connection, LeaseWatch] = WeakKeyDictionary()


@takes_client
async def exposition(client: Connection) -> bytes:
    """Return the metrics of a client's namespace in the Prometheus text format (`CONTENT_TYPE`).

    Raises `RedisUnavailableError` if they can't be read within five seconds.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            stats = await read_namespace_stats(await client.store())
    except TimeoutError:
        raise RedisUnavailableError(
            f"metrics could not be read within {TIMEOUT_SECONDS:g} s: Redis is unavailable or busy"
        ) from None
    live = _lease_watches.setdefault(client, LeaseWatch()).live(stats.leases)
    return _text(_state_families(stats, live))


class WorkerMetrics:
    """A collector for prometheus_client with a worker's metrics.

    For a worker inside your own service: `REGISTRY.register(WorkerMetrics(worker))`.
    """

    def __init__(self, worker: ObservedWorker) -> None:
        self._worker = worker

    def describe(self) -> list[Family]:
        """Return the metrics without samples, so that registration does not collect."""
        return list(_families(WORKER, {}))

    def collect(self) -> Iterator[Family]:
        """Return the metrics with their current samples. Safe in any thread."""
        worker = self._worker
        stats = worker.stats
        return _families(
            WORKER,
            {
                "polos_worker_active": [((), len(worker.active))],
                "polos_worker_concurrency": [((), worker.concurrency)],
                "polos_activations_total": _by_name(stats.activations),
                "polos_parks_total": _by_name(stats.parks),
                "polos_executions_stuck_total": _by_name(stats.stuck),
                "polos_executions_paused_total": _by_name(stats.paused),
                "polos_steps_unreached_total": _by_name(stats.unreached),
                "polos_activations_dropped_total": _by_name(stats.dropped),
                "polos_executions_ended_total": list(stats.ended.copy().items()),
                "polos_step_seconds": list(stats.steps.copy().items()),
                "polos_wait_seconds": _by_name(stats.waits),
                "polos_lease_age_seconds": [((), worker.lease_age)],
                "polos_lease_renewals_missed_total": [((), stats.renewals_missed)],
                "polos_loop_blocked_total": [((), stats.loop_blocked)],
                "polos_entries_recovered_total": _by_name(stats.recovered),
                "polos_reconnects_total": [((), worker.reconnects)],
            },
        )


def require_prometheus() -> None:
    """Check that prometheus_client is installed. Raises `ConfigurationError`."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "metrics need prometheus_client: pip install 'polos-redis[metrics]'"
        ) from None


def _state_families(stats: NamespaceStats, live: dict[str, LeaseReading]) -> Iterator[Family]:
    served = frozenset[str]().union(*(lease.workflows for lease in live.values()))
    queues = [((name,), queue) for name, queue in stats.queues.items()]
    return _families(
        STATE,
        {
            "polos_executions": list(stats.executions.items()),
            "polos_executions_unserved": [
                ((name,), 0 if name in served else count)
                for (name, status), count in stats.executions.items()
                if status == "queued" and name
            ],
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
            "polos_errands_set_aside": [((), stats.errands_set_aside)],
            "polos_workers": [((), len(live))],
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
        labeled = [
            ([_label(value) for value in labels], value) for labels, value in samples.get(metric.name, ())
        ]
        if metric.kind == "gauge":
            family = core.GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in labeled:
                family.add_metric(labels, value)
        elif metric.kind == "counter":
            family = core.CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in labeled:
                family.add_metric(labels, value)
        else:
            family = core.HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in labeled:
                family.add_metric(labels, *_histogram(value))
        yield family


def _histogram(durations: Durations) -> tuple[list[tuple[str, float]], float]:
    """The buckets as Prometheus expects them, cumulative, and the sum."""
    bounds = [*map(str, durations.bounds), "+Inf"]
    return list(zip(bounds, accumulate(durations.counts[:]), strict=True)), durations.seconds


def _label(value: str) -> str:
    """A label's value. Ids may contain surrogates, which UTF-8 can't encode."""
    return redact_text(value.encode("utf-8", "backslashreplace").decode())


def _text(families: Iterable[Family]) -> bytes:
    require_prometheus()
    from prometheus_client import CollectorRegistry, generate_latest

    class Once:
        def collect(self) -> Iterable[Family]:
            return families

    registry = CollectorRegistry()
    registry.register(Once())
    return generate_latest(registry)
