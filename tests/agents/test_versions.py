"""The version of an agent, and which workers continue its executions: as for any workflow."""

from __future__ import annotations

from typing import Any

import pytest

from polos_redis import Agent, ConfigurationError, PolosClient, ask_user, workflow
from polos_redis.agents import AgentResult
from polos_redis.definitions.registry import registered
from polos_redis.definitions.version import VersionPolicy
from polos_redis.runtime.context import WorkflowContext
from polos_redis.testing.model import Call, ModelRequest, Reply, Say, ScriptedModel
from tests.harness.agents import answer, asked
from tests.harness.running import DEADLINE, Running, until, working


def asker(version: str, policy: VersionPolicy) -> Agent:
    """One version of an agent: it has a prompt of its own."""
    return Agent(
        id="versioned-asker",
        model="gpt-4o",
        system_prompt=f"version {version}",
        tools=[ask_user()],
        version=version,
        version_policy=policy,
    )


def replies(request: ModelRequest) -> Reply:
    """Ask once, then return the prompt."""
    if request.results:
        return Say(request.messages[0]["content"])
    return Say(tool_calls=[Call("ask_user", {"question": "Sure?", "fields": []})])


@pytest.mark.parametrize(("policy", "goes_on_with"), [("any", "version 2"), ("pin", "version 1")])
@pytest.mark.usefixtures("empty_registry")
async def test_an_agent_goes_on_as_its_policy_says(
    redis_url: str, namespace: str, policy: VersionPolicy, goes_on_with: str
) -> None:
    first, second = asker("1", policy), asker("2", policy)
    async with ScriptedModel(replies), PolosClient(redis_url, namespace) as client:
        async with working(client, first) as worker:
            at = Running(client, worker)
            handle = await first.invoke(client, "Do it")
            (question,) = await asked(at)
            await at.parked(handle)
        shown = await client.get_execution(handle.id)
        assert (shown.version, shown.pinned) == ("1", policy == "pin")
        async with working(client, second) as worker:
            at = Running(client, worker)
            await answer(at, question, {"answer": "yes"})
            if policy == "pin":
                await until(lambda: _is_unserved(client, handle.id))
            else:
                assert (await handle.result(timeout=DEADLINE)).result == goes_on_with
        if policy == "pin":
            async with working(client, first):
                found: AgentResult[str] = await handle.result(timeout=DEADLINE)
                assert found.result == goes_on_with
        assert (await client.get_execution(handle.id)).version == "1"


async def _is_unserved(client: PolosClient, execution_id: str) -> Any:
    return (await client.get_execution(execution_id)).unserved


@pytest.mark.usefixtures("empty_registry")
async def test_an_agent_that_a_workflow_calls_has_a_version_of_its_own(
    redis_url: str, namespace: str
) -> None:
    agent = asker("7", "pin")

    @workflow(id="versioned-caller", version="1")
    async def caller(ctx: WorkflowContext) -> str:
        found: AgentResult[str] = await ctx.step.agent_invoke_and_wait("ask", agent.with_input("Do it"))
        return found.result

    async with (
        ScriptedModel(replies),
        PolosClient(redis_url, namespace) as client,
        working(client, caller, agent) as worker,
    ):
        at = Running(client, worker)
        handle = await caller.invoke(client)
        (question,) = await asked(at)
        child = await client.get_execution(question.execution_id)
        assert (child.version, child.pinned) == ("7", True)
        assert {(row.workflow_id, row.version) for row in await client.versions()} == {
            ("versioned-caller", "1"),
            ("versioned-asker", "7"),
        }
        await answer(at, question, {"answer": "yes"})
        assert await at.result(handle) == "version 7"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version_policy": "pin"}, "version_policy='pin' needs a version: give it version=..."),
        ({"version": "1", "version_policy": "all"}, "version_policy must be 'any' or 'pin', not 'all'"),
        ({"version": 2}, "version must be a non-empty string, not 2"),
    ],
)
@pytest.mark.usefixtures("empty_registry")
def test_options_that_are_refused(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Agent(id="versioned-wrong", model="gpt-4o", **options)
    assert str(raised.value) == f"workflow 'versioned-wrong': {said}"
    assert not registered()
