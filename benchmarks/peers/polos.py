"""polos-redis as it is here. Its worker and its client run in the environment of the command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.peers import process
from benchmarks.peers.peer import DURABLE_CASES, Job, Peer

if TYPE_CHECKING:
    from polos_redis import ExecutionHandle, PolosClient

PEER = Peer(
    name="polos-redis",
    module="polos",
    server="redis",
    cases=DURABLE_CASES,
    stated="settings as shipped",
)


async def worker(address: str, ready: process.Ready) -> None:
    from benchmarks.workflows import ALL
    from polos_redis import PolosClient, Worker
    from polos_redis.worker import collector

    async with PolosClient(address) as client:
        worker = Worker(client, ALL)
        running = asyncio.create_task(worker.run())
        await worker.ready.wait()
        collector.settle()  # as `polos worker` does
        ready()
        await running


class Client:
    def __init__(self, client: PolosClient) -> None:
        from benchmarks import workflows

        self._client = client
        self._workflows = workflows
        self._jobs = {"noop": workflows.noop, "steps": workflows.ten_steps}

    async def start(self, job: Job) -> None:
        await self._jobs[job].invoke(self._client)

    async def finished(self) -> bool:
        for status in ("queued", "running"):
            found = await self._client.list_executions(status=status, limit=1)
            if found or found.next_cursor is not None:
                return False
        return True

    async def call(self) -> None:
        await (await self._workflows.noop.invoke(self._client)).result()

    async def suspend(self, count: int) -> Sequence[ExecutionHandle[bool]]:
        handles = [await self._workflows.approval.invoke(self._client) for _ in range(count)]
        await process.until(self.finished)
        return handles

    async def resume(self, suspended: Any) -> None:
        await self._client.resume(
            suspend_execution_id=suspended.id,
            suspend_step_key=self._workflows.SUSPENSION,
            data=self._workflows.ANSWER,
        )
        await suspended.result()


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Client]:
    from polos_redis import PolosClient

    async with PolosClient(address) as opened:
        yield Client(opened)


if __name__ == "__main__":
    process.run(client, worker)
