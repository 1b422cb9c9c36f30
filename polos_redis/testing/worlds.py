"""The world of a test: a server, a worker and a client of its own."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from polos_redis.client import PolosClient
from polos_redis.connection.connection import PatientConnection
from polos_redis.embedded.server import EmbeddedServer
from polos_redis.errors import InvalidInputError
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.notifications.configured import configured_channels
from polos_redis.state import keys
from polos_redis.state.layout import CLOCK, SKIPS, WORLD
from polos_redis.testing import skipping
from polos_redis.testing.suspension import OpenSuspension, open_suspension
from polos_redis.values.times import span, to_datetime
from polos_redis.worker.served import Chosen
from polos_redis.worker.worker_task import WorkerTask

SECONDS = 10.0  # how long a test waits for what should come at once
GRACE_SECONDS = 1.0  # a restart waits this long for running steps


class World:
    """A server, a worker in this event loop, and a `client` for them; `world` makes it.

    The client is that of any program: start workflows with it, read, resume, cancel and retry executions.
    `url` and `namespace` lead other clients here, such as a page under test.
    """

    def __init__(self, client: PolosClient, workflows: Chosen, **worker_options: Any) -> None:
        self.client = client
        self._workflows = workflows if workflows is None or callable(workflows) else list(workflows)
        self._channels = [one.name for one in configured_channels(worker_options.get("channels", ()))]
        self._options = worker_options
        self._worker = self._new_worker()

    @property
    def url(self) -> str:
        """The URL of its server."""
        return self.client.url

    @property
    def namespace(self) -> str:
        """Its namespace on that server."""
        return self.client.namespace

    async def suspension(
        self, handle: ExecutionHandle[Any], step_key: str | None = None, *, timeout: float = SECONDS
    ) -> OpenSuspension:
        """Wait until an execution, or a descendant of it, has an open suspension, and return that.

        Of several, it returns the one with this `step_key`, or the one that opened first. Raises
        `AssertionError` if the execution ends or gets stuck without it, and `TimeoutError` after `timeout`
        seconds; both say where the execution is.
        """
        return await open_suspension(self.client, handle, step_key, timeout)

    async def skip(
        self,
        seconds: float = 0,
        minutes: float = 0,
        hours: float = 0,
        days: float = 0,
        weeks: float = 0,
        *,
        timeout: float = SECONDS,
    ) -> None:
        """Let time pass, the sum of the parts: deadlines, waits, delays, schedules, retries, retention, links
        and API keys meet it as if it had passed.

        It goes from due time to due time. At each, it waits until everything that follows has happened: every
        execution has ended or waits for something. Raises `TimeoutError` if that takes more than `timeout`
        real seconds. Steps, Redis and Python's own clock go on in real time; `ctx.step.now` follows.
        """
        skip_ms = span("skip", seconds=seconds, minutes=minutes, hours=hours, days=days, weeks=weeks)
        if not skip_ms:
            raise InvalidInputError("skip: expected a time to come, such as days=7")
        clock = (await self.client.store()).clock
        await skipping.skip(clock, self._worker, self._channels, skip_ms, timeout)

    async def now(self) -> datetime:
        """Return the time in this world, with what was skipped."""
        return to_datetime(await (await self.client.store()).clock.now_ms())

    async def restart_worker(self) -> None:
        """Stop the worker and start another one, as a deployment does.

        A running step may finish within `grace_seconds` (1 by default) and runs again otherwise; every
        execution continues from its journal.
        """
        await self._worker.stop()
        self._worker = self._new_worker()
        await self._worker.start()

    def _new_worker(self) -> WorkerTask:
        return WorkerTask(self.client, self._workflows, **self._options)

    async def start(self) -> None:
        """Start the worker; `world` does."""
        await self._worker.start()

    async def stop(self) -> None:
        """Stop the worker at once; `world` does."""
        await self._worker.stop(at_once=True)


@contextlib.asynccontextmanager
async def world(
    workflows: Chosen = None, *, url: str | None = None, **worker_options: Any
) -> AsyncIterator[World]:
    """Make a world for a test: `async with world(workflows=[charge]) as world: ... world.client`.

    Its worker runs in this event loop, so breakpoints, coverage and `monkeypatch` work as usual. It serves
    `workflows`, by default all that this process defines. The server is a private one that starts in a
    fraction of a second and ends with the block (extra `embedded`), or that at `url`, in a namespace of its
    own. `worker_options` are those of `Worker`; notifications go nowhere unless it gets `channels`.

    The end of the block stops the worker at once, whatever still runs.
    """
    options = {"channels": (), "grace_seconds": GRACE_SECONDS, **worker_options}
    async with contextlib.AsyncExitStack() as stack:
        is_shared = url is not None
        if url is None:
            url = (await stack.enter_async_context(EmbeddedServer())).url
        client = await stack.enter_async_context(new_namespace(url, is_erased=is_shared))
        made = World(client, workflows, **options)
        stack.push_async_callback(made.stop)
        await made.start()
        yield made


@contextlib.asynccontextmanager
async def new_namespace(url: str, *, is_erased: bool) -> AsyncIterator[PolosClient]:
    """Make a client of a new namespace whose time can be skipped; whether the end of the block erases it."""
    async with PolosClient(url, f"{WORLD}{uuid.uuid4().hex[:12]}") as client:
        meta = keys.prefix(client.namespace, 0) + keys.META
        wire = PatientConnection(client).wire()
        await wire.call("HSET", meta, CLOCK, SKIPS, patience=client.patience)  # before anybody connects to it
        try:
            yield client
        finally:
            if is_erased:
                await _erase(client)


async def _erase(client: PolosClient) -> None:
    """Remove every key of a world's namespace."""
    store = await client.store()
    for node in await store.wire.nodes():
        cursor = b"0"
        while True:
            cursor, found = await node.call(
                "SCAN", cursor, "MATCH", f"polos:{{{client.namespace}:*", "COUNT", 1000
            )
            for key in found:
                await node.call("UNLINK", key)
            if cursor == b"0":
                break
