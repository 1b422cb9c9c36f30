"""A real worker in the test's own loop, and ways to wait for what it does."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from polos_redis import Event, ExecutionHandle, PolosClient, Resumed, Worker, Workflow, events
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values.times import to_datetime_us
from polos_redis.wire.wire import Wire
from polos_redis.worker.host import WorkerHost

DEADLINE = 60.0  # seconds: only a broken test waits this long, however busy the machine is


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until a condition (plain or awaitable) is true; returns its value."""
    end = asyncio.get_running_loop().time() + DEADLINE
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"timed out waiting for {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.002)


async def soon(awaitable: Awaitable[Any]) -> Any:
    """Await something that must not hang."""
    async with asyncio.timeout(DEADLINE):
        return await awaitable


def host_of(worker: Worker) -> WorkerHost:
    """The host of a ready worker."""
    assert worker.host is not None
    return worker.host


async def created_at(client: PolosClient, execution_id: str) -> datetime:
    """When an execution was created, to the microsecond, as its links name it."""
    store = await client.store()
    (created,) = await store.executions.read_fields(execution_id, "created")
    assert created is not None
    return to_datetime_us(int(created))


async def journal_of(store: Store, execution_id: str) -> dict[bytes, bytes]:
    """All of an execution's journal, as it is stored."""
    return {
        name: stored async for page in store.executions.journal_pages(execution_id) for name, stored in page
    }


async def connections(store: Store, name: str) -> list[tuple[Wire, bytes]]:
    """The connections of this name on all servers: their wires and ids."""
    found = []
    for node in await store.wire.nodes():
        for row in (await node.call("CLIENT", "LIST")).splitlines():
            fields = dict(part.partition(b"=")[::2] for part in row.split())
            if fields.get(b"name") == name.encode():
                found.append((node, fields[b"id"]))
    return found


@dataclass(frozen=True, slots=True)
class Running:
    """A running worker, and the client it shares its connection with."""

    client: PolosClient
    worker: Worker

    @property
    def host(self) -> WorkerHost:
        """The host of the worker's activations."""
        return host_of(self.worker)

    async def parked(self, handle: ExecutionHandle[Any]) -> None:
        """Wait until the execution is parked and its slot is free."""
        await self.reached(handle, "waiting")
        await until(lambda: handle.id not in {activation.id for activation in self.worker.active})

    async def reached(self, handle: ExecutionHandle[Any], status: str) -> None:
        async def there() -> bool:
            return await handle.status() == status

        await until(there, f"status {status} of {handle.id}")

    async def opened(self, handle: ExecutionHandle[Any], step_key: str) -> None:
        """Wait until a suspension is open, parked or not."""

        async def there() -> bool:
            execution = await self.client.get_execution(handle.id)
            return step_key in {one["step_key"] for one in execution["open_suspensions"]}

        await until(there, f"suspension {step_key}")

    async def answer(self, handle: ExecutionHandle[Any], step_key: str, data: Any = "yes") -> Resumed:
        return await self.client.resume(suspend_execution_id=handle.id, suspend_step_key=step_key, data=data)

    async def result(self, handle: ExecutionHandle[Any]) -> Any:
        return await handle.result(timeout=DEADLINE)

    async def events(self, handle: ExecutionHandle[Any]) -> list[Event]:
        """All events of an execution, once it has finished."""

        async def read() -> list[Event]:
            return [
                event async for event in events.stream_workflow(self.client, handle.workflow_id, handle.id)
            ]

        found: list[Event] = await soon(read())
        return found

    async def make_due(self, handle: ExecutionHandle[Any], step_key: str, kind: str) -> None:
        """Move a timer (s: suspension, b: backoff) of the execution into the past."""
        store = await self.client.store()
        timers = store.partitions.prefix(handle.id) + b"timers"
        member = f"{kind}{handle.id} {step_key}"
        await until(lambda: store.wire.call("ZSCORE", timers, member), f"timer {member}")
        await store.wire.call("ZADD", timers, "XX", 1, member)


async def in_partition(
    client: PolosClient, partition: int, workflow: Workflow[Any, Any], input: Any, **options: Any
) -> ExecutionHandle[Any]:
    """Invoke into this partition, by a key whose execution lives there."""
    while True:
        key = uuid.uuid4().hex
        if keys.partition_of(keys.derived_id(workflow.id, key), client.partitions) == partition:
            return await client.invoke(workflow, input, idempotency_key=key, **options)


@contextlib.asynccontextmanager
async def working(
    client: PolosClient, *workflows: Workflow[Any, Any], **options: Any
) -> AsyncIterator[Worker]:
    """The client's worker, with a short lease: ready at the start of the block, stopped at its end."""
    options = {"lease_seconds": 2.0, "handle_signals": False, **options}
    worker = Worker(client, workflows, **options)
    run = asyncio.create_task(worker.run())
    ready = asyncio.create_task(worker.ready.wait())
    try:
        await asyncio.wait([run, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if run.done():
            run.result()
        yield worker
    finally:
        worker.stop()
        worker.stop()
        await run


@contextlib.asynccontextmanager
async def running(
    url: str, namespace: str, *workflows: Workflow[Any, Any], **options: Any
) -> AsyncIterator[Running]:
    """A client and a worker for these workflows."""
    async with PolosClient(url, namespace) as client, working(client, *workflows, **options) as worker:
        yield Running(client, worker)
