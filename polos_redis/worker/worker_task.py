"""A worker as a task of the caller's own event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from polos_redis import tasks
from polos_redis.client import PolosClient
from polos_redis.worker.served import Chosen
from polos_redis.worker.worker import Worker


class WorkerTask:
    """Runs one worker on the connections of a client, from `start` until `stop`."""

    def __init__(self, client: PolosClient, workflows: Chosen, **options: Any) -> None:
        self.worker = Worker(client, workflows, handle_signals=False, **options)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the worker is ready. Raises what `Worker.run` raises, and `RedisUnavailableError` if
        Redis does not answer within the client's patience."""
        client = self.worker.client
        store = await client.store()  # a worker would wait for Redis without end
        for node in await store.wire.nodes():
            await node.call("PING", patience=client.patience)
        self._running = tasks.spawn(self.worker.run(), "polos-worker")
        ready = tasks.spawn(self.worker.ready.wait())
        await asyncio.wait([ready, self._running], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._running.done():
            self._running.result()

    def hurry(self) -> None:
        """Fire the timers now."""
        self.worker.hurry()

    @property
    def is_sending(self) -> bool:
        """Whether notifications are being sent."""
        return self.worker.is_sending

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop the worker, and wait until it has: as on SIGTERM, or without waiting for running steps. Raises
        what has ended the worker before."""
        if self._running is not None:
            self.worker.stop()
            if at_once:
                self.worker.stop()
            await self._running
