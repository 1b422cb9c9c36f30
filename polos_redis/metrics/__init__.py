"""Metrics: the statistics of a namespace and of a worker, for Prometheus (extra `metrics`)."""

from polos_redis.metrics.prometheus import WorkerMetrics, exposition

__all__ = ["WorkerMetrics", "exposition"]
