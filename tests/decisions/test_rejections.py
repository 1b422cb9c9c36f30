"""Rejecting needs `approved` and a reason, whatever an approval has to fill in."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx2
import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from typing_extensions import TypedDict

from polos_redis import (
    AlreadyResumedError,
    ConfigurationError,
    ExecutionFailedError,
    ExecutionHandle,
    InvalidAnswerError,
    Rejection,
    Workflow,
    WorkflowContext,
    events,
)
from polos_redis.decisions.answer_types import AnswerTypes
from polos_redis.links import Links
from polos_redis.values import bounds, codec
from tests.harness.command import Command
from tests.harness.running import Running, running
from tests.harness.serving import calling, problem, serving

SEEN: defaultdict[str, list[Any]] = defaultdict(list)  # by execution: its answers, activation by activation


class Payment(BaseModel):
    approved: bool
    amount: float = Field(gt=0)
    pay_by: date
    note: str = ""


class Refusal(BaseModel):
    model_config = ConfigDict(extra="forbid")
    approved: Literal[False]
    code: Literal["duplicate", "fraud"]
    reason: str | None = None
    proof: bytes = Field(default=b"", exclude=True)
    _seen_by: str = PrivateAttr("nobody")


class Optional(BaseModel):
    approved: bool
    limit: int = 5
    reason: str | None = None


async def _pays(ctx: WorkflowContext, input: str) -> None:
    reject: Any = Refusal if input == "refusal" else None
    SEEN[ctx.execution_id].append(await ctx.step.suspend("pay", schema=Payment, reject_schema=reject))
    await ctx.step.suspend("more")


pays: Workflow[Any, Any] = Workflow(_pays, "rejections-pays")


async def asked(at: Running, input: str = "") -> ExecutionHandle[Any]:
    handle = await pays.invoke(at.client, input)
    await at.opened(handle, "pay")
    return handle


async def seen(at: Running, handle: ExecutionHandle[Any]) -> list[Any]:
    """What the workflow was answered, at first and on replay."""
    await at.opened(handle, "more")
    await at.parked(handle)
    await at.answer(handle, "more")
    await at.result(handle)
    return SEEN[handle.id]


CHANNELS = ("client", "instance", "early", "topic", "api", "link", "command")
NO = {"approved": False, "reason": "too much"}


@pytest.mark.parametrize("channel", CHANNELS)
async def test_a_rejection_needs_only_its_reason(
    channel: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    async with running(redis_url, namespace, pays) as at:
        if channel == "early":
            handle = await at.client.invoke(pays, "", start_delay=0.5)
            named: dict[str, Any] = {"suspend_execution_id": handle.id, "suspend_step_key": "pay"}
            assert (await at.client.resume(**named, data=NO, early=True)).outcome == "early"
        else:
            handle = await asked(at)
        if channel in ("client", "instance"):
            data = Rejection(reason="too much") if channel == "instance" else NO
            assert (await at.answer(handle, "pay", data)).outcome == "accepted"
            assert (await at.answer(handle, "pay", data)).outcome == "same"
            with pytest.raises(AlreadyResumedError):
                await at.answer(handle, "pay", {"approved": False})
        elif channel == "topic":
            await events.publish(at.client, f"pay/{handle.id}", events.EventData("resume", NO))
        elif channel == "api":
            async with calling(at.client) as api:
                body = {"step_key": "pay", "data": NO}
                response = await api.post(f"/api/v1/executions/{handle.id}/resume", json=body)
                assert response.status_code == 200, response.text
        elif channel == "command":
            polos = Command(redis_url, namespace, tmp_path)
            assert "to reject: approved, reason" in (await polos("show", handle.id)).out
            done = await polos("resume", handle.id, "--reject", "--reason", "too much")
            assert done.code == 0, done.err
        elif channel == "link":
            await by_link(at, handle)
        assert await seen(at, handle) == [Rejection(reason="too much")] * 2


async def by_link(at: Running, handle: ExecutionHandle[Any]) -> None:
    links = Links(["a secret of at least 32 characters"], at.client.namespace, None, 3600)
    found = await at.client.get_suspension(handle.id, "pay")
    created_at = datetime.fromisoformat(found["execution_created_at"])
    token = links.token(handle.id, "pay", found["run"], created_at, name="ann")
    async with serving(at.client, links=links) as url, httpx2.AsyncClient(timeout=60, base_url=url) as api:
        response = await api.post(
            f"/api/v1/executions/{handle.id}/resume",
            json={"step_key": "pay", "data": NO},
            headers={"Authorization": f"Bearer {token}"},
        )
        assert response.status_code == 200, response.text


WRONG: list[tuple[str, Any, str]] = [
    ("", {"approved": False, "amount": 5}, "amount"),
    ("", {"approved": False, "reason": 5}, "reason"),
    ("", {"approved": False, "amount": 5, "pay_by": "2026-01-01", "reason": ""}, "amount"),
    ("", {"approved": True}, "amount"),
    ("", {"approved": True, "reason": "x"}, "pay_by"),
    ("", {"approved": "no", "amount": 5, "pay_by": "2026-01-01"}, "approved"),
    ("", {"approved": 0, "amount": 5, "pay_by": "2026-01-01"}, "approved"),
    ("", {"amount": 5, "pay_by": "2026-01-01"}, "approved"),
    ("", Payment(approved=False, amount=5, pay_by=date(2026, 1, 1)), "amount"),
    ("refusal", {"approved": False}, "code"),
    ("refusal", {"approved": False, "code": "other"}, "code"),
    ("refusal", {"approved": False, "code": "fraud", "amount": 5}, "amount"),
    ("refusal", {"approved": True, "code": "fraud"}, "amount"),
    ("refusal", Rejection(), "code"),
]


@pytest.mark.parametrize("imported", [True, False], ids=["imported", ""])
@pytest.mark.failure(28)
async def test_nothing_in_between_is_accepted(
    imported: bool, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all nothing that a workflow could take for an approval."""
    async with running(redis_url, namespace, pays) as at:
        handles = {name: await asked(at, name) for name in ("", "refusal")}
        for name, data, path in WRONG:
            if not imported and isinstance(data, Payment):
                continue
            with monkeypatch.context() as patch:
                for cls in () if imported else ("Payment", "Refusal"):
                    patch.delattr(f"{__name__}.{cls}")
                with pytest.raises(InvalidAnswerError) as caught:
                    await at.answer(handles[name], "pay", data)
            told = [f"{one['field']} {one['message']}" for one in caught.value.errors]
            assert any(path in one for one in told), (data, told)
        assert not any(SEEN[handle.id] for handle in handles.values())


async def test_a_type_of_its_own_for_rejections(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, pays) as at:
        handle, approved = await asked(at, "refusal"), await asked(at, "refusal")
        await at.answer(handle, "pay", {"approved": False, "code": "fraud"})
        assert await seen(at, handle) == [Refusal(approved=False, code="fraud")] * 2
        given, instance = Refusal(approved=False, code="fraud", proof=b"\xff"), await asked(at, "refusal")
        given._seen_by = "ann"
        await at.answer(instance, "pay", given)
        assert await seen(at, instance) == [given] * 2
        yes = {"approved": True, "amount": 5, "pay_by": "2026-01-01"}
        await at.answer(approved, "pay", yes)
        assert await seen(at, approved) == [Payment.model_validate(yes)] * 2


async def test_the_schema_of_rejections_can_be_read_to_show_a_form(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, pays) as at:
        plain, own = await asked(at), await asked(at, "refusal")
        found = await at.client.get_suspension(plain.id, "pay")
        assert found["reject_schema"] == {
            "title": "Rejection",
            "type": "object",
            "properties": {
                "approved": {"const": False, "title": "Approved", "type": "boolean"},
                "reason": {
                    "anyOf": [{"type": "string"}, {"type": "null"}],
                    "default": None,
                    "title": "Reason",
                },
            },
            "required": ["approved"],
            "additionalProperties": False,
        }
        found = await at.client.get_suspension(own.id, "pay")
        assert found["reject_schema"]["required"] == ["approved", "code"]
        async with calling(at.client) as api:
            listed = (await api.get("/api/v1/suspensions")).json()["suspensions"]
            shape = (await api.get("/openapi.json")).json()["components"]["schemas"]["SuspensionDetails"]
        assert {json.dumps(one["reject_schema"] is None) for one in listed} == {"false"}
        assert "reject_schema" in shape["properties"]


async def test_an_api_refusal_names_the_field(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, pays) as at:
        handle = await asked(at)
        async with calling(at.client) as api:
            body = {"step_key": "pay", "data": {"approved": False, "amount": 5}}
            response = await api.post(f"/api/v1/executions/{handle.id}/resume", json=body)
        assert "amount" in str(problem(response, 422, "invalid-answer")["errors"])


async def test_a_default_may_reject(redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext, default: Any) -> None:
        answer: Any = await ctx.step.suspend("pay", timeout=0.01, schema=Payment, on_timeout=default)
        SEEN[ctx.execution_id].append(answer)

    defaults: Workflow[Any, Any] = Workflow(body, "rejections-defaults")
    async with running(redis_url, namespace, defaults) as at:
        handles = [
            await defaults.invoke(at.client, one) for one in ({"approved": False}, Rejection(reason="late"))
        ]
        await asyncio.gather(*map(at.result, handles))
        assert [SEEN[one.id] for one in handles] == [[Rejection()], [Rejection(reason="late")]]
        wrong = await defaults.invoke(at.client, {"approved": True})
        with pytest.raises(ExecutionFailedError, match=r"on_timeout=.*amount"):
            await at.result(wrong)


async def test_an_optional_answer_may_be_none_or_reject(redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext) -> None:
        SEEN[ctx.execution_id].append(await ctx.step.suspend("pay", schema=Payment | None))

    optional: Workflow[Any, Any] = Workflow(body, "rejections-optional")
    async with running(redis_url, namespace, optional) as at:
        given = [None, NO, {"approved": True, "amount": 5, "pay_by": "2026-01-01"}]
        for answer in given:
            handle = await optional.invoke(at.client)
            await at.opened(handle, "pay")
            for wrong in ({"approved": True}, {"reason": "x"}, 5):
                with pytest.raises(InvalidAnswerError):
                    await at.answer(handle, "pay", wrong)
            await at.answer(handle, "pay", answer)
            await at.result(handle)
            expected = [None, Rejection(reason="too much"), Payment.model_validate(given[2])]
            assert SEEN[handle.id] == [expected[given.index(answer)]]


async def test_people_who_are_counted_have_to_say_whether_they_approve(
    redis_url: str, namespace: str
) -> None:
    async def body(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("pay", schema=Payment | None, required=2)

    counted: Workflow[Any, Any] = Workflow(body, "rejections-counted")
    async with running(redis_url, namespace, counted) as at:
        with pytest.raises(ExecutionFailedError, match="an answer must say whether it approves"):
            await at.result(await counted.invoke(at.client))


# --- which types have rejections of their own -------------------------------------------


class OnlyReason(BaseModel):
    approved: bool
    reason: str = Field(min_length=3)


class Both(OnlyReason):
    amount: int


class OnlyApproves(BaseModel):
    approved: Literal[True]


class Maybe(BaseModel):
    approved: bool | None
    amount: int


class Worded(BaseModel):
    approved: Literal["yes", "no"]
    amount: int


@dataclass
class Plain:
    approved: bool
    amount: int


class Keys(TypedDict):
    approved: bool
    amount: int


class Nested(BaseModel):
    payment: Payment


class ByCard(BaseModel):
    kind: Literal["card"] = "card"
    approved: bool
    card: str


class ByBank(BaseModel):
    kind: Literal["bank"] = "bank"
    approved: Literal[True]
    account: str


class Denied(BaseModel):
    kind: Literal["no"] = "no"
    approved: Literal[False]
    code: int


class Tree(BaseModel):
    approved: bool
    parts: list[Tree | ByBank]


NEEDS: list[tuple[Any, Any]] = [
    (Payment, Rejection),
    (Both, Rejection),
    (OnlyApproves, Rejection),
    (Maybe, Rejection),
    (Plain, Rejection),
    (Keys, Rejection),
    (Optional, Optional),
    (OnlyReason, OnlyReason),
    (Nested, None),
    (ByCard | ByBank, Rejection),
    (Annotated[ByCard | ByBank, Field(discriminator="kind")], Rejection),
    (Tree | ByCard, Rejection),
    (ByCard | Optional, Optional),
    (ByCard | Denied, None),  # a rejection of its own
    (Payment | int, None),
    (Payment | None, Rejection),
    (ByCard | ByBank | None, Rejection),
    (Optional | None, Optional),
    (ByCard | Denied | None, None),
    (None | bool, None),
    (bool, None),
]


@pytest.mark.parametrize(
    ("annotation", "expected"), NEEDS, ids=lambda one: getattr(one, "__name__", str(one))
)
def test_a_rejection_is_what_the_type_lets_it_be(annotation: Any, expected: Any) -> None:
    types = AnswerTypes(annotation)
    _, _, rejection, _ = types.describe("suspension 'pay'")
    assert (rejection is not None) is (expected is Rejection)
    if expected is not None:
        stored = codec.encode({"approved": False, "reason": "because"})
        assert type(bounds.at_once(types.read(stored))) is expected


def test_a_reason_stays_as_constrained_as_the_approvals() -> None:
    _, _, rejection, _ = AnswerTypes(Both).describe("suspension 'pay'")
    assert rejection is not None
    assert rejection["required"] == ["approved", "reason"]
    assert rejection["properties"]["reason"]["minLength"] == 3


@pytest.mark.parametrize(
    ("types", "why"),
    [
        (AnswerTypes(Worded), "the field `approved` of schema= must be a bool"),
        (AnswerTypes(None, Refusal), "reject_schema= needs schema=, the type of an approval"),
        (AnswerTypes(Nested, Refusal), "with reject_schema=, give schema= a field `approved: bool`"),
        (AnswerTypes(Payment, Nested), r"give reject_schema= a field `approved: Literal\[False\]`"),
        (AnswerTypes(Payment, object()), "reject_schema=<object object at .*> has no JSON schema"),
    ],
)
def test_types_that_do_not_fit_together_are_refused(types: AnswerTypes, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^suspension 'pay': {why}"):
        types.describe("suspension 'pay'")
