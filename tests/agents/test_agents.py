"""Agents: what they send, what they return and when they stop, with both OpenAI APIs, on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    Agent,
    AgentResult,
    BatchStepResult,
    ConfigurationError,
    InvalidInputError,
    Usage,
    WorkflowContext,
    tool,
    workflow,
)
from polos_redis.agents import RunSoFar
from polos_redis.agents.options import AgentOptions
from polos_redis.testing.model import Call, Fail, ModelRequest, Reply, Say, ScriptedModel, When
from polos_redis.testing.model.server import API_KEY as KEY
from tests.harness.agents import PROVIDERS, error_of, talking
from tests.harness.command import Command
from tests.harness.running import soon, until
from tests.harness.serving import calling as calling_pages


class City(BaseModel):
    name: str


class Weather(BaseModel):
    city: str
    degrees: int


@tool
def weather(city: City) -> str:
    """The weather in a city."""
    return f"4 degrees in {city.name}"


plain = {name: Agent(id=f"plain-{name}", model="gpt-4o", provider=name) for name in PROVIDERS}
forecaster = {
    name: Agent(
        id=f"forecaster-{name}",
        model="gpt-4o",
        provider=name,
        system_prompt="You know the weather.",
        tools=[weather],
        output_schema=Weather,
        temperature=0.5,
        max_output_tokens=500,
        provider_options={"metadata": {"team": "weather"}},
    )
    for name in PROVIDERS
}
LOOKED_UP: list[Reply | When] = [
    Say(tool_calls=[Call("weather", {"name": "Riga"}), Call("weather", {"name": "Oslo"})], usage=(100, 20)),
    Say({"city": "Riga", "degrees": 4}, usage=(150, 30)),
]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_agent_returns_text(redis_url: str, namespace: str, provider: str) -> None:
    agent = plain[provider]
    async with talking(redis_url, namespace, [Say("Hello!", usage=(7, 3))], agent) as (server, at_work):
        found = await agent.run(at_work.client, "Hi")
    assert found == AgentResult(agent.id, "Hello!", Usage(7, 3, 1), [], 1)
    (request,) = server.log
    assert request.messages == [{"role": "user", "content": "Hi"}]
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.streamed and not request.tools and request.response_format is None


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_tools_and_a_typed_answer(redis_url: str, namespace: str, provider: str) -> None:
    agent = forecaster[provider]
    async with talking(redis_url, namespace, LOOKED_UP, agent) as (server, at_work):
        found = await agent.run(at_work.client, "Where is it warmer?")
    assert found.result == Weather(city="Riga", degrees=4)
    assert found.usage == Usage(250, 50, 2) and found.usage.total_tokens == 300
    assert found.total_steps == 2
    assert [(one.tool, one.arguments, one.status, one.result) for one in found.tool_results] == [
        ("weather", {"name": "Riga"}, "ok", "4 degrees in Riga"),
        ("weather", {"name": "Oslo"}, "ok", "4 degrees in Oslo"),
    ]
    first, second = server.log
    for request in (first, second):
        assert request.body["model"] == "gpt-4o"
        assert request.body["temperature"] == 0.5
        assert 500 in (request.body.get("max_completion_tokens"), request.body.get("max_output_tokens"))
        assert request.body["metadata"] == {"team": "weather"}
        (function,) = request.tools
        assert function["name"] == "weather" and function["strict"] is True
        assert function["description"] == "The weather in a city."
        assert request.response_format and request.response_format["name"] == "Weather"
    assert [message["role"] for message in first.messages] == ["system", "user"]
    assert list(second.results.values()) == ["4 degrees in Riga", "4 degrees in Oslo"]
    calls = second.messages[2]["tool_calls"]
    assert [json.loads(call["function"]["arguments"])["name"] for call in calls] == ["Riga", "Oslo"]


async def test_messages_can_be_the_input(redis_url: str, namespace: str) -> None:
    agent = plain["openai"]
    said = [
        {"role": "user", "content": "Call me Ann."},
        {"role": "assistant", "content": "Yes, Ann."},
        {"role": "user", "content": "Who am I?"},
    ]
    async with talking(redis_url, namespace, [Say("Ann")] * 3, agent) as (server, at_work):
        await agent.run(at_work.client, said)
        await (await at_work.client.invoke(agent.id, {"messages": said})).result()
        await (await at_work.client.invoke(agent.id, "Who am I?")).result()
        with pytest.raises(
            InvalidInputError, match=r"agent 'plain-openai': the input must be a text, or mess"
        ):
            await agent.run(at_work.client, [{"content": "no role"}])
    assert [request.messages for request in server.log] == [said, said, said[2:]]


async def test_an_agent_may_have_its_own_base_url(redis_url: str, namespace: str) -> None:
    async with ScriptedModel([Say("from elsewhere")]) as elsewhere:
        agent = Agent(id="elsewhere", model="llama", provider_base_url=elsewhere.base_url)
        async with talking(redis_url, namespace, [], agent) as (server, at_work):
            assert (await agent.run(at_work.client, "Hi")).result == "from elsewhere"
    assert (len(server.log), len(elsewhere.log)) == (0, 1)


# --- called by workflows ------------------------------------------------------------------


@workflow
async def asks_one(ctx: WorkflowContext, question: str) -> str:
    found = await ctx.step.agent_invoke_and_wait("ask", plain["openai"].with_input(question))
    assert type(found) is AgentResult
    return f"{found.result} ({found.usage.total_tokens} tokens)"


@workflow
async def asks_several(ctx: WorkflowContext) -> list[BatchStepResult]:
    handle = await ctx.step.agent_invoke("begin", plain["openai"].with_input("zero"))
    started = await ctx.step.batch_agent_invoke("begin-all", [plain["openai"].with_input("one")])
    calls = [plain["openai"].with_input("two"), forecaster["openai"].with_input("three")]
    found = await ctx.step.batch_agent_invoke_and_wait("all", calls)
    assert handle.workflow_id == started[0].workflow_id == "plain-openai"
    return found


async def test_a_workflow_calls_an_agent(redis_url: str, namespace: str) -> None:
    async with talking(redis_url, namespace, [Say("42")], asks_one, plain["openai"]) as (_, at_work):
        handle = await asks_one.invoke(at_work.client, "What is it?")
        assert await at_work.result(handle) == "42 (15 tokens)"
        found = await at_work.client.get_execution(handle.id)
        usage = {"input_tokens": 10, "output_tokens": 5, "requests": 1, "total_tokens": 15}
        assert found["usage"] == usage
        (child,) = found["children"]
        assert (await at_work.client.get_execution(child["id"]))["usage"] == usage


async def test_a_workflow_calls_several_agents(redis_url: str, namespace: str) -> None:
    def reply(request: ModelRequest) -> Reply:
        return Fail(400, "I do not do that") if request.prompt == "three" else Say(f"{request.prompt}!")

    served = asks_several, plain["openai"], forecaster["openai"]
    async with talking(redis_url, namespace, reply, *served) as (_, at_work):
        handle = await asks_several.invoke(at_work.client)
        two, three = await at_work.result(handle)
        started = (await at_work.client.get_execution(handle.id))["children"][:2]
        for child in started:
            await soon(at_work.client.get_handle(child["id"]).result())
    assert two.success and two.result.result == "two!"
    assert not three.success and "I do not do that" in three.error


async def test_a_failing_agent_is_named(redis_url: str, namespace: str) -> None:
    replies = [Fail(400, "no such thing")]
    async with talking(redis_url, namespace, replies, asks_one, plain["openai"]) as (_, at_work):
        kind, message = await error_of(at_work, await asks_one.invoke(at_work.client, "?"))
    assert kind == "StepExecutionError"
    assert "of workflow 'plain-openai' failed" in message and "no such thing" in message


async def test_anything_but_an_agent_call_is_refused(redis_url: str, namespace: str) -> None:
    @workflow(id="asks-wrongly")
    async def asks_wrongly(ctx: WorkflowContext) -> None:
        await ctx.step.agent_invoke_and_wait("ask", "Hi")  # type: ignore[arg-type]

    async with talking(redis_url, namespace, [], asks_wrongly) as (_, at_work):
        kind, message = await error_of(at_work, await asks_wrongly.invoke(at_work.client))
    assert kind == "ConfigurationError"
    assert message == "step 'ask': an agent is called as agent.with_input(...), not 'Hi'"


async def test_usage_is_shown(redis_url: str, namespace: str, tmp_path: Path) -> None:
    """Covers `polos show` and the execution's page."""
    polos = Command(redis_url, namespace, tmp_path)
    async with talking(redis_url, namespace, LOOKED_UP, forecaster["openai"]) as (_, at_work):
        handle = await forecaster["openai"].invoke(at_work.client, "Where?")
        await at_work.result(handle)
        shown = await polos("show", handle.id)
        execution = (await polos("show", handle.id, "--json")).json
        async with calling_pages(at_work.client) as visitor:
            page = (await visitor.get(f"/executions/{handle.id}")).text
    assert "250 tokens in, 50 out, 2 requests" in " ".join(shown.out.split())
    assert execution["usage"]["total_tokens"] == 300
    assert "250 tokens in, 50 out, 2 requests" in page


# --- stop conditions ----------------------------------------------------------------------


def calling(request: ModelRequest) -> Reply:
    """A model that keeps calling tools."""
    return Say(f"turn {request.round + 1}", tool_calls=[Call("weather", {"name": "Riga"})])


def has_looked_twice(so_far: RunSoFar) -> bool:
    seen.append(so_far.steps)
    return len(so_far.tool_results) == 2


seen: list[int] = []
STOPS: dict[str, tuple[dict[str, Any], int]] = {
    "max_steps=3": ({"max_steps": 3}, 3),
    "max_tokens=25": ({"max_tokens": 25}, 2),
    "has_looked_twice": ({"stop_conditions": [has_looked_twice]}, 2),
}


@pytest.mark.parametrize("stopped_by", STOPS)
async def test_an_agent_stops_at_its_conditions(redis_url: str, namespace: str, stopped_by: str) -> None:
    options, steps = STOPS[stopped_by]
    agent = Agent(id="stopped", model="gpt-4o", tools=[weather], **options)
    strict = Agent(id="stopped-strictly", model="gpt-4o", tools=[weather], output_schema=Weather, **options)
    async with talking(redis_url, namespace, calling, agent, strict) as (server, at_work):
        found = await agent.run(at_work.client, "Go on")
        kind, message = await error_of(at_work, await strict.invoke(at_work.client, "Go on"))
    assert (found.stopped_by, found.total_steps, found.result) == (stopped_by, steps, f"turn {steps}")
    assert len(found.tool_results) == steps
    assert kind == "AgentStoppedError"
    assert f"agent 'stopped-strictly' was stopped by {stopped_by} before its answer matched" in message
    assert len(server.log) == 2 * steps


async def test_a_stop_condition_runs_once_per_turn(redis_url: str, namespace: str) -> None:
    """A replay uses the journaled verdict, since a condition may depend on the time, for example."""
    agent = Agent(
        id="stopped-and-asked",
        model="gpt-4o",
        tools=[tool(approval="always")(lookup)],
        stop_conditions=[has_looked_twice],
    )
    seen.clear()
    replies = [Say(tool_calls=[Call("lookup", {"name": "Riga"})])] * 2
    async with talking(redis_url, namespace, replies, agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go on")
        for _ in range(2):
            await at_work.parked(handle)
            (waiting,) = (await at_work.client.get_execution(handle.id))["open_suspensions"]
            await at_work.answer(handle, waiting["step_key"], {"approved": True})
        assert (await at_work.result(handle)).stopped_by == "has_looked_twice"
    assert seen == [1, 2]


def lookup(city: City) -> str:
    return city.name


async def test_a_failing_stop_condition_fails_the_run(redis_url: str, namespace: str) -> None:
    async def broken(so_far: RunSoFar) -> bool:
        raise ValueError("no idea")

    agent = Agent(id="breaks", model="gpt-4o", tools=[weather], stop_conditions=[broken])
    async with talking(redis_url, namespace, calling, agent) as (_, at_work):
        kind, message = await error_of(at_work, await agent.invoke(at_work.client, "Go on"))
    assert kind == "StepExecutionError" and "'stop_1' failed (tried once): ValueError: no idea" in message


# --- invalid agents and calls -------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "id": ({"id": ""}, "an agent's id must be a non-empty string, not ''"),
    "model": ({"model": ""}, "model must be the name of a model, not ''"),
    "provider": ({"provider": "other"}, "provider must be one of openai, openai-responses, not 'other'"),
    "max_steps": ({"max_steps": 0}, "max_steps must be an integer of at least 1, not 0"),
    "provider_timeout": (
        {"provider_timeout": 0},
        "agent 'wrong': provider_timeout must be a positive number of seconds, a timedelta or None, not 0",
    ),
    "max_tokens": ({"max_tokens": True}, "max_tokens must be an integer of at least 1, not True"),
    "output_schema": ({"output_schema": int}, "output_schema must be a pydantic model or a dataclass"),
    "tools": ({"tools": [weather, weather]}, "has two tools named 'weather': give one of them another id"),
    "no tool": ({"tools": ["weather"]}, "a tool must be a function, a workflow or an agent, not 'weather'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_invalid_agent_is_refused_at_once(name: str) -> None:
    options, message = WRONG[name]
    arguments: dict[str, Any] = {"id": "wrong", "model": "gpt-4o", **options}
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        Agent(**arguments)


@pytest.mark.parametrize("name", AgentOptions.__slots__)
def test_an_agents_options_are_fixed(name: str) -> None:
    """Assigning one used to have no effect on the agent's runs."""
    agent = Agent(id="fixed-options", model="gpt-4o")
    with pytest.raises(AttributeError, match=f"agent 'fixed-options': {name} can't be changed after"):
        setattr(agent, name, 5)
    with pytest.raises(AttributeError):
        setattr(agent.options, name, 5)


async def test_two_agents_with_one_id_are_refused() -> None:
    Agent(id="twice", model="gpt-4o")
    with pytest.raises(ConfigurationError, match="workflow id 'twice' is already used at"):
        Agent(id="twice", model="gpt-4o")


async def test_a_cancelled_child_agent_raises_in_its_parent(redis_url: str, namespace: str) -> None:
    """Cancelled while its model answers: the connection to the provider is dropped and nothing is left."""
    replies = [Say("a long story", pause_seconds=30)]
    async with talking(redis_url, namespace, replies, asks_one, plain["openai"]) as (server, at_work):
        handle = await asks_one.invoke(at_work.client, "?")
        await until(lambda: server.log and server.log[0].chunks)
        (child,) = (await at_work.client.get_execution(handle.id))["children"]
        await at_work.client.cancel(child["id"])
        kind, message = await error_of(at_work, handle)
        await until(lambda: server.log[0].outcome == "left")
    assert kind == "StepExecutionError" and "of workflow 'plain-openai' was cancelled" in message
