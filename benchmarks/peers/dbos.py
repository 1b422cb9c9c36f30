"""DBOS: durable workflows in PostgreSQL. It is a library: the process that starts workflows runs them.

Workflows started from another process would go through a queue that workers poll, once a second by default.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from benchmarks.peers import process
from benchmarks.peers.peer import DURABLE_CASES, STEPS, Job, Peer, nothing

WAIT_SECONDS = 3600.0


def _peer(commit: str) -> Peer:
    return Peer(
        name=f"DBOS, synchronous_commit {commit}",
        module="dbos",
        server="postgres",
        settings={"synchronous_commit": commit},
        has_worker=False,
        cases=DURABLE_CASES,
        stated="psycopg with its C part; async workflows started by the process that runs them (no queue, no "
        "polling); LISTEN/NOTIFY; answers by send() to recv()",
        packages=("dbos==3.4.0", "psycopg[binary]==3.3.9", "sqlalchemy==2.1.9", "uvloop==0.23.0"),
    )


PEER = _peer("on")
PEER_OFF = _peer("off")


class Client:
    def __init__(self, dbos: Any, noop: Any, steps: Any, approval: Any) -> None:
        self._dbos, self._approval = dbos, approval
        self._jobs = {"noop": noop, "steps": steps}
        self._running: set[asyncio.Future[Any]] = set()
        self._failed: asyncio.Future[Any] | None = None

    async def start(self, job: Job) -> None:
        handle = await self._dbos.start_workflow_async(self._jobs[job])
        result = asyncio.ensure_future(handle.get_result())
        self._running.add(result)
        result.add_done_callback(self._ended)

    def _ended(self, result: asyncio.Future[Any]) -> None:
        if result.exception() is None:
            self._running.discard(result)
        else:
            self._failed = result

    async def finished(self) -> bool:
        if self._failed is not None:
            self._failed.result()
        return not self._running

    async def call(self) -> None:
        await (await self._dbos.start_workflow_async(self._jobs["noop"])).get_result()

    async def suspend(self, count: int) -> Sequence[Any]:
        handles = [await self._dbos.start_workflow_async(self._approval) for _ in range(count)]
        for handle in handles:
            # recv() writes its deadline as a step before it waits.
            await process.until(partial(self._dbos.list_workflow_steps_async, handle.workflow_id))
        return handles

    async def resume(self, suspended: Any) -> None:
        await self._dbos.send_async(suspended.workflow_id, {"approved": True})
        assert await suspended.get_result()


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Client]:
    from dbos import DBOS, DBOSConfig

    DBOS(config=DBOSConfig(name="benchmark", system_database_url=address, log_level="ERROR"))
    step = DBOS.step()(nothing)

    @DBOS.workflow()
    async def noop() -> None:
        """No steps."""

    @DBOS.workflow()
    async def steps() -> None:
        for _ in range(STEPS):
            await step()

    @DBOS.workflow()
    async def approval() -> bool:
        answer = await DBOS.recv_async(timeout_seconds=WAIT_SECONDS)
        return bool(answer["approved"])

    await asyncio.to_thread(DBOS.launch)
    yield Client(DBOS, noop, steps, approval)


if __name__ == "__main__":
    process.run(client)
