"""taskiq-redis: jobs on a Redis stream, acknowledged, not durable. Results are polled for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers import process
from benchmarks.peers.peer import JOB_CASES, Job, Peer

AT_ONCE = 32
CHECK_SECONDS = 0.001
RESULT_SECONDS = 600

PEER = Peer(
    name="taskiq-redis",
    module="taskiq",
    server="redis",
    cases=JOB_CASES,
    stated=f"hiredis; RedisStreamBroker with results for {RESULT_SECONDS} s; max_async_tasks={AT_ONCE}, "
    f"max_prefetch={AT_ONCE}; wait_result(check_interval={CHECK_SECONDS:g})",
    packages=("taskiq-redis==1.2.4", "taskiq==0.13.0", "redis[hiredis]==8.1.0", "uvloop==0.23.0"),
)


def _broker(address: str) -> tuple[Any, Any]:
    """The broker and its task."""
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

    results: Any = RedisAsyncResultBackend(address, result_ex_time=RESULT_SECONDS)
    broker = RedisStreamBroker(address).with_result_backend(results)

    @broker.task(task_name="noop")
    async def noop() -> None:
        """The job."""

    return broker, noop


async def worker(address: str, ready: process.Ready) -> None:
    from taskiq.api import run_receiver_task

    broker, _ = _broker(address)
    await broker.startup()
    ready()
    await run_receiver_task(broker, max_async_tasks=AT_ONCE, max_prefetch=AT_ONCE)


class Client:
    def __init__(self, broker: Any, noop: Any, redis: Any) -> None:
        self._broker, self._noop, self._redis = broker, noop, redis

    async def start(self, job: Job) -> None:
        await self._noop.kiq()

    async def finished(self) -> bool:
        (group,) = await self._redis.xinfo_groups(self._broker.queue_name)
        return not group["lag"] and not group["pending"]

    async def call(self) -> None:
        task = await self._noop.kiq()
        await task.wait_result(check_interval=CHECK_SECONDS)

    async def suspend(self, count: int) -> Sequence[Any]:
        raise NotImplementedError

    async def resume(self, suspended: Any) -> None:
        raise NotImplementedError


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Client]:
    from redis.asyncio import Redis

    broker, noop = _broker(address)
    await broker.startup()
    async with Redis.from_url(address) as redis:
        yield Client(broker, noop, redis)


if __name__ == "__main__":
    process.run(client, worker)
