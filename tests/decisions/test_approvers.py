"""Approvers of a suspension: who may decide, how many must agree, and what applies if they don't."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    AlreadyResumedError,
    ExecutionFailedError,
    ExecutionFinishedError,
    ExecutionHandle,
    InvalidAnswerError,
    NotApproverError,
    PolosClient,
    PolosError,
    Resumed,
    ShownChangedError,
    SuspensionExpiredError,
    Workflow,
    WorkflowContext,
)
from polos_redis.decisions import answers
from polos_redis.executions.queries import read_suspension
from tests.harness.running import Running, in_partition, running, soon, until, working

pytestmark = pytest.mark.also_on_cluster

YES, NO = {"approved": True}, {"approved": False}


class Decision(BaseModel):
    approved: bool
    reason: str = ""


SCHEMAS = {"decision": Decision, "any": dict[str, Any]}


async def _asks(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    policy = dict(input)
    if "schema" in policy:
        policy["schema"] = SCHEMAS[policy["schema"]]
    return await ctx.step.suspend("ask", policy.pop("data", {"q": 1}), **policy)


asks: Workflow[Any, Any] = Workflow(_asks, "approvers-ask")


async def _asks_below(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    return await ctx.step.invoke_and_wait("child", asks, input)


asks_below: Workflow[Any, Any] = Workflow(_asks_below, "approvers-ask-below")


@pytest.fixture
async def at(redis_url: str, namespace: str) -> AsyncIterator[Running]:
    async with running(redis_url, namespace, asks, asks_below) as at:
        yield at


async def asked(at: Running, *, user_id: str | None = None, **policy: Any) -> ExecutionHandle[Any]:
    handle = await asks.invoke(at.client, policy, user_id=user_id)
    await at.parked(handle)
    return handle


async def says(
    at: Running | PolosClient,
    handle: ExecutionHandle[Any],
    by: str | None,
    data: Any = YES,
    groups: Sequence[str] = (),
    **more: Any,
) -> Resumed:
    client = at.client if isinstance(at, Running) else at
    return await client.resume(
        suspend_execution_id=handle.id,
        suspend_step_key="ask",
        data=data,
        resumed_by=by,
        groups=groups,
        **more,
    )


async def decisions_of(at: Running, handle: ExecutionHandle[Any]) -> list[tuple[str, str | None]]:
    return [(entry["status"], entry["by"]) for entry in await at.client.audit(handle.id)]


# --- who --------------------------------------------------------------------------------


@pytest.mark.failure(28)
@pytest.mark.promise("answer checked")
async def test_only_named_approvers_decide(at: Running) -> None:
    handle = await asked(at, approvers=["ann", "group:finance"])
    for by, groups in (
        (None, ()),
        ("", ()),
        (None, ("finance",)),
        ("bob", ()),
        ("finance", ()),
        ("bob", ("ann", "finances")),
    ):
        with pytest.raises(NotApproverError) as refused:
            await says(at, handle, by, groups=groups)
        assert "\n" not in str(refused.value) and f"'ask' of {handle.id}" in str(refused.value)
    assert await handle.status() == "waiting" and await decisions_of(at, handle) == []
    await says(at, handle, "bob", groups=["others", "finance"])
    assert (await at.result(handle))["resumed_by"] == "bob"
    with pytest.raises(AlreadyResumedError, match="by bob"):
        await says(at, handle, "ann", NO)


async def test_the_approver_is_checked_before_the_answer(at: Running) -> None:
    handle = await asked(at, approvers=["ann"], schema="decision")
    with pytest.raises(NotApproverError, match="it is for ann"):
        await says(at, handle, "bob", {"approved": "perhaps"})
    with pytest.raises(InvalidAnswerError):
        await says(at, handle, "ann", {"approved": "perhaps"})
    await says(at, handle, "ann", YES)
    await at.result(handle)


@pytest.mark.threat(8)
async def test_requesters_cannot_decide_on_their_own_request(at: Running) -> None:
    handle = await asked(at, user_id="ann", allow_self=False)
    for by in ("ann", None):
        with pytest.raises(NotApproverError):
            await says(at, handle, by)
    await says(at, handle, "bob")
    assert (await at.result(handle))["resumed_by"] == "bob"


@pytest.mark.threat(8)
async def test_neither_the_user_nor_the_starter_decides_under_any_spelling(at: Running) -> None:
    handle = await asks.invoke(at.client, {"allow_self": False}, user_id="bob", started_by="Mallory")
    await at.parked(handle)
    for by in ("bob", "Mallory", "mallory", "\uff22\uff2f\uff22"):
        with pytest.raises(NotApproverError, match="the person who started it"):
            await says(at, handle, by)
    await says(at, handle, "ann")
    await at.result(handle)


@pytest.mark.failure(51)
@pytest.mark.threat(9)
async def test_two_spellings_of_a_name_are_one_person(at: Running) -> None:
    handle = await asked(at, required=2)
    await says(at, handle, "ann")
    repeated = await says(at, handle, "\uff21nn")
    assert (repeated.outcome, repeated.approvals, repeated.resumed_by) == ("recorded", 1, "ann")
    assert (await says(at, handle, "bob")).outcome == "accepted"
    await at.result(handle)


async def test_requesters_cannot_decide_through_a_child(at: Running) -> None:
    handle = await asks_below.invoke(at.client, {"allow_self": False}, user_id="ann")
    await at.parked(handle)
    with pytest.raises(NotApproverError, match="the person who started it"):
        await says(at, handle, "ann")
    decided = await says(at, handle, "bob")
    assert decided.execution_id.startswith(handle.id + ".")
    assert (await at.result(handle))["resumed_by"] == "bob"


# --- how many ---------------------------------------------------------------------------


async def test_two_people_must_agree(at: Running) -> None:
    handle = await asked(at, required=2)
    with pytest.raises(NotApproverError, match="the answer must name who decides"):
        await says(at, handle, None)
    for wrong in ({}, "yes", {"approved": "yes"}, {"approved": 1}, {"approved": None}, [True]):
        with pytest.raises(InvalidAnswerError) as refused:
            await says(at, handle, "ann", wrong)
        assert [one["field"] for one in refused.value.errors] == ["approved"]
    for _ in range(3):
        first = await says(at, handle, "ann", {**YES, "note": "fine"})
        assert (first.outcome, first.resumed_by, first.approvals, first.required) == ("recorded", "ann", 1, 2)
    for other in (NO, {**YES, "note": "very fine"}):
        with pytest.raises(AlreadyResumedError, match="by ann"):
            await says(at, handle, "ann", other)
    found = await at.client.get_suspension(handle.id, "ask")
    assert [(one["by"], one["data"]["note"]) for one in found["decisions"]] == [("ann", "fine")]
    assert found["status"] == "open" and await handle.status() == "waiting"
    second = await says(at, handle, "bob")
    assert (second.outcome, second.approvals, second.required) == ("accepted", 2, 2)
    result = await at.result(handle)
    assert [(one["by"], one["data"]) for one in result["decisions"]] == [
        *(("ann", {**YES, "note": "fine"}), ("bob", YES))
    ]
    assert (result["resumed_by"], result["data"]) == ("bob", YES)
    assert await decisions_of(at, handle) == [("recorded", "ann"), ("answered", "bob")]
    assert (await says(at, handle, "ann", {**YES, "note": "fine"})).outcome == "same"


async def test_one_rejection_decides(at: Running) -> None:
    handle = await asked(at, required=3)
    await says(at, handle, "ann")
    await says(at, handle, "bob")
    refusal = await says(at, handle, "cid", NO)
    assert (refusal.outcome, refusal.required) == ("accepted", 1)
    assert (await at.result(handle))["data"] == NO
    with pytest.raises(AlreadyResumedError, match="by cid"):
        await says(at, handle, "dan")


async def test_several_rejections_may_be_required(at: Running) -> None:
    handle = await asked(at, required=2, rejections=2, schema="decision")
    assert (await says(at, handle, "ann", NO)).outcome == "recorded"
    assert (await says(at, handle, "bob", YES)).outcome == "recorded"
    assert (await says(at, handle, "cid", NO)).outcome == "accepted"
    assert await at.result(handle) == Decision(approved=False)


@pytest.mark.failure(23)
async def test_concurrent_approvals_count_once_each(at: Running) -> None:
    people = [f"person {number}" for number in range(12)]
    for required in (1, 2, 5):
        handle = await asked(at, required=required)
        results = await soon(
            asyncio.gather(*(says(at, handle, by) for by in people * 2), return_exceptions=True)
        )
        outcomes = Counter(one.outcome if isinstance(one, Resumed) else type(one).__name__ for one in results)
        assert outcomes["accepted"] == 1 and set(outcomes) <= {"accepted", "recorded", "same"}
        result = await at.result(handle)
        decisions = result.get("decisions", [])
        assert len(decisions) == len({one["by"] for one in decisions}) == (required if required > 1 else 0)
        statuses = [status for status, _ in await decisions_of(at, handle)]
        assert statuses == ["recorded"] * (required - 1) + ["answered"]


async def test_a_concurrent_approval_and_rejection_have_one_winner(at: Running) -> None:
    for _ in range(10):
        handle = await asked(at, required=2)
        await says(at, handle, "ann")
        results = await asyncio.gather(
            says(at, handle, "bob", YES), says(at, handle, "cid", NO), return_exceptions=True
        )
        (won,) = [one for one in results if isinstance(one, Resumed)]
        (lost,) = [one for one in results if isinstance(one, AlreadyResumedError)]
        assert lost.resumed_by == won.resumed_by
        assert (await at.result(handle))["data"] == (YES if won.resumed_by == "bob" else NO)


async def test_several_people_answer_a_child_through_the_root(at: Running) -> None:
    handle = await asks_below.invoke(at.client, {"required": 2})
    await at.parked(handle)
    assert (await says(at, handle, "ann")).outcome == "recorded"
    assert (await says(at, handle, "ann")).outcome == "recorded"
    found = await at.client.get_suspension(handle.id, "ask")
    assert found["root_execution_id"] == handle.id and [one["by"] for one in found["decisions"]] == ["ann"]
    assert (await says(at, handle, "bob")).outcome == "accepted"
    assert [one["by"] for one in (await at.result(handle))["decisions"]] == ["ann", "bob"]
    entries = await at.client.audit(handle.id)
    assert [entry["execution_id"] for entry in entries] == [found["execution_id"]] * 2
    assert await at.client.audit(found["execution_id"]) == entries


@pytest.mark.parametrize("partitions", [1, 4])
async def test_approvers_work_in_every_partition(partitions: int, redis_url: str, namespace: str) -> None:
    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, asks) as worker,
    ):
        at = Running(client, worker)
        for partition in range(partitions):
            handle = await in_partition(client, partition, asks, {"required": 2, "approvers": ["ann", "bob"]})
            await at.parked(handle)
            for by in ("ann", "bob"):
                await says(at, handle, by)
            assert len((await at.result(handle))["decisions"]) == 2


# --- early answers ----------------------------------------------------------------------


async def test_an_early_answer_by_a_non_approver_is_dropped(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await asks.invoke(client, {"approvers": ["group:finance"]})
        assert (await says(client, handle, "eve", groups=["ops"], early=True)).outcome == "early"
        with pytest.raises(AlreadyResumedError):
            await says(client, handle, "ann", NO, early=True)
    async with running(redis_url, namespace, asks) as at:
        await at.parked(handle)
        store = await at.client.store()

        async def dropped() -> bool:
            return await store.suspensions.early_answer(handle.id, "ask") is None

        await until(dropped)
        assert await decisions_of(at, handle) == [("unused", "eve")] and await handle.status() == "waiting"
        await says(at, handle, "ann", groups=["finance"])
        assert (await at.result(at.client.get_handle(handle.id)))["resumed_by"] == "ann"


async def test_an_early_answer_counts_as_one_of_two(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await asks.invoke(client, {"required": 2, "approvers": ["ann", "group:finance"]})
        await says(client, handle, "bob", groups=["finance"], early=True)
    async with running(redis_url, namespace, asks) as at:
        await at.parked(handle)

        async def recorded() -> bool:
            return await decisions_of(at, handle) == [("recorded", "bob")]

        await until(recorded)
        assert (await says(at, handle, "ann")).approvals == 2
        await at.result(at.client.get_handle(handle.id))


# --- timeouts ---------------------------------------------------------------------------


@pytest.mark.failure(23)
@pytest.mark.promise("no answer")
async def test_one_of_two_approvals_does_not_survive_a_timeout(at: Running) -> None:
    handle = await asked(at, required=2, timeout=3600)
    await says(at, handle, "ann")
    await at.make_due(handle, "ask", "s")
    with pytest.raises(ExecutionFailedError, match="timed out"):
        await at.result(handle)
    for by in ("ann", "bob"):
        with pytest.raises(SuspensionExpiredError):
            await says(at, handle, by)
    assert await decisions_of(at, handle) == [("recorded", "ann"), ("expired", None)]
    await at.client.retry(handle.id)
    await at.opened(handle, "ask")
    assert (await says(at, handle, "bob")).outcome == "recorded", (
        "the earlier approval was for another opening"
    )
    assert (await says(at, handle, "cid")).outcome == "accepted"
    assert [one["by"] for one in (await at.result(handle))["decisions"]] == ["bob", "cid"]


async def test_a_default_applies_when_nobody_decides(at: Running) -> None:
    handle = await asked(at, required=2, timeout=3600, on_timeout=NO)
    found = await at.client.get_suspension(handle.id, "ask")
    assert found["on_timeout"] == {"data": NO} and found["answer"] is None
    await says(at, handle, "ann")
    await at.make_due(handle, "ask", "s")
    result = await at.result(handle)
    assert (result["data"], result["resumed_by"], result["channel"]) == (NO, None, "timeout")
    assert [one["by"] for one in result["decisions"]] == ["ann"]
    (_, entry) = await at.client.audit(handle.id)
    assert (entry["status"], entry["by"], entry["data"]) == ("expired", None, NO)


@pytest.mark.parametrize("default", [None, Decision(approved=True, reason="late"), {"approved": True}])
async def test_a_default_has_the_schemas_type(default: Any, redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext) -> Any:
        schema: Any = Decision if default is not None else None
        return await ctx.step.suspend("ask", schema=schema, timeout=3600, on_timeout=default)

    flow: Workflow[Any, Any] = Workflow(body, "approvers-default")
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client)
        await at.make_due(handle, "ask", "s")
        result = await at.result(handle)
        if default is None:
            assert result["data"] is None
        else:
            assert isinstance(result, Decision) and result.approved


async def test_a_default_that_decided_is_not_asked_again(redis_url: str, namespace: str) -> None:
    fails = [True]

    async def body(ctx: WorkflowContext) -> Any:
        default = await ctx.step.suspend("ask", timeout=3600, on_timeout="kept")
        if fails:
            raise LookupError(fails.pop())
        return default["data"], (await ctx.step.suspend("then"))["data"]

    flow: Workflow[Any, Any] = Workflow(body, "approvers-kept")
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client)
        await at.make_due(handle, "ask", "s")
        with pytest.raises(ExecutionFailedError, match="LookupError"):
            await at.result(handle)
        await at.client.retry(handle.id)
        await at.opened(handle, "then")
        with pytest.raises(SuspensionExpiredError):
            await says(at, handle, "ann")
        await at.answer(handle, "then", 2)
        assert await at.result(handle) == ("kept", 2)
        assert await decisions_of(at, handle) == [("expired", None), ("answered", None)]


# --- what was shown ---------------------------------------------------------------------


@pytest.mark.threat(16)
@pytest.mark.promise("data shown")
async def test_a_decision_must_match_the_data_shown(at: Running) -> None:
    handle = await asked(at, data={"amount": 5, "to": "zoë"})
    digest = (await at.client.get_suspension(handle.id, "ask"))["digest"]
    for wrong in ("", "0" * 64, digest[:-1], digest + "0", "x"):
        with pytest.raises(ShownChangedError):
            await says(at, handle, "ann", shown_digest=wrong)
    assert (await says(at, handle, "ann", shown_digest=digest.upper())).outcome == "accepted"
    (entry,) = await at.client.audit(handle.id)
    assert entry["digest"] == digest
    assert (await says(at, handle, "ann", shown_digest=digest)).outcome == "same"


SHOWN: dict[str, list[Any]] = {}


async def _shows(ctx: WorkflowContext, input: str) -> Any:
    shown, policy = SHOWN[input][0]
    answer = await ctx.step.suspend("ask", shown, timeout=3600, **policy)
    return answer["resumed_by"]


shows: Workflow[Any, Any] = Workflow(_shows, "approvers-shows")


@pytest.mark.parametrize("changed", ["shown", "policy"])
async def test_a_suspension_that_changes_before_the_answer_refuses_it(
    changed: str, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ({"amount": 5}, {"approvers": ["ann"]})
    second = ({"amount": 5000}, {"approvers": ["ann"]}) if changed == "shown" else (
        *({"amount": 5}, {"approvers": ["bob"]}),
    )  # fmt: skip
    SHOWN[namespace] = [first]
    async with running(redis_url, namespace, shows) as at:
        handle = await shows.invoke(at.client, namespace)
        await at.parked(handle)
        digest = (await at.client.get_suspension(handle.id, "ask"))["digest"]
        store = await at.client.store()
        give = store.suspensions.answer

        async def opens_anew(*args: Any, **options: Any) -> Any:
            reply = await give(*args, **options)
            if reply[0] == b"look" and SHOWN[namespace] == [first]:
                SHOWN[namespace] = [second]
                await at.make_due(handle, "ask", "s")
                await at.reached(handle, "failed")
                await at.client.retry(handle.id)
                await at.opened(handle, "ask")
            return reply

        monkeypatch.setattr(store.suspensions, "answer", opens_anew)
        refusal = ShownChangedError if changed == "shown" else NotApproverError
        with pytest.raises(refusal):
            await says(at, handle, "ann", shown_digest=digest)
        assert await decisions_of(at, handle) == [("expired", None)]
        await says(at, handle, "ann" if changed == "shown" else "bob")
        await at.result(handle)


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("changed", ["shown", "policy"])
async def test_an_answer_based_on_an_earlier_opening_is_refused(
    changed: str, shown: bool, redis_url: str, namespace: str
) -> None:
    first = ({"amount": 5}, {"approvers": ["ann"]})
    second = ({"amount": 5000}, {"approvers": ["bob"]}) if changed == "shown" else (
        *({"amount": 5}, {"approvers": ["bob"]}),
    )  # fmt: skip
    SHOWN[namespace] = [first]
    async with running(redis_url, namespace, shows) as at:
        handle = await shows.invoke(at.client, namespace)
        await at.parked(handle)
        stale, view = await read_suspension(at.client, handle.id, "ask")
        SHOWN[namespace] = [second]
        await at.make_due(handle, "ask", "s")
        await at.reached(handle, "failed")

        async def says_stale(by: str) -> Resumed:
            digest = view["digest"] if shown else None
            return await answers.decide_stored(at.client, stale, YES, by=by, digest=digest, channel="page")

        with pytest.raises(SuspensionExpiredError):
            await says_stale("ann")
        await at.client.retry(handle.id)
        await at.opened(handle, "ask")
        with pytest.raises(ShownChangedError if shown and changed == "shown" else NotApproverError):
            await says_stale("ann")
        assert await decisions_of(at, handle) == [("expired", None)]
        fresh, _ = await read_suspension(at.client, handle.id, "ask")
        done = await answers.decide_stored(at.client, fresh, YES, by="bob", channel="page")
        assert done.outcome == "accepted"
        assert await at.result(handle) == "bob"
        done = await answers.decide_stored(at.client, fresh, YES, by="bob", channel="page")
        assert done.outcome == "same"


# --- races and crashes ------------------------------------------------------------------


async def _first_of(ctx: WorkflowContext, input: Any) -> Any:
    branches = {
        "two": ctx.step.suspend("ask", required=2),
        "one": ctx.step.suspend("other", approvers=["zoe"]),
    }
    return (await ctx.step.first_of("race", branches)).name


first_of: Workflow[Any, Any] = Workflow(_first_of, "approvers-first-of")


async def test_a_race_lost_to_another_approver_is_refused(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, first_of) as at:
        handle, other = await first_of.invoke(at.client), await first_of.invoke(at.client)
        for each in (handle, other):
            await at.parked(each)
            await says(at, each, "ann")
        await at.client.resume(
            suspend_execution_id=handle.id, suspend_step_key="other", data=1, resumed_by="zoe"
        )
        assert await at.result(handle) == "one"
        with pytest.raises(ExecutionFinishedError):
            await says(at, handle, "bob")
        assert sorted(await decisions_of(at, handle), key=str) == [
            *(("answered", "zoe"), ("closed", None), ("recorded", "ann"))
        ]
        await says(at, other, "bob")
        assert await at.result(other) == "two"


async def test_one_of_two_approvals_survives_lost_workers(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asked(at, required=2)
        await says(at, handle, "ann")
    async with PolosClient(redis_url, namespace) as client:
        assert (await says(client, handle, "bob")).outcome == "accepted"
    async with running(redis_url, namespace, asks) as at:
        result = await at.result(at.client.get_handle(handle.id))
        assert [one["by"] for one in result["decisions"]] == ["ann", "bob"]


async def test_a_live_activation_continues_after_the_second_approval(redis_url: str, namespace: str) -> None:
    opened, go_on = asyncio.Event(), asyncio.Event()

    async def body(ctx: WorkflowContext) -> Any:
        async def wait() -> str:
            opened.set()
            await go_on.wait()
            return "held"

        answer, held = await asyncio.gather(ctx.step.suspend("ask", required=2), ctx.step.run("hold", wait))
        return [one["by"] for one in answer["decisions"]], held, await ctx.step.run("more", lambda: "more")

    flow: Workflow[Any, Any] = Workflow(body, "approvers-live")
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client)
        await opened.wait()
        await at.opened(handle, "ask")
        assert (await says(at, handle, "ann")).outcome == "recorded"
        assert (await says(at, handle, "bob")).outcome == "accepted"
        go_on.set()
        assert await at.result(handle) == (["ann", "bob"], "held", "more")


# --- invalid policies -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"required": 0}, "required must be a whole number from 1 to 100, not 0"),
        ({"required": 1.5}, "required must be a whole number"),
        ({"rejections": 101}, "rejections must be a whole number from 1 to 100"),
        ({"approvers": "ann"}, "approvers must be a non-empty list of names"),
        ({"approvers": ""}, "approvers must be a non-empty list of names"),
        ({"approvers": []}, "a non-empty list"),
        ({"approvers": [""]}, "approvers must be a non-empty list of names"),
        ({"approvers": ["group:"]}, "approvers must be a non-empty list of names"),
        ({"approvers": ["ann", 5]}, "approvers must be a non-empty list of names"),
        ({"approvers": ["ann", "ann"], "required": 2}, "it could stay undecided"),
        ({"approvers": ["ann"], "rejections": 2}, "it could stay undecided"),
        ({"approvers": ["ann", "bob"], "required": 2, "rejections": 2}, "it could stay undecided"),
        ({"allow_self": False}, "pass user_id= to invoke"),
        ({"on_timeout": NO}, "on_timeout= needs timeout="),
        ({"on_timeout": {"x": 1}, "timeout": 9, "required": 2}, "approved: must be true or false"),
        ({"on_timeout": {"x": 1}, "timeout": 9, "schema": "decision"}, "approved: Field required"),
        ({"required": 2, "schema": "any"}, "give the schema a field `approved: bool`"),
    ],
)
async def test_an_invalid_policy_fails_in_one_sentence(
    policy: dict[str, Any], said: str, at: Running
) -> None:
    handle = await asks.invoke(at.client, policy)
    with pytest.raises(ExecutionFailedError) as failed:
        await at.result(handle)
    assert failed.value.error_type == "ConfigurationError"
    message = failed.value.error_message
    assert message.startswith("suspension 'ask': ") and said in message and "\n" not in message
    assert list(await at.client.list_suspensions()) == []


async def test_the_starter_does_not_count_towards_the_required_approvers(at: Running) -> None:
    policy = {"approvers": ["ann", "bob"], "required": 2, "allow_self": False}
    handle = await asks.invoke(at.client, policy, user_id="ann")
    with pytest.raises(ExecutionFailedError, match="it could stay undecided"):
        await at.result(handle)
    handle = await asked(at, user_id="cid", **policy)
    await says(at, handle, "ann")
    await says(at, handle, "bob")
    await at.result(handle)


async def test_approvers_may_come_from_a_generator(redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext) -> Any:
        names: Any = (name for name in ("ann", "bob"))
        return await ctx.step.suspend("ask", approvers=names)

    flow: Workflow[Any, Any] = Workflow(body, "approvers-generator")
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client)
        await at.opened(handle, "ask")
        with pytest.raises(NotApproverError):
            await says(at, handle, "eve")
        await says(at, handle, "bob")
        await at.result(handle)


@pytest.mark.parametrize(
    "wrong",
    [{"groups": "finance"}, {"groups": [""]}, {"groups": [5]}, {"shown_digest": 5}, {"shown_digest": "ä"}],
)
async def test_invalid_arguments_of_a_caller_are_refused(wrong: dict[str, Any], at: Running) -> None:
    handle = await asked(at)
    with pytest.raises(
        PolosError, match=r"groups must be a list|a group's name|shown_digest must be the digest"
    ):
        await says(at, handle, "ann", **wrong)
    assert await handle.status() == "waiting"
