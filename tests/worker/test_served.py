"""Workflows that are defined, or defined again, while a worker of everything runs."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from polos_redis import EventData, Polos, PolosClient, WorkflowContext, events, queue, workflow
from polos_redis.definitions import registry
from tests.harness.running import DEADLINE, until, working


@pytest.fixture(autouse=True)
def only_what_a_test_defines(empty_registry: None) -> None:
    """Nothing else is served."""

    @workflow(id="served-before")
    async def before(ctx: WorkflowContext) -> str:
        return "before"


@pytest.fixture
async def polos(redis_url: str, namespace: str) -> AsyncIterator[Polos]:
    options = {"lease_seconds": 2.0, "put_back_seconds": 3600}
    async with Polos(url=redis_url, namespace=namespace, worker_options=options) as polos:
        yield polos


def defined(value: Any, **options: Any) -> Any:
    """A workflow, as a cell that may run again defines it."""

    async def late(ctx: WorkflowContext, input: int = 0) -> Any:
        return [value, input]

    return workflow(id="served-late", **options)(late)


async def test_a_workflow_defined_after_the_start_is_served(polos: Polos) -> None:
    late = defined("one")
    assert await late.run(polos, 7, timeout=DEADLINE) == ["one", 7]
    handle = await polos.invoke("served-late")
    assert await handle.result(timeout=DEADLINE) == ["one", 0]
    store = await polos.store()

    async def announced() -> bool:
        packed = await store.wire.call("HVALS", store.prefixes[0] + b"serves")
        return any(b"served-late" in one for one in packed)

    await until(announced)


async def test_a_workflow_defined_again_runs_as_it_is_now(polos: Polos) -> None:
    defined("one")
    assert await (await polos.invoke("served-late")).result(timeout=DEADLINE) == ["one", 0]
    defined("two")
    assert await (await polos.invoke("served-late")).result(timeout=DEADLINE) == ["two", 0]


async def test_its_queue_is_read(polos: Polos) -> None:
    late = defined("queued", queue=queue("served-queue", concurrency_limit=2))
    assert await late.run(polos, 7, timeout=DEADLINE) == ["queued", 7]


async def test_what_triggers_it_is_declared(polos: Polos) -> None:
    ran: list[Any] = []

    @workflow(trigger_on_event="served/topic")
    async def triggered(ctx: WorkflowContext, input: Any) -> None:
        ran.append(input.data)

    store = await polos.store()

    async def subscribed() -> bool:
        return bool(await store.topics.subscribers("served/topic"))

    await until(subscribed)
    await events.publish(polos, "served/topic", EventData("event", 7))
    await until(lambda: ran == [7])


async def test_it_may_be_defined_in_another_thread(polos: Polos) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(defined("thread")))
    thread.start()
    await until(lambda: not thread.is_alive())
    assert await found[0].run(polos, 7, timeout=DEADLINE) == ["thread", 7]


async def test_a_limit_that_contradicts_another_is_logged(
    polos: Polos, caplog: pytest.LogCaptureFixture
) -> None:
    defined("one", queue=queue("served-limited", concurrency_limit=2))

    @workflow(queue=queue("served-limited", concurrency_limit=3))
    async def contradicts(ctx: WorkflowContext) -> None:
        pass

    def logged() -> bool:
        return any(
            "can't be announced" in record.message and "define it once" in vars(record)["error"]
            for record in caplog.records
        )

    await until(logged)


async def test_a_workflow_that_cannot_be_resolved_is_logged_and_fails(
    polos: Polos, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(ctx: WorkflowContext, input: Missing) -> None:  # type: ignore[name-defined] # noqa: F821
        pass

    workflow(broken)
    handle = await polos.invoke("broken", 1)
    with pytest.raises(Exception, match="Missing"):
        await handle.result(timeout=DEADLINE)
    assert any("can't be resolved" in record.message for record in caplog.records)


async def test_a_worker_of_chosen_workflows_serves_no_others(client: PolosClient) -> None:
    chosen = defined("chosen")
    async with working(client, chosen) as worker:
        before = len(registry._watchers)
        assert before == 0

        @workflow
        async def other(ctx: WorkflowContext) -> None:
            pass

        assert await chosen.run(client, 7, timeout=DEADLINE) == ["chosen", 7]
        assert worker._served is not None and list(worker._served.by_id) == [b"served-late"]


async def test_nothing_watches_after_the_end(redis_url: str, namespace: str) -> None:
    async with Polos(url=redis_url, namespace=namespace):
        assert len(registry._watchers) == 1
    assert registry._watchers == []
