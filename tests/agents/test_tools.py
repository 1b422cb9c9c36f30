"""Tools of agents: how they are defined, called and approved; nothing runs without its approval."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from polos_redis import (
    Agent,
    AgentResult,
    AlreadyResumedError,
    ConfigurationError,
    InvalidAnswerError,
    NotApproverError,
    SuspensionNotFoundError,
    Tool,
    Usage,
    WorkflowContext,
    ask_user,
    tool,
    workflow,
)
from polos_redis.server.pages.forms import of_schema
from polos_redis.testing.model import Call, Fail, ModelRequest, Reply, Say, When
from tests.harness.agents import answer, asked, error_of, talking
from tests.harness.running import until
from tests.harness.serving import calling as calling_api

done: Counter[str] = Counter()  # what tools did


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


class Mail(BaseModel):
    to: str
    amount: int = Field(ge=0)

    @field_validator("to")
    @classmethod
    def _known(cls, to: str) -> str:
        if to == "nobody":
            raise ValueError("nobody is no address")
        return to


@dataclass
class Number:
    value: int


def send_it(mail: Mail) -> str:
    """Send money."""
    done[f"{mail.to} {mail.amount}"] += 1
    return f"sent {mail.amount} to {mail.to}"


def is_large(mail: Mail) -> bool:
    done[f"policy {mail.amount}"] += 1
    return mail.amount > 10


send = tool(id="send", approval="always")(send_it)
send_some = tool(id="send_some", approval=is_large)(send_it)


def calls(*tool_calls: Call, then: str = "done") -> Any:
    """A model that makes these calls and is then done."""

    def reply(request: ModelRequest) -> Reply:
        return Say(then) if request.round else Say(tool_calls=tool_calls)

    return reply


def status_of(found: AgentResult[Any]) -> list[tuple[str, Any]]:
    return [(one.status, one.result) for one in found.tool_results]


# --- definitions and calls ----------------------------------------------------------------


@tool
def double(number: Number) -> int:
    """Twice as much."""
    return number.value * 2


@tool(id="tripled", description="Thrice as much.")
async def triple(number: Number) -> Decimal:
    return Decimal(number.value * 3)


@tool
async def today() -> dict[str, Any]:
    """What day it is."""
    return {"day": 1, "note": "März"}


@tool
async def in_steps(ctx: WorkflowContext, number: Number) -> int:
    """With steps of its own."""
    one = await ctx.step.run("one", lambda: number.value + 1)
    assert ctx.parent_execution_id is not None
    return await ctx.step.run("two", lambda: one + 1)


@tool
async def of_context(context: WorkflowContext) -> str:
    """Only a context, by its annotation."""
    return await context.step.run("one", lambda: "said")


@workflow(id="half-of")
async def half(ctx: WorkflowContext, number: Number) -> float:
    """Half as much."""
    return number.value / 2


def square(number: Number) -> int:
    """Itself times itself."""
    return number.value**2


async def test_every_kind_of_tool_can_be_called(redis_url: str, namespace: str) -> None:
    agent = Agent(
        id="former",
        model="gpt-4o",
        tools=[double, triple, today, in_steps, of_context, half, square],
    )
    four = {"value": 4}
    tool_calls = [Call(name, four) for name in ("double", "tripled", "in_steps", "half-of", "square")]
    replies = calls(*tool_calls, Call("today"), Call("of_context", ""))
    async with talking(redis_url, namespace, replies, agent) as (server, at_work):
        found = await agent.run(at_work.client, "Go")
    assert [one.result for one in found.tool_results] == [
        8,
        "12",
        6,
        2.0,
        16,
        {"day": 1, "note": "März"},
        "said",
    ]
    assert all(one.status == "ok" for one in found.tool_results)
    outputs = list(server.log[1].results.values())
    assert outputs == ["8", "12", "6", "2.0", "16", '{"day": 1, "note": "März"}', "said"]
    described = {one["name"]: one["description"] for one in server.log[0].tools}
    assert described["double"] == "Twice as much." and described["tripled"] == "Thrice as much."
    assert described["half-of"] == "Half as much." and described["today"] == "What day it is."
    assert all(one["strict"] for one in server.log[0].tools)


def test_a_tool_is_still_a_function() -> None:
    assert isinstance(double, Tool) and double(Number(2)) == 4


def _two(one: Number, two: Number) -> None: ...
def _bare(number) -> None: ...  # type: ignore[no-untyped-def]
def _number(number: int) -> None: ...
def _unknown(number: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _fine(number: Number) -> None: ...
def _sync(ctx: WorkflowContext, number: Number) -> None: ...


WRONG: dict[str, tuple[dict[str, Any], Any, str]] = {
    "two inputs": ({}, _two, r"tool '_two' must take \(input\), \(ctx, input\), \(ctx\) or nothing"),
    "approval_timeout": (
        {"approval": "always", "approval_timeout": -1},
        _fine,
        "the approval of tool '_fine': timeout must be a positive number of seconds",
    ),
    "no annotation": ({}, _bare, "tool '_bare': annotate number with a pydantic model or dataclass"),
    "no fields": (
        {},
        _number,
        "the input of tool '_number' must be a pydantic model or a dataclass, not <cl",
    ),
    "no such type": (
        {},
        _unknown,
        "tool '_unknown': can't resolve the annotation of 'number': name 'Nowhere' is not defined",
    ),
    "not async": ({}, _sync, "workflow '_sync': _sync must be an async function"),
    "id": ({"id": "a b"}, square, "tool 'a b': a tool's id has 1 to 64 letters, digits, _ and -"),
    "approval": (
        {"approval": "maybe"},
        square,
        "approval must be 'never', 'always' or a function of the input",
    ),
    "approvers": ({"approvers": ["a"]}, square, "has approval options but no approval="),
    "required": ({"approval": "always", "required": 0}, square, "required must be a whole number from 1"),
    "too few": (
        {"approval": "always", "required": 2, "approvers": ["a"]},
        square,
        "approvers names 1 who may decide",
    ),
    "max_retries": ({"max_retries": -1}, square, "max_retries must be an integer of at least 0, not -1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_invalid_tool_is_refused_at_once(name: str) -> None:
    options, function, message = WRONG[name]
    with pytest.raises(ConfigurationError, match=message):
        tool(**options)(function)


def test_a_workflow_whose_input_has_no_fields_is_no_tool() -> None:
    @workflow(id="of-a-list")
    async def of_a_list(ctx: WorkflowContext, input: list[int]) -> int:
        return len(input)

    with pytest.raises(
        ConfigurationError, match="the input of workflow 'of-a-list', used as a tool, must be a py"
    ):
        Agent(id="cant", model="gpt-4o", tools=[of_a_list])


@pytest.mark.threat(23)
async def test_the_models_mistakes_are_sent_back_to_it(redis_url: str, namespace: str) -> None:
    agent = Agent(id="clumsy", model="gpt-4o", tools=[double, send])
    tool_calls = [
        Call("double", '{"value": '),
        Call("double", {"value": "many"}),
        Call("nothing"),
        Call("send", {"to": "nobody", "amount": 1}),
    ]
    async with talking(redis_url, namespace, calls(*tool_calls), agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        found = await at_work.result(handle)
        outputs = [one for one in await at_work.events(handle) if one.event_type == "tool_result"]
    assert {one.status for one in found.tool_results} == {"invalid"}
    broken, many, nothing, nobody = server.log[1].results.values()
    assert broken.startswith("invalid arguments: Invalid JSON")
    assert many.startswith("invalid arguments: value: Input should be a valid integer")
    assert nothing == "there is no tool 'nothing'; available tools: double, send"
    assert nobody == "invalid arguments: to: Value error, nobody is no address"
    assert [one.data["status"] for one in outputs] == ["invalid"] * 4
    assert not done, "nobody was asked"


async def test_a_failing_tool_is_retried_and_then_reported(redis_url: str, namespace: str) -> None:
    @tool(max_retries=1)
    def fails(number: Number) -> None:
        done["fails"] += 1
        raise ValueError("no luck")

    @tool
    async def fails_in_steps(ctx: WorkflowContext, number: Number) -> None:
        raise KeyError("gone")

    @tool(max_retries=0)
    def not_storable(number: Number) -> object:
        return object()

    agent = Agent(id="unlucky", model="gpt-4o", tools=[fails, fails_in_steps, not_storable])
    tool_calls = [Call(name, {"value": 1}) for name in agent.tools]
    async with talking(redis_url, namespace, calls(*tool_calls), agent) as (server, at_work):
        found = await agent.run(at_work.client, "Go")
    assert [one.status for one in found.tool_results] == ["failed"] * 3
    first, second, third = server.log[1].results.values()
    assert first == "the tool failed: ValueError: no luck" and done["fails"] == 2
    assert second.startswith("the tool failed: KeyError: child ") and "of workflow 'fails_in_steps'" in second
    assert third.startswith("the tool failed: NotStorableError: ")


async def test_an_agent_can_be_a_tool(redis_url: str, namespace: str) -> None:
    """Its usage counts towards the calling agent, and only once."""
    expert = Agent(id="expert", model="gpt-4o", description="Ask one who knows.", output_schema=Mail)
    boss = Agent(id="boss", model="gpt-4o", tools=[expert], max_tokens=1000)

    def reply(request: ModelRequest) -> Reply:
        if request.prompt == "How much?":
            return Say({"to": "ann", "amount": 3}, usage=(100, 10))
        tool_calls = [Call("expert", {"input": "How much?"})] * 2
        return Say("3", usage=(2, 2)) if request.round else Say(tool_calls=tool_calls, usage=(1, 1))

    async with talking(redis_url, namespace, reply, boss) as (server, at_work):
        handle = await boss.invoke(at_work.client, "Find out")
        found = await at_work.result(handle)
        usage = (await at_work.client.get_execution(handle.id))["usage"]
    assert status_of(found) == [("ok", {"to": "ann", "amount": 3})] * 2
    assert found.usage == Usage(203, 23, 4)
    assert (usage["input_tokens"], usage["output_tokens"], usage["requests"]) == (203, 23, 4)
    assert server.log[0].tools[0]["description"] == "Ask one who knows."


# --- approval -----------------------------------------------------------------------------

FOUR = [Call("send", {"to": to, "amount": 50}, id=f"call_{to}") for to in ("ann", "bob", "cid", "dan")]


async def test_parallel_calls_are_decided_separately(redis_url: str, namespace: str) -> None:
    """Approved, edited, rejected, timed out: each decided on its own, none lost, none asked twice."""
    patient = tool(id="send", approval="always", approval_timeout=3600)(send_it)
    agent = Agent(id="four", model="gpt-4o", tools=[patient])
    async with talking(redis_url, namespace, calls(*FOUR), agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        waiting = {one["data"]["arguments"]["to"]: one for one in await asked(at_work, 4)}
        assert waiting["ann"]["data"] == {
            "tool": "send",
            "description": "Send money.",
            "arguments": {"to": "ann", "amount": 50},
            "agent_id": "four",
        }
        await at_work.parked(handle)
        await answer(at_work, waiting["ann"], {"approved": True}, resumed_by="eve")
        edited = {"approved": True, "arguments": {"to": "bob", "amount": 5}, "reason": "too much"}
        await answer(at_work, waiting["bob"], edited)
        await answer(at_work, waiting["cid"], {"approved": False, "reason": "not cid"})
        await until(lambda: done["ann 50"] and done["bob 5"])
        await at_work.make_due(handle, waiting["dan"]["step_key"], "s")
        found = await at_work.result(handle)
        execution = await at_work.client.get_execution(handle.id)
        audit = await at_work.client.audit(handle.id)
    assert status_of(found) == [
        ("ok", "sent 50 to ann"),
        ("ok", "sent 5 to bob"),
        ("rejected", "a person rejected this call, saying: not cid"),
        ("rejected", "nobody approved this call in time, so it was not made"),
    ]
    assert [one.arguments["amount"] for one in found.tool_results] == [50, 5, 50, 50]
    assert done == {"ann 50": 1, "bob 5": 1}
    assert len(execution["suspensions"]) == 4
    assert sorted(one["status"] for one in audit) == ["answered", "answered", "answered", "expired"]
    assert list(server.log[1].results) == [call.id for call in FOUR]
    assert server.log[1].results["call_bob"] == (
        '{"note": "a person changed the arguments, saying: too much", "result": "sent 5 to bob"}'
    )
    assert len(server.log) == 2


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"approved": None},
        {"approved": "perhaps"},
        {"approved": True, "arguments": {"to": "ann", "amount": -1}},
        {"approved": True, "arguments": {"amount": 1}},
        {"approved": True, "args": {"to": "ann", "amount": 1}},
        True,
        "yes",
        None,
    ],
)
async def test_an_invalid_decision_decides_nothing(redis_url: str, namespace: str, data: Any) -> None:
    """Above all an edit under a wrong name, which would approve the original call."""
    agent = Agent(id="strict-one", model="gpt-4o", tools=[send])
    async with talking(redis_url, namespace, calls(FOUR[0]), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        (waiting,) = await asked(at_work)
        with pytest.raises(InvalidAnswerError):
            await answer(at_work, waiting, data)
        await answer(at_work, waiting, {"approved": False})
        with pytest.raises(AlreadyResumedError):
            await answer(at_work, waiting, {"approved": True})
        found = await at_work.result(handle)
    assert status_of(found) == [("rejected", "a person rejected this call")] and not done


async def test_an_edit_that_only_the_tools_own_checks_refuse_is_asked_again(
    redis_url: str, namespace: str
) -> None:
    """The process that receives the edit may not know those checks."""
    agent = Agent(id="checked", model="gpt-4o", tools=[send])
    async with talking(redis_url, namespace, calls(FOUR[0]), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        (first,) = await asked(at_work)
        await answer(at_work, first, {"approved": True, "arguments": {"to": "nobody", "amount": 1}})
        (second,) = await asked(at_work, but=[first["step_key"]])
        assert "nobody is no address" in second["data"]["problem"]
        assert second["data"]["arguments"] == first["data"]["arguments"]
        await answer(at_work, second, {"approved": True})
        found = await at_work.result(handle)
    assert status_of(found) == [("ok", "sent 50 to ann")] and done == {"ann 50": 1}


async def test_nothing_is_approved_before_it_is_shown(redis_url: str, namespace: str) -> None:
    """An answer stored until its suspension opens would approve arguments that nobody has seen."""
    agent = Agent(id="not-early", model="gpt-4o", tools=[send])
    gate = asyncio.Event()

    async def reply(request: ModelRequest) -> Reply:
        await gate.wait()
        return Say("done") if request.round else Say(tool_calls=FOUR[:1])

    async with talking(redis_url, namespace, reply, agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        for step_key in ("approve_1.1_send", "approve_1.1_send_00000000"):
            await at_work.client.resume(
                suspend_execution_id=handle.id,
                suspend_step_key=step_key,
                data={"approved": True},
                early=True,
            )
        gate.set()
        (waiting,) = await asked(at_work)
        assert waiting["step_key"].startswith("approve_1.1_send_")
        await at_work.parked(handle)
        with pytest.raises(SuspensionNotFoundError):
            await at_work.answer(handle, "approve_1.1_send", {"approved": True})
        await answer(at_work, waiting, {"approved": False})
        await at_work.result(handle)
    assert not done


async def test_a_policy_decides_which_calls_need_approval(redis_url: str, namespace: str) -> None:
    """An edit is checked against the policy too; one it does not allow needs its own approval."""
    agent = Agent(id="policed", model="gpt-4o", tools=[send_some])
    tool_calls = [
        Call("send_some", {"to": to, "amount": n}) for to, n in (("ann", 1), ("bob", 50), ("cid", 60))
    ]
    async with talking(redis_url, namespace, calls(*tool_calls), agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        bob, cid = await asked(at_work, 2)
        await answer(at_work, bob, {"approved": True, "arguments": {"to": "bob", "amount": 2}})
        await answer(at_work, cid, {"approved": True, "arguments": {"to": "cid", "amount": 1000}})
        (edited,) = await asked(at_work, but=[bob["step_key"], cid["step_key"]])
        assert edited["data"]["arguments"] == {"to": "cid", "amount": 1000}
        assert not done["cid 1000"]
        await answer(at_work, edited, {"approved": True, "reason": "really"})
        found = await at_work.result(handle)
    assert [status for status, _ in status_of(found)] == ["ok"] * 3
    assert {name: n for name, n in done.items() if "policy" not in name} == {
        "ann 1": 1,
        "bob 2": 1,
        "cid 1000": 1,
    }
    assert all(done[f"policy {amount}"] == 1 for amount in (1, 2, 50, 60, 1000)), "journaled"
    assert '"note": "a person approved this call, saying: really"' in list(server.log[1].results.values())[2]


@pytest.mark.parametrize("said", [None, 0, "", ValueError("broken")])
async def test_only_false_means_that_no_approval_is_needed(redis_url: str, namespace: str, said: Any) -> None:
    async def policy(mail: Mail) -> Any:
        if isinstance(said, Exception):
            raise said
        return said

    careful = tool(id="careful", approval=policy)(send_it)
    agent = Agent(id="careful-one", model="gpt-4o", tools=[careful])
    tool_calls = Call("careful", {"to": "ann", "amount": 1})
    async with talking(redis_url, namespace, calls(tool_calls), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        (waiting,) = await asked(at_work)
        await answer(at_work, waiting, {"approved": False})
        found = await at_work.result(handle)
    assert status_of(found) == [("rejected", "a person rejected this call")] and not done


async def test_the_approval_page_and_the_api_take_the_same_decisions(redis_url: str, namespace: str) -> None:
    """An approval is an ordinary suspension: a tool accepts exactly what the page's two buttons send."""
    agent = Agent(id="on-the-page", model="gpt-4o", tools=[send])
    async with talking(redis_url, namespace, calls(*FOUR[:2]), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        ann, bob = await asked(at_work, 2)
        form = of_schema(ann["schema"])
        sheet = form.blank()
        sheet.put("answer/approved", "true")
        assert form.decides
        async with calling_api(at_work.client) as api:
            for one, data in ((ann, form.read(sheet)), (bob, {"approved": False, "reason": "no"})):
                body = {"step_key": one["step_key"], "data": data}
                response = await api.post(f"/api/v1/executions/{handle.id}/resume", json=body)
                assert response.status_code == 200, response.text
        found = await at_work.result(handle)
    assert status_of(found) == [
        ("ok", "sent 50 to ann"),
        ("rejected", "a person rejected this call, saying: no"),
    ]


async def test_a_tool_may_name_and_count_its_approvers(redis_url: str, namespace: str) -> None:
    guarded = tool(id="guarded", approval="always", approvers=["ann", "group:boss"], required=2)(send_it)
    agent = Agent(id="guarded-one", model="gpt-4o", tools=[guarded])
    tool_calls = Call("guarded", {"to": "bob", "amount": 1})
    async with talking(redis_url, namespace, calls(tool_calls), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        (waiting,) = await asked(at_work)
        assert (waiting["approvers"], waiting["required"]) == (["ann", "group:boss"], 2)
        with pytest.raises(NotApproverError):
            await answer(at_work, waiting, {"approved": True}, resumed_by="mallory")
        edited = {"approved": True, "arguments": {"to": "bob", "amount": 2}}
        with pytest.raises(InvalidAnswerError):  # an edit that two have to agree on: neither may change it
            await answer(at_work, waiting, edited, resumed_by="ann")
        await answer(at_work, waiting, {"approved": True}, resumed_by="ann")
        assert not done
        await answer(at_work, waiting, {"approved": True}, resumed_by="cid", groups=["boss"])
        found = await at_work.result(handle)
    assert status_of(found) == [("ok", "sent 1 to bob")]


async def test_a_workflow_and_a_tool_without_input_can_need_approval(redis_url: str, namespace: str) -> None:
    @tool(id="wipe", approval="always")
    def wipe() -> str:
        done["wiped"] += 1
        return "wiped"

    guarded_half = tool(id="half", description="Halve it.", approval="always")(half)
    agent = Agent(id="halver", model="gpt-4o", tools=[guarded_half, wipe])
    tool_calls = [Call("half", {"value": 4}), Call("wipe")]
    async with talking(redis_url, namespace, calls(*tool_calls), agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        of_half, of_wipe = await asked(at_work, 2)
        assert not (await at_work.client.get_execution(handle.id))["children"]
        assert of_wipe["data"]["arguments"] is None
        await answer(at_work, of_half, {"approved": True, "arguments": {"value": 10}})
        await answer(at_work, of_wipe, {"approved": True})
        found = await at_work.result(handle)
    assert status_of(found) == [("ok", 5.0), ("ok", "wiped")]
    assert server.log[0].tools[0]["description"] == "Halve it."


async def test_one_call_awaiting_approval_does_not_block_the_others(redis_url: str, namespace: str) -> None:
    """The other calls of the turn run meanwhile, and the answer does not run them again."""
    agent = Agent(id="mixed", model="gpt-4o", tools=[send, double, in_steps])
    tool_calls = [FOUR[0], Call("double", {"value": 1}), Call("in_steps", {"value": 1})]
    async with talking(redis_url, namespace, calls(*tool_calls), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        (waiting,) = await asked(at_work)

        async def others() -> bool:
            found = await at_work.client.get_execution(handle.id)
            return {"call_1.2", "call_1.3"} <= {step["step_key"] for step in found["steps"]}

        await until(others)
        await at_work.parked(handle)
        await answer(at_work, waiting, {"approved": True})
        found = await at_work.result(handle)
        execution = await at_work.client.get_execution(handle.id)
    assert status_of(found) == [("ok", "sent 50 to ann"), ("ok", 2), ("ok", 3)]
    assert len(execution["children"]) == 1 and execution["unreached_steps"] == []


# --- asking people ------------------------------------------------------------------------


async def test_ask_user_shows_forms_and_returns_answers(redis_url: str, namespace: str) -> None:
    agent = Agent(id="asker", model="gpt-4o", tools=[ask_user(approvers=["ann"], timeout=3600)])
    fields = [
        {"name": "size", "label": "Size", "type": "select", "required": True, "options": ["S", "L"]},
        {"name": "when", "label": "When?", "type": "date", "required": False, "options": []},
    ]
    twice = [fields[0], fields[0]]
    tool_calls = [
        Call("ask_user", {"question": "Which one?", "fields": fields}),
        Call("ask_user", {"question": "Anything else?", "fields": []}),
        Call("ask_user", {"question": "Never answered?", "fields": []}),
        Call("ask_user", {"question": "Twice?", "fields": twice}),
    ]
    async with talking(redis_url, namespace, calls(*tool_calls), agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        which, other, never = await asked(at_work, 3)
        assert (which["step_key"], which["approvers"]) == ("ask_user_1.1", ["ann"])
        assert which["data"]["_form"] == {"title": "Which one?", "fields": fields}
        assert [one["type"] for one in other["data"]["_form"]["fields"]] == ["textarea"]
        await answer(at_work, which, {"size": "L"}, resumed_by="ann")
        await answer(at_work, other, {"answer": "no"}, resumed_by="ann")
        await at_work.make_due(handle, never["step_key"], "s")
        found = await at_work.result(handle)
    assert status_of(found) == [
        ("ok", {"size": "L"}),
        ("ok", {"answer": "no"}),
        ("rejected", "nobody answered in time"),
        ("invalid", "every field of the form needs a unique name"),
    ]
    assert next(iter(server.log[1].results.values())) == '{"size": "L"}'


async def test_a_failed_model_call_fails_the_agent_and_tools_do_not_run_again(
    redis_url: str, namespace: str
) -> None:
    """The model call after the tools fails; the retry keeps what the tools did."""
    agent = Agent(id="resumed", model="gpt-4o", tools=[double], max_retries=0)
    replies: list[Any] = [
        Say(tool_calls=[Call("double", {"value": 1})]),
        Say(cut_after=0),
        Say("done"),
    ]
    async with talking(redis_url, namespace, replies, agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        _, message = await error_of(at_work, handle)
        assert "'model_2' failed" in message
        await at_work.client.retry(handle.id)
        found = await at_work.result(handle)
    assert (found.result, len(server.log)) == ("done", 3)


async def test_what_the_model_was_told_stands_when_the_run_is_retried(redis_url: str, namespace: str) -> None:
    """Retries usually drop what failed or timed out. Here, a tool that ran again or a person asked again
    would act unknown to the model, which has continued without them.
    """

    @tool(max_retries=0)
    def fails_once(number: Number) -> str:
        done["fails_once"] += 1
        if done["fails_once"] == 1:
            raise ValueError("the first time")
        return "fine"

    @tool(max_retries=0)
    async def fails_below(ctx: WorkflowContext, number: Number) -> None:
        done["fails_below"] += 1
        raise ValueError("below")

    timed = tool(id="timed", approval="always", approval_timeout=3600)(send_it)
    agent = Agent(id="retried", model="gpt-4o", tools=[fails_once, fails_below, timed, double], max_retries=0)
    tool_calls = [
        Call("fails_once", {"value": 1}),
        Call("fails_below", {"value": 1}),
        Call("timed", {"to": "ann", "amount": 1}),
    ]
    replies: list[Reply | When] = [
        Say(tool_calls=tool_calls),
        Say("On without them", tool_calls=[Call("double", {"value": 2})]),
        Fail(400, "out of order"),
        Say("done"),
    ]
    async with talking(redis_url, namespace, replies, agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        (waiting,) = await asked(at_work)
        await at_work.make_due(handle, waiting["step_key"], "s")
        await error_of(at_work, handle)
        await at_work.client.retry(handle.id)
        found = await at_work.result(handle)
        execution = await at_work.client.get_execution(handle.id)
    assert [one.status for one in found.tool_results] == ["failed", "failed", "rejected", "ok"]
    assert done == {"fails_once": 1, "fails_below": 1}
    assert server.log[3].body == server.log[2].body
    assert execution["unreached_steps"] == []
