"""Histories of agents: the model is not asked again, and a changed tool is reported."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from polos_redis import Agent, Workflow, WorkflowContext, tool, workflow
from polos_redis.replay.replaying import replayed_elsewhere
from polos_redis.testing.model import Call, ModelRequest, Reply, Say
from tests.harness.agents import answer, asked, talking
from tests.harness.running import until
from tests.replay.programs import history_of


class Mail(BaseModel):
    to: str


async def test_an_agent_with_a_tool(redis_url: str, namespace: str) -> None:
    sent: list[str] = []
    requests: list[ModelRequest] = []

    def send(mail: Mail) -> str:
        sent.append(mail.to)
        return f"sent to {mail.to}"

    def model(request: ModelRequest) -> Reply:
        requests.append(request)
        return Say("done") if request.round else Say(tool_calls=[Call("send", {"to": "ann"})])

    def agent(*tools: Any) -> Agent:
        return Agent(id="replay-agent", provider="openai", model="gpt-4o", tools=tools)

    careful = agent(tool(id="send", approval="always")(send))

    @workflow(id="replay-asks")
    async def asks(ctx: WorkflowContext) -> str:
        result = await ctx.step.agent_invoke_and_wait("agent", careful.with_input("Send it."))
        return str(result.result)

    async with talking(redis_url, namespace, model, careful, asks) as (_, at):
        handle = await asks.invoke(at.client)
        (suspension,) = await asked(at)
        open_ = [await at.client.get_history(one) for one in (handle.id, suspension["execution_id"])]
        await answer(at, suspension, {"approved": True}, resumed_by="bob")
        assert await at.result(handle) == "done"
        child = at.client.get_handle(suspension["execution_id"])
        await at.reached(child, "completed")
        histories = [await history_of(at.client, one) for one in (handle, child)]
        await until(lambda: sent == ["ann"])

    known: dict[str, Workflow[Any, Any]] = {asks.id: asks, careful.id: careful}
    assert [found for _, found in replayed_elsewhere([*open_, *histories], known)] == [None] * 4
    assert sent == ["ann"] and len(requests) == 2

    known[careful.id] = agent(tool(id="send")(send))  # without the approval
    first, second = [found for _, found in replayed_elsewhere([open_[1], histories[1]], known)]
    assert first is not None and (first.kind, first.step_key) == ("call", "tool_1.1_send")
    assert first.message.endswith(
        f"but the history goes on with the open suspension {suspension['step_key']!r}"
    )
    assert second is None  # the result of the call is final
