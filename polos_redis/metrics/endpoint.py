"""The HTTP endpoint of a worker's metrics. It has its own threads, so it answers even while the worker's
event loop is blocked."""

from __future__ import annotations

import asyncio
import threading
from wsgiref.simple_server import WSGIServer

from polos_redis.errors import ConfigurationError
from polos_redis.metrics.prometheus import WorkerMetrics, require_prometheus
from polos_redis.metrics.worker_stats import ObservedWorker
from polos_redis.threads import DaemonThreads


class MetricsEndpoint:
    """Serves the metrics of a worker and its process at http://host:port/metrics."""

    def __init__(self, worker: ObservedWorker, host: str, port: int) -> None:
        self._worker = worker
        self._host = host
        self._port = port
        self._threads = DaemonThreads(1, "polos-metrics")  # opening and closing block
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    async def open(self) -> str:
        """Start serving and return the URL. Raises `ConfigurationError` if the port is not available."""
        require_prometheus()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._open)

    async def close(self) -> None:
        """Stop serving, if the endpoint was opened."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._close)
        self._threads.shutdown()

    def _open(self) -> str:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

        registry = CollectorRegistry()
        registry.register(WorkerMetrics(self._worker))
        ProcessCollector(registry=registry)
        try:
            self._server = start_http_server(self._port, self._host, registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics can't be served at {self._host}:{self._port}: {error.strerror or error}: choose "
                "another POLOS_METRICS_PORT or POLOS_METRICS_HOST"
            ) from None
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server[0].server_port}/metrics"

    def _close(self) -> None:
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
