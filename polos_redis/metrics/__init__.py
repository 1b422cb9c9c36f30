"""Metrics: statistics of a namespace and of each worker, in the Prometheus text format."""

from polos_redis.metrics.prometheus import WorkerMetrics, exposition

__all__ = ["WorkerMetrics", "exposition"]
