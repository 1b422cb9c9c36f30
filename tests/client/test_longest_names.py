"""Ids and keys have a largest size, which is checked at the call: nothing is written then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from polos_redis import (
    ConfigurationError,
    EventData,
    ExecutionFailedError,
    InvalidInputError,
    PolosClient,
    Workflow,
    WorkflowContext,
    events,
    queue,
    schedules,
    workflow,
)
from polos_redis.definitions.trigger import Trigger
from tests.harness.running import running
from tests.harness.serving import calling, problem

LONG = "x" * 257
WIDE = "\u00e9" * 129  # 258 bytes
TOPIC = "x" * 1025
HUGE = "x" * 1_900_000


def _sizes(name: str, most: int) -> str:
    return rf"{name} has \d+ bytes in UTF-8, and {most} are allowed: shorten '"


CALLS: dict[str, tuple[Callable[[PolosClient, str], Awaitable[Any]], int]] = {
    "a workflow's id": (lambda client, name: client.invoke(name), 256),
    "idempotency_key": (lambda client, name: client.invoke("w", idempotency_key=name), 256),
    "queue": (lambda client, name: client.invoke("w", queue=name), 256),
    "session_id": (lambda client, name: client.invoke("w", session_id=name), 256),
    "concurrency_key": (
        lambda client, name: client.invoke("w", queue=queue("q", 1), concurrency_key=name),
        256,
    ),
    "a topic": (lambda client, name: events.publish(client, name * 4, EventData("e")), 1024),
    "an event_type": (lambda client, name: events.publish(client, "t", EventData(name)), 256),
    "suspend_step_key": (
        lambda client, name: client.resume(
            suspend_execution_id="0" * 32, suspend_step_key=name * 2, data=1, early=True
        ),
        512,
    ),
    "channel": (
        lambda client, name: client.resume(
            suspend_execution_id="0" * 32, suspend_step_key="k", data=1, channel=name
        ),
        256,
    ),
}


@pytest.mark.failure(52)
@pytest.mark.threat(13)
@pytest.mark.parametrize("name", [LONG, WIDE, HUGE], ids=["long", "wide", "huge"])
@pytest.mark.parametrize("what", CALLS)
async def test_a_call_with_a_long_name_is_refused(
    what: str, name: str, redis_url: str, namespace: str
) -> None:
    call, most = CALLS[what]
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(InvalidInputError, match=_sizes(what, most)) as refused:
            await call(client, name)
        assert len(str(refused.value)) < 300
        assert not await client.list_executions()


@pytest.mark.parametrize("option", ["user_id", "started_by"])
async def test_people_have_names_of_at_most_200_characters(
    option: str, redis_url: str, namespace: str
) -> None:
    def named(name: str) -> Any:
        return {option: name}

    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(InvalidInputError, match="it has 201 characters, and 200 are allowed"):
            await client.invoke("w", **named("x" * 201))
        with pytest.raises(InvalidInputError, match=r"U\+3164 \(HANGUL FILLER\) at position 2"):
            await client.invoke("w", **named("a\u3164"))


async def test_a_schedule_has_a_short_key(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(ConfigurationError, match=_sizes("a schedule's key", 256)):
            await schedules.create(client, "w", "* * * * *", key=LONG)
        with pytest.raises(ConfigurationError, match=_sizes("a workflow's id", 256)):
            await schedules.create(client, LONG, "* * * * *")
        assert await schedules.list(client) == []


async def _nothing(ctx: WorkflowContext) -> None: ...


DEFINITIONS: dict[str, tuple[Callable[[], Any], int]] = {
    "a workflow's id": (lambda: workflow(id=LONG)(_nothing), 256),
    "a queue's name": (lambda: queue(WIDE), 256),
    "trigger_on_event": (lambda: Trigger.of(TOPIC, 1, None, "w"), 1024),
}


@pytest.mark.parametrize("what", DEFINITIONS)
def test_a_definition_with_a_long_name_is_refused(what: str) -> None:
    define, most = DEFINITIONS[what]
    with pytest.raises(ConfigurationError, match=_sizes(what, most)):
        define()


async def _long_steps(ctx: WorkflowContext, input: str) -> Any:
    if input == "step":
        return await ctx.step.run("x" * 513, lambda: 1)
    if input == "suspend":
        return await ctx.step.suspend("x" * 513)
    if input == "event":
        return await ctx.step.wait_for_event("k", TOPIC)
    return await ctx.step.publish_event("k", "t", 1, "x" * 257)


@pytest.mark.parametrize(
    ("input", "said"),
    [
        ("step", "StepKeyError: a step key has 513 bytes in UTF-8, and 512 are allowed"),
        ("suspend", "StepKeyError: a step key has 513 bytes in UTF-8, and 512 are allowed"),
        ("event", "wait 'k': a topic has 1025 bytes in UTF-8, and 1024 are allowed"),
        ("publish", "an event_type has 257 bytes in UTF-8, and 256 are allowed"),
    ],
)
async def test_a_step_with_a_long_name_fails(input: str, said: str, redis_url: str, namespace: str) -> None:
    made: Workflow[Any, Any] = Workflow(_long_steps, "long-steps")
    async with running(redis_url, namespace, made) as at:
        handle = await made.invoke(at.client, input)
        with pytest.raises(ExecutionFailedError, match=said):
            await at.result(handle)


async def test_the_longest_names_work(redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext) -> Any:
        return (await ctx.step.suspend("x" * 512))["data"]

    made: Workflow[Any, Any] = Workflow(body, "w" * 256)
    async with running(redis_url, namespace, made) as at:
        handle = await made.invoke(at.client, idempotency_key="k" * 256, session_id="s" * 256)
        await at.parked(handle)
        await at.answer(handle, "x" * 512)
        await at.result(handle)


@pytest.mark.parametrize(
    "body",
    [
        {"workflow_id": LONG},
        {"workflow_id": "w", "queue": LONG},
        {"workflow_id": "w", "queue": WIDE},
        {"workflow_id": "w", "idempotency_key": LONG},
        {"workflow_id": "w", "session_id": WIDE},
        {"workflow_id": "w", "user_id": "ann\ufe0f"},
        {"workflow_id": "w", "concurrency_key": LONG, "queue": "q"},
    ],
)
async def test_the_api_refuses_long_names(body: dict[str, Any], redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client, calling(client) as api:
        problem(await api.post("/api/v1/executions", json=body), 422, "invalid-input")
        assert not await client.list_executions()
