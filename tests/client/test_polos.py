"""`Polos`: client and worker in one process."""

from __future__ import annotations

import asyncio

import pytest

from polos_redis import ConfigurationError, Polos, PolosClient, Worker, Workflow, WorkflowContext
from tests.harness.running import DEADLINE, soon


async def _doubles(ctx: WorkflowContext, input: int) -> int:
    return 2 * input


doubles: Workflow[int, int] = Workflow(_doubles, "polos-doubles")


async def test_a_worker_that_cannot_start_raises_only_its_error(redis_url: str, namespace: str) -> None:
    polos = Polos(url=redis_url, namespace=namespace, workflows=[])
    with pytest.raises(ConfigurationError, match="no workflows to run") as raised:
        await soon(polos.__aenter__())
    assert raised.value.__context__ is None
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("polos-worker")]


async def test_a_cancelled_start_leaves_no_worker(redis_url: str, namespace: str) -> None:
    polos = Polos(url=redis_url, namespace=namespace, workflows=[doubles])
    starting = asyncio.create_task(polos.__aenter__())
    await asyncio.sleep(0)  # its worker exists but is not ready yet
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(starting)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("polos-worker")]
    async with Polos(url=redis_url, namespace=namespace, workflows=[doubles]) as second:
        assert await (await doubles.invoke(second, 21)).result(timeout=DEADLINE) == 42


async def test_a_worker_stopped_before_it_runs_ends_at_once(client: PolosClient) -> None:
    worker = Worker(client, [doubles], handle_signals=False)
    worker.stop()
    await soon(worker.run())
