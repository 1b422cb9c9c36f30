"""Resuming: exactly one answer decides, and everyone else gets the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    AlreadyResumedError,
    EventData,
    ExecutionFinishedError,
    ExecutionHandle,
    ExecutionNotFoundError,
    InvalidInputError,
    NotStorableError,
    PolosClient,
    PolosError,
    ResumeError,
    SuspensionExpiredError,
    SuspensionNotFoundError,
    Workflow,
    WorkflowContext,
    events,
)
from tests.harness.running import Running, running, soon

pytestmark = pytest.mark.also_on_cluster

Resume = Callable[[Running, str, str, Any], Awaitable[str]]


async def _by_client(at: Running, execution_id: str, key: str, data: Any) -> str:
    resumed = await at.client.resume(suspend_execution_id=execution_id, suspend_step_key=key, data=data)
    assert (resumed.execution_id, resumed.step_key) == (execution_id, key)
    return resumed.outcome


async def _by_event(at: Running, execution_id: str, key: str, data: Any) -> str:
    event = EventData(event_type="resume", data=data)
    return (await events.publish(at.client, f"{key}/{execution_id}", event)).removeprefix("resume-")


WAYS = pytest.mark.parametrize("resume", [_by_client, _by_event], ids=["client", "event"])


async def _body(ctx: WorkflowContext, input: Any = None) -> Any:
    try:
        answer = await ctx.step.suspend("ask", timeout=input)
    except PolosError:
        await ctx.step.suspend("later")
        raise
    return answer["data"], answer["resumed_by"], answer["channel"]


approval: Workflow[Any, Any] = Workflow(_body, "approval")


async def _parked(at: Running, input: Any = None) -> ExecutionHandle[Any]:
    handle = await approval.invoke(at.client, input)
    await at.parked(handle)
    return handle


@WAYS
@pytest.mark.failure(23)
async def test_an_unknown_execution_is_an_error(resume: Resume, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        with pytest.raises(ExecutionNotFoundError, match="0000"):
            await resume(at, "0" * 32, "ask", 1)


@WAYS
@pytest.mark.failure(23)
async def test_repeating_an_answer_has_no_effect(resume: Resume, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        answer = {"approved": True, "by": {"name": "Ada", "roles": {1, 2}}}
        same = {"by": {"roles": {2, 1}, "name": "Ada"}, "approved": True}
        assert await resume(at, handle.id, "ask", answer) == "accepted"
        assert await resume(at, handle.id, "ask", same) == "same"
        await at.result(handle)
        assert await resume(at, handle.id, "ask", same) == "same"
        types = [event.event_type for event in await at.events(handle)]
        assert types.count("resume_ask") == 1


@WAYS
@pytest.mark.failure(23)
async def test_a_different_answer_is_refused_with_who_and_when(
    resume: Resume, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        first = await at.client.resume(
            suspend_execution_id=handle.id, suspend_step_key="ask", data="yes", resumed_by="alice"
        )
        for _ in range(2):  # while it runs, and after its end
            with pytest.raises(AlreadyResumedError, match="already answered by alice at 20") as caught:
                await resume(at, handle.id, "ask", "no")
            assert caught.value.resumed_by == "alice"
            assert caught.value.resumed_at == first.resumed_at
            assert (await at.result(handle))[0] == "yes"


@WAYS
@pytest.mark.failure(23)
async def test_an_expired_suspension_takes_no_answer(resume: Resume, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await approval.invoke(at.client, 0.02)
        await at.opened(handle, "later")
        with pytest.raises(SuspensionExpiredError, match="timed out at") as caught:
            await resume(at, handle.id, "ask", "yes")
        opened = (await at.client.get_execution(handle.id))["suspensions"][0]
        assert caught.value.expired_at.isoformat(timespec="milliseconds") == opened["expires_at"]
        await at.client.cancel(handle.id)
        with pytest.raises(SuspensionExpiredError):  # also after the end
            await resume(at, handle.id, "ask", "yes")


@WAYS
@pytest.mark.failure(23)
async def test_a_cancel_closes_a_suspension(resume: Resume, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        await at.client.cancel(handle.id)
        with pytest.raises(ExecutionFinishedError, match=r"'ask'.*cancelled") as caught:
            await resume(at, handle.id, "ask", "yes")
        assert caught.value.status == "cancelled"


@WAYS
@pytest.mark.failure(23)
async def test_the_end_closes_a_suspension(resume: Resume, redis_url: str, namespace: str) -> None:
    async def ends(ctx: WorkflowContext) -> str:
        asked = asyncio.ensure_future(ctx.step.suspend("ask"))
        await ctx.step.run("step", asyncio.sleep, 0)
        asked.cancel()
        return "done"

    workflow: Workflow[Any, Any] = Workflow(ends, "ends")
    async with running(redis_url, namespace, workflow) as at:
        handle = await workflow.invoke(at.client)
        assert await at.result(handle) == "done"
        with pytest.raises(ExecutionFinishedError, match=r"'ask'.*completed"):
            await resume(at, handle.id, "ask", "yes")


@WAYS
@pytest.mark.failure(23)
async def test_an_unknown_suspension_lists_the_open_ones(
    resume: Resume, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        with pytest.raises(SuspensionNotFoundError, match=r"no suspension 'other'; open: 'ask'") as caught:
            await resume(at, handle.id, "other", "yes")
        assert caught.value.open_steps == ["ask"]
        await at.answer(handle, "ask")
        await at.result(handle)
        with pytest.raises(SuspensionNotFoundError, match="none is open"):
            await resume(at, handle.id, "other", "yes")


@WAYS
@pytest.mark.failure(28)
async def test_an_unstorable_answer_changes_nothing(resume: Resume, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        with pytest.raises(NotStorableError, match=r"\$\.file"):
            await resume(at, handle.id, "ask", {"file": object()})
        assert await handle.status() == "waiting"


@WAYS
@pytest.mark.failure(28)
@pytest.mark.parametrize("answer", [None, False, {}, ""], ids=repr)
async def test_an_empty_answer_is_an_answer(
    answer: Any, resume: Resume, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        assert await resume(at, handle.id, "ask", answer) == "accepted"
        assert (await at.result(handle))[0] == answer
        with pytest.raises(AlreadyResumedError):
            await resume(at, handle.id, "ask", "something")


@pytest.mark.failure(23)
@pytest.mark.promise("answer")
async def test_of_many_concurrent_answers_one_decides(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        tries = [_by_client(at, handle.id, "ask", f"answer {n % 5}") for n in range(50)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        decided = [one for one in outcomes if isinstance(one, str)]
        assert decided.count("accepted") == 1
        assert decided.count("same") == 9
        assert sum(isinstance(one, AlreadyResumedError) for one in outcomes) == 40
        accepted = outcomes.index("accepted") % 5
        assert (await at.result(handle))[0] == f"answer {accepted}"


@pytest.mark.failure(23)
@pytest.mark.promise("answer")
async def test_an_answer_races_a_deadline_and_a_cancel(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handles = await asyncio.gather(*(_parked(at, 3600) for _ in range(20)))
        store = await at.client.store()
        race = [
            asyncio.gather(
                _by_client(at, handle.id, "ask", "yes"),
                store.wire.call(
                    "ZADD", store.partitions.prefix(handle.id) + b"timers", "XX", 1, f"s{handle.id} ask"
                ),
                at.client.cancel(handle.id),
                return_exceptions=True,
            )
            for handle in handles
        ]
        for handle, (answered, _, cancelled) in zip(handles, await asyncio.gather(*race), strict=True):
            (ask, *_) = (await at.client.get_execution(handle.id))["suspensions"]
            assert (answered == "accepted") == (ask["status"] == "answered"), (answered, ask)
            assert answered == "accepted" or isinstance(answered, ResumeError)
            if cancelled is None:
                assert await handle.status() == "cancelled"


@pytest.mark.parametrize("resumed_by", [None, "alice@example.com"])
async def test_an_answer_records_who_when_and_how(
    resumed_by: str | None, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        resumed = await at.client.resume(
            suspend_execution_id=handle.id,
            suspend_step_key="ask",
            data="yes",
            resumed_by=resumed_by,
            channel="email",
        )
        assert resumed.resumed_by == resumed_by
        assert await at.result(handle) == ("yes", resumed_by, "email")
        (ask,) = (await at.client.get_execution(handle.id))["suspensions"]
        assert (ask["status"], ask["answer"]) == ("answered", "yes")
        assert (ask["resumed_by"], ask["channel"]) == (resumed_by, "email")
        assert ask["decided_at"] == resumed.resumed_at.isoformat(timespec="milliseconds")
        event = next(e for e in await at.events(handle) if e.event_type == "resume_ask")
        assert event.data["data"] == "yes"
        assert (event.data["resumed_by"], event.data["channel"]) == (resumed_by, "email")
        assert abs(event.created_at - resumed.resumed_at) < timedelta(seconds=1)


async def test_an_event_names_its_channel(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        await _by_event(at, handle.id, "ask", "yes")
        assert await at.result(handle) == ("yes", None, "topic")


# --- early answers ----------------------------------------------------------------------


async def _gated(ctx: WorkflowContext) -> Any:
    await ctx.step.suspend("gate")
    answer = await ctx.step.suspend("ask")
    return answer["data"], answer["resumed_by"], answer["channel"]


gated: Workflow[Any, Any] = Workflow(_gated, "gated")


@pytest.mark.failure(23)
async def test_an_early_answer_is_stored_and_used(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, gated) as at:
        handle = await gated.invoke(at.client)
        await at.parked(handle)

        async def answer(data: Any) -> Any:
            return await at.client.resume(
                suspend_execution_id=handle.id,
                suspend_step_key="ask",
                data=data,
                resumed_by="alice",
                early=True,
            )

        with pytest.raises(SuspensionNotFoundError):
            await at.answer(handle, "ask", "yes")
        first = await answer("yes")
        assert first.outcome == "early"
        repeated = await answer("yes")
        assert (repeated.outcome, repeated.resumed_at) == ("early", first.resumed_at)
        with pytest.raises(AlreadyResumedError, match="by alice"):
            await answer("no")
        assert await handle.status() == "waiting"
        await at.answer(handle, "gate")
        assert await soon(at.result(handle)) == ("yes", "alice", "client")
        assert (await answer("yes")).outcome == "same"
        with pytest.raises(AlreadyResumedError):
            await answer("no")
        types = [event.event_type for event in await at.events(handle)]
        assert types[-3:] == ["suspend_ask", "resume_ask", "workflow_finish"]


async def _above(ctx: WorkflowContext) -> Any:
    return await ctx.step.invoke_and_wait("child", gated)


above: Workflow[Any, Any] = Workflow(_above, "above")


async def test_an_early_answer_is_for_the_very_execution(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, above, gated) as at:
        handle = await above.invoke(at.client)

        async def early(execution_id: str, data: str) -> str:
            resumed = await at.client.resume(
                suspend_execution_id=execution_id, suspend_step_key="ask", data=data, early=True
            )
            return resumed.execution_id

        assert await early(handle.id, "for the root") == handle.id
        await at.parked(handle)
        (child,) = (await at.client.get_execution(handle.id))["children"]
        await at.parked(at.client.get_handle(child["id"]))
        assert await early(child["id"], "for the child") == child["id"]
        (kept,) = (await at.client.get_execution(handle.id))["early_answers"]
        assert kept["step_key"] == "ask"
        await at.answer(at.client.get_handle(child["id"]), "gate")
        assert (await soon(at.result(handle)))[0] == "for the child"


async def test_an_early_answer_to_an_open_suspension_is_an_answer(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        resumed = await at.client.resume(
            suspend_execution_id=handle.id, suspend_step_key="ask", data=1, early=True
        )
        assert resumed.outcome == "accepted"
        assert (await at.result(handle))[0] == 1


async def test_an_early_answer_after_the_end_is_refused(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
        await at.client.cancel(handle.id)
        with pytest.raises(ExecutionFinishedError, match="cancelled"):
            await at.client.resume(
                suspend_execution_id=handle.id, suspend_step_key="never", data=1, early=True
            )
        with pytest.raises(ExecutionNotFoundError):
            await at.client.resume(
                suspend_execution_id="0" * 32, suspend_step_key="never", data=1, early=True
            )


@pytest.mark.failure(24)
@pytest.mark.promise("suspend")
async def test_a_suspension_can_be_answered_as_soon_as_its_event_is_seen(
    redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, approval) as at:
        for _ in range(30):
            handle = await approval.invoke(at.client)
            stream = events.stream_workflow(at.client, handle.root_workflow_id, handle.id)
            async for event in stream:
                if event.event_type == "suspend_ask":
                    await at.answer(handle, "ask", "at once")
            assert (await at.result(handle))[0] == "at once"


@pytest.mark.failure(24)
async def test_a_suspension_can_be_answered_as_soon_as_its_topic_has_the_event(
    redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await approval.invoke(at.client)
        topic = f"ask/{handle.id}"
        seen = []
        async for event in events.stream_topic(at.client, topic):
            seen.append((event.event_type, event.topic))
            if event.event_type == "resume":
                break
            await _by_event(at, handle.id, "ask", "at once")
        assert seen == [("suspend", topic), ("resume", topic)]
        assert (await at.result(handle))[0] == "at once"


class Decision(BaseModel):
    approved: bool


async def test_an_answer_of_a_type_only_its_sender_knows_is_not_lost(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(redis_url, namespace, approval) as at:
        handle = await _parked(at)
    async with PolosClient(redis_url, namespace) as client:
        answer = Decision(approved=True)
        await client.resume(suspend_execution_id=handle.id, suspend_step_key="ask", data=answer)
    monkeypatch.delattr(f"{__name__}.Decision")  # the worker that resumes has not imported it
    async with running(redis_url, namespace, approval) as at:
        assert (await at.result(at.client.get_handle(handle.id)))[0] == {"approved": True}


async def test_a_step_key_or_name_must_be_text(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(InvalidInputError, match="suspend_step_key must be a string"):
            await client.resume(suspend_execution_id="0" * 32, suspend_step_key=None, data=1)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="resumed_by must be a name"):
            await client.resume(
                suspend_execution_id="0" * 32,
                suspend_step_key="ask",
                data=1,
                resumed_by=5,  # type: ignore[arg-type]
            )
