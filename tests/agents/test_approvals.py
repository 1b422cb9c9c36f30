"""Approvals of tool calls: what a person is shown, what they approve and what runs is one value."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any

import pytest
from pydantic import AliasChoices, BaseModel, Field, PlainSerializer, PrivateAttr, SecretStr, field_validator

from polos_redis import Agent, ConfigurationError, InvalidAnswerError, WorkflowContext, tool, workflow
from polos_redis.testing.model import Call, ModelRequest, Reply, Say
from tests.agents.test_tools import calls, status_of
from tests.harness.agents import answer, asked, talking

ran: list[Any] = []  # the inputs of tools


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


class Fee(BaseModel):
    cents: int = 0


class PayOut(BaseModel):
    account: str = Field(validation_alias=AliasChoices("Account", "acc"))
    cents: int = Field(default=7, exclude=True)
    fee: Fee = Fee()
    memo: bytes = b""
    limit: float = 1.0
    parts: dict[str, Fee] = {}


@dataclass
class Plain:
    account: str
    cents: int = 7


def pay_out(wanted: PayOut) -> str:
    ran.append(wanted)
    return "done"


FULL = {
    "Account": "a-1",
    "cents": 500000,
    "fee": {"cents": 3},
    "memo": "x",
    "limit": 1.0,
    "parts": {"b": {"cents": 4}},
}
guarded = tool(id="pay_out", approval="always")(pay_out)


@pytest.mark.failure(48)
@pytest.mark.threat(17)
async def test_every_argument_is_shown_and_runs_as_edited(redis_url: str, namespace: str) -> None:
    agent = Agent(id="teller", model="gpt-4o", tools=[guarded])
    tool_calls = [Call("pay_out", FULL), Call("pay_out", {**FULL, "cents": 500001})]
    async with talking(redis_url, namespace, calls(*tool_calls), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        one, other = await asked(at_work, 2)
        assert (one["data"]["arguments"], other["data"]["arguments"]) == (FULL, {**FULL, "cents": 500001})
        assert one["digest"] != other["digest"]
        assert one["step_key"][-8:] != other["step_key"][-8:], "arguments that differ have other digests"
        edited = {**FULL, "cents": 5000, "fee": {"cents": 0}, "parts": {}}
        await answer(at_work, one, {"approved": True, "arguments": edited}, shown_digest=one["digest"])
        await answer(at_work, other, {"approved": True, "arguments": other["data"]["arguments"]})
        found = await at_work.result(handle)
    assert sorted(one.cents for one in ran) == [5000, 500001]
    (first,) = [one for one in ran if one.cents == 5000]
    assert first == PayOut.model_validate(edited)
    assert [one.note for one in found.tool_results] == ["a person changed the arguments", ""]


def without(*path: str) -> Any:
    """The full arguments without one of them."""
    copy: dict[str, Any] = {**FULL, "fee": {}, "parts": {"b": {}}} if len(path) > 1 else dict(FULL)
    if len(path) == 1:
        del copy[path[0]]
    elif path[0] == "fee":
        copy["parts"] = FULL["parts"]
    else:
        copy["fee"] = FULL["fee"]
    return copy


INCOMPLETE: list[tuple[Any, str]] = [
    *((without(name), name) for name in FULL),
    (without("fee", "cents"), "cents"),
    (without("parts", "cents"), "cents"),
    ({**FULL, "cent": 5}, "cent"),
    ({**FULL, "fee": {"cents": 1, "cent": 1}}, "cent"),
    ({**without("Account"), "acc": "a-1"}, "acc"),
]


@pytest.mark.threat(24)
async def test_an_edit_leaves_nothing_to_a_default_or_to_the_original(redis_url: str, namespace: str) -> None:
    agent = Agent(id="strict-teller", model="gpt-4o", tools=[guarded])
    async with talking(redis_url, namespace, calls(Call("pay_out", FULL)), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        (waiting,) = await asked(at_work)
        for edited, name in INCOMPLETE:
            with pytest.raises(InvalidAnswerError) as caught:
                await answer(at_work, waiting, {"approved": True, "arguments": edited})
            assert name in str(caught.value)
        for rejection in ({"approved": False, "arguments": FULL}, {"approved": False, "args": 1}):
            with pytest.raises(InvalidAnswerError):
                await answer(at_work, waiting, rejection)
        await answer(at_work, waiting, {"approved": False, "reason": "no"})
        found = await at_work.result(handle)
    assert status_of(found) == [("rejected", "a person rejected this call, saying: no")] and not ran


@pytest.mark.threat(17)
async def test_numbers_that_are_not_finite_are_refused_or_shown(redis_url: str, namespace: str) -> None:
    agent = Agent(id="endless", model="gpt-4o", tools=[guarded])
    tool_calls = [
        Call("pay_out", '{"Account": "a", "limit": 1e999}'),
        Call("pay_out", '{"Account": "a", "limit": NaN}'),
        Call("pay_out", '{"Account": "a", "cents": 1, "cents": 2}'),
        Call("pay_out", '{"Account": "a", "limit": "Infinity"}'),
    ]
    async with talking(redis_url, namespace, calls(*tool_calls), agent) as (_, at_work):
        handle = await agent.invoke(at_work.client, "Go")
        (waiting,) = await asked(at_work)
        assert waiting["data"]["arguments"]["limit"] == "Infinity"
        await answer(at_work, waiting, {"approved": True})
        found = await at_work.result(handle)
    assert [one.status for one in found.tool_results] == ["invalid"] * 3 + ["ok"]
    assert [one.limit for one in ran] == [inf]
    assert [one.result for one in found.tool_results[:3]] == [
        "invalid arguments: Invalid JSON: the number 1e999 is too large for a float",
        "invalid arguments: Invalid JSON: JSON has no NaN",
        'invalid arguments: Invalid JSON: an object has the name "cents" twice',
    ]


# --- arguments that can't be shown ------------------------------------------------------


class Scaled(BaseModel):
    """Reads back as another value."""

    cents: int

    @field_validator("cents", mode="before")
    @classmethod
    def _of_euros(cls, euros: int) -> int:
        return euros * 100


class Picky(BaseModel):
    """Does not read back at all."""

    cents: int

    @field_validator("cents", mode="before")
    @classmethod
    def _of_text(cls, text: str) -> int:
        return int(text.removesuffix(" EUR"))


class Tallied(BaseModel):
    cents: int
    _tally: int = PrivateAttr(default_factory=lambda: len(ran))

    def model_post_init(self, context: Any) -> None:
        ran.append("parsed")


UNSHOWN: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (Scaled, {"cents": 5}, "field 'cents' changes when it is read back"),
    (Picky, {"cents": "5 EUR"}, "AttributeError: 'int' object has no attribute 'removesuffix'"),
    (Tallied, {"cents": 5}, "a type inside them, or a private attribute, changes when it is read back"),
]


@pytest.mark.threat(24)
@pytest.mark.parametrize(
    ("input_type", "arguments", "why"), UNSHOWN, ids=lambda one: getattr(one, "__name__", "")
)
async def test_arguments_that_do_not_read_back_are_never_approved(
    input_type: Any,
    arguments: dict[str, Any],
    why: str,
    redis_url: str,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def act(wanted: Any) -> str:
        raise AssertionError("it was never approved")

    act.__annotations__["wanted"] = input_type
    agent = Agent(id="changed", model="gpt-4o", tools=[tool(id="act", approval="always")(act)])
    with caplog.at_level(logging.WARNING, "polos.execution"):
        async with talking(redis_url, namespace, calls(Call("act", arguments)), agent) as (_, at_work):
            found = await agent.run(at_work.client, "Go")
            assert not (await at_work.client.list_suspensions())
    (result,) = found.tool_results
    assert result.status == "invalid"
    assert result.result == f"these arguments can't be shown to the person who would approve them: {why}"
    assert f"tool 'act': the arguments of a call can't be shown for approval: {why}" in caplog.text


class Masked(BaseModel):
    card: Annotated[str, PlainSerializer(lambda _: "****")]


class Secretive(BaseModel):
    password: SecretStr


@workflow(id="takes-masked")
async def takes_masked(ctx: WorkflowContext, input: Masked) -> str:
    return input.card


def masked(input: Masked) -> None: ...
def secretive(input: Secretive) -> None: ...


@pytest.mark.threat(17)
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (masked, "the input of tool 'masked', which needs approval: field 'card' has a serializer"),
        (takes_masked, "the input of tool 'takes-masked', which needs approval: field 'card' has a seri"),
        (secretive, "the input of tool 'secretive', which needs approval: field 'password' is secret"),
    ],
)
def test_a_tool_whose_input_hides_something_is_refused(function: Callable[..., Any], why: str) -> None:
    for approval in ("always", lambda _: True):
        with pytest.raises(ConfigurationError, match=why):
            tool(approval=approval)(function)
    tool(function)  # nobody is shown anything


@pytest.mark.failure(45)
async def test_an_approval_of_a_finished_call_need_not_be_reached_again(
    redis_url: str, namespace: str
) -> None:
    agent = Agent(id="repeating-teller", model="gpt-4o", tools=[guarded])

    def turn(request: ModelRequest) -> Reply:
        more = [Call("pay_out", {**FULL, "cents": request.round})] if request.round < 3 else []
        return Say(tool_calls=more)

    async with talking(redis_url, namespace, turn, agent) as (_, at_work):
        at_work.host.stuck_seconds = 3600.0
        handle = await agent.invoke(at_work.client, "Go")
        for number in range(3):
            (one,) = await asked(at_work)
            assert one["data"]["arguments"]["cents"] == len(ran) == number
            await at_work.parked(handle)
            await answer(at_work, one, {"approved": True, "arguments": one["data"]["arguments"]})
        found = await at_work.result(handle)
    assert [one.status for one in found.tool_results] == ["ok"] * 3
    assert not at_work.worker.stats.stuck
