"""`Polos`: client and worker in one process."""

from __future__ import annotations

import asyncio

import pytest

from polos_redis import ConfigurationError, Polos, PolosClient, Worker, Workflow, WorkflowContext
from tests.harness.running import DEADLINE, soon


async def _doubles(ctx: WorkflowContext, input: int) -> int:
    return 2 * input


doubles: Workflow[int, int] = Workflow(_doubles, "polos-doubles")


async def test_a_worker_that_can_not_start_is_the_only_thing_told(redis_url: str, namespace: str) -> None:
    polos = Polos(url=redis_url, namespace=namespace, workflows=[])
    with pytest.raises(ConfigurationError, match="no workflows to run") as raised:
        await soon(polos.__aenter__())
    assert raised.value.__context__ is None
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("polos-worker")]


async def test_a_start_that_is_cancelled_leaves_no_worker(redis_url: str, namespace: str) -> None:
    polos = Polos(url=redis_url, namespace=namespace, workflows=[doubles])
    starting = asyncio.create_task(polos.__aenter__())
    await asyncio.sleep(0)  # it has made its worker, which is not ready yet
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(starting)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("polos-worker")]
    async with Polos(url=redis_url, namespace=namespace, workflows=[doubles]) as again:
        assert await (await doubles.invoke(again, 21)).result(timeout=DEADLINE) == 42


async def test_a_worker_that_is_stopped_before_it_runs_ends_at_once(client: PolosClient) -> None:
    worker = Worker(client, [doubles], handle_signals=False)
    worker.stop()
    await soon(worker.run())
