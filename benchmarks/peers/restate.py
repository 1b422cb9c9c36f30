"""Restate: durable handlers, journaled by a server that calls them over HTTP/2."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from benchmarks.peers import process
from benchmarks.peers.peer import DURABLE_CASES, STEPS, Job, Peer, nothing

UNLIMITED = 2**31 - 1
NO_FSYNC = {
    "RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC": "true",
    "RESTATE_METADATA_SERVER__ROCKSDB_DISABLE_WAL_FSYNC": "true",
}


def _peer(name: str, settings: dict[str, str]) -> Peer:
    return Peer(
        name=name,
        module="restate",
        server="restate",
        settings=settings,
        cases=DURABLE_CASES,
        stated="one hypercorn with HTTP/2, its limits lifted; calls by aiohttp, each waits for its result; "
        "answers resolve an awakeable",
        packages=("restate-sdk==1.3.0", "hypercorn==0.18.0", "aiohttp==3.14.5", "uvloop==0.23.0"),
        npm=("@restatedev/restate-server@1.7.12",),
    )


PEER = _peer("Restate", {})
PEER_NO_FSYNC = _peer("Restate, without fsync", NO_FSYNC)


async def worker(address: str, ready: process.Ready) -> None:
    import aiohttp
    import hypercorn.asyncio
    import restate

    service = restate.Service("Jobs")  # Restate evaluates annotations, and does not see local imports there

    @service.handler()
    async def noop(ctx: Any) -> None:
        """No steps."""

    @service.handler()
    async def steps(ctx: Any) -> None:
        for number in range(STEPS):
            await ctx.run_typed(f"step-{number}", nothing)

    approval = restate.Workflow("Approval")

    @approval.main()
    async def run(ctx: Any) -> bool:
        name, answer = ctx.awakeable()
        ctx.set("awakeable", name)
        return bool((await answer)["approved"])

    @approval.handler()
    async def awakeable(ctx: Any) -> str | None:
        name: str | None = await ctx.get("awakeable")
        return name

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = hypercorn.Config()
        config.bind = [f"fd://{listening.fileno()}"]
        config.h2_max_concurrent_streams = UNLIMITED
        config.keep_alive_max_requests = UNLIMITED
        config.keep_alive_timeout = UNLIMITED
        app: Any = restate.app([service, approval])
        serving = asyncio.create_task(hypercorn.asyncio.serve(app, config))
        admin = address.split()[1]
        port = listening.getsockname()[1]
        async with aiohttp.ClientSession(admin, raise_for_status=True) as session:
            await session.post("/deployments", json={"uri": f"http://127.0.0.1:{port}"})
        ready()
        await serving


class Client:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._keys = itertools.count()

    async def _post(self, path: str, **body: Any) -> Any:
        async with self._session.post(path, **body) as response:
            return await response.json() if response.content_type == "application/json" else None

    async def start(self, job: Job) -> None:
        await self._post(f"/Jobs/{job}")

    async def finished(self) -> bool:
        return True

    async def call(self) -> None:
        await self._post("/Jobs/noop")

    async def suspend(self, count: int) -> Sequence[tuple[str, str]]:
        keys = [f"order-{next(self._keys)}" for _ in range(count)]
        for key in keys:
            await self._post(f"/Approval/{key}/run/send")
        return [(key, await process.until(partial(self._post, f"/Approval/{key}/awakeable"))) for key in keys]

    async def resume(self, suspended: Any) -> None:
        key, name = suspended
        await self._post(f"/restate/awakeables/{name}/resolve", json={"approved": True})
        async with self._session.get(f"/restate/workflow/Approval/{key}/attach") as response:
            assert await response.json() is True


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Client]:
    import aiohttp

    # Restate refuses the type of a body that a handler does not take.
    async with aiohttp.ClientSession(
        address.split()[0],
        connector=aiohttp.TCPConnector(limit=0),
        skip_auto_headers=["Content-Type"],
        raise_for_status=True,
    ) as session:
        yield Client(session)


if __name__ == "__main__":
    process.run(client, worker)
