"""What executions are doing, in the same words for handles, queries, listings and people."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import ConfigurationError, NotFailedError, NotFinishedError, WorkflowContext, queue, workflow
from polos_redis.client import PolosClient
from polos_redis.executions.statuses import Moment, details, sentence, status_view
from polos_redis.state.statuses import KINDS, STATUSES, Condition, PendingWait, RunningAttempt
from polos_redis.state.stored_errors import ErrorRecord
from polos_redis.state.stuck import StuckReason
from tests.harness.running import Running, running, until

GATES: dict[str, asyncio.Event] = {}
narrow = queue("statuses-narrow", concurrency_limit=1)


async def _held(name: str) -> None:
    await GATES.setdefault(name, asyncio.Event()).wait()


@workflow(id="statuses-holds", queue=narrow)
async def holds(ctx: WorkflowContext, name: str) -> None:
    await ctx.step.run("hold", _held, name)


@workflow(id="statuses-child")
async def child(ctx: WorkflowContext) -> None:
    await ctx.step.suspend("inner")


@workflow(id="statuses-waits")
async def waits(ctx: WorkflowContext) -> None:
    await asyncio.gather(
        ctx.step.suspend("review", timeout=7200),
        ctx.step.suspend("approval", timeout=3600),
        ctx.step.wait_for("pause", hours=3),
        ctx.step.wait_for_event("news", topic="weather"),
        ctx.step.invoke_and_wait("kid", child),
        ctx.step.run("flaky", _fails, max_retries=1, base_delay=3600),
    )


@workflow(id="statuses-fails")
async def fails(ctx: WorkflowContext) -> None:
    raise LookupError("no ink\n  in any of 3 pens")


def _fails() -> None:
    raise OSError("no paper")


def text(parts: list[Any]) -> str:
    return "".join(f"{one.word} T" if isinstance(one, Moment) else one for one in parts)


async def told(at: Running, execution_id: str) -> str:
    """The sentence about an execution, the same of its view and of its row in a listing."""
    view = await at.client.get_execution(execution_id)
    (row,) = [one for one in await at.client.list_executions() if one["id"] == execution_id]
    assert text(sentence(view)) == text(sentence(row))
    return text(sentence(view))


async def tells(at: Running, execution_id: str, words: str) -> bool:
    return words in text(sentence(await at.client.get_execution(execution_id)))


async def test_running_and_queued_executions(redis_url: str, namespace: str) -> None:
    GATES.clear()
    async with running(redis_url, namespace, holds) as at:
        first = await holds.invoke(at.client, "first")
        await at.reached(first, "running")

        async def noted() -> bool:
            return bool((await at.client.get_execution(first.id))["running_steps"])

        await until(noted)
        second, third = [await holds.invoke(at.client, "others") for _ in range(2)]
        later = await holds.invoke(at.client, "others", start_at=datetime(2100, 1, 1, tzinfo=UTC))
        assert await told(at, first.id) == f"running hold, since T, on worker {at.worker.worker_id}"
        assert await told(at, second.id) == "queued for a slot since T"
        assert await told(at, third.id) == "queued for a slot behind 1 other, since T"
        assert await told(at, later.id) == "queued until T"
        assert (await at.client.get_execution(later.id))["starts_at"] == "2100-01-01T00:00:00.000+00:00"
        for word, expected in (("running", {first.id}), ("queued", {second.id, third.id, later.id})):
            assert {one["id"] for one in await at.client.list_executions(status=word)} == expected
        with pytest.raises(NotFailedError, match="it is running, not failed, stuck or paused"):
            await at.client.retry(first.id)
        with pytest.raises(NotFinishedError, match="can't be deleted while it is running"):
            await at.client.delete(first.id)
        for one in (first, second, third, later):
            await at.client.cancel(one.id, cancelled_by="ann")
        assert await told(at, first.id) == "cancelled by ann"


async def test_what_an_execution_waits_for(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits, child) as at:
        handle = await waits.invoke(at.client)
        await at.parked(handle)
        assert await told(at, handle.id) == (
            "waiting for 2 people until T and a time (pause) until T and an event (news) since T "
            "and a child (kid) since T and a retry (flaky) until T"
        )
        view = await at.client.get_execution(handle.id)
        found = {one["step_key"]: one for one in view["waits_for"]}
        deadlines = {one["step_key"]: one["expires_at"] for one in view["open_suspensions"]}
        assert {key: found[key]["until"] for key in deadlines} == deadlines
        moment = next(one for one in sentence(view) if isinstance(one, Moment))
        assert moment == Moment("until", deadlines["approval"])  # the sooner one
        assert found["pause"]["until"] == view["waits"][0]["until"] and found["news"]["topic"] == "weather"
        assert [one["status"] for one in view["children"]] == ["waiting"]
        await at.answer(handle, "review")
        await until(lambda: tells(at, handle.id, "waiting for a person (approval) until T and a time"))
        await at.client.cancel(handle.id)


async def test_why_an_execution_has_failed(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, fails) as at:
        handle = await fails.invoke(at.client)
        await at.reached(handle, "failed")
        assert await told(at, handle.id) == "failed: LookupError: no ink in any of 3 pens"
        (row,) = await at.client.list_executions(status="failed")
        assert row.reason == "LookupError: no ink in any of 3 pens"


async def test_an_unknown_status_is_refused(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        words = "queued, running, waiting, stuck, paused, completed, failed, cancelled"
        with pytest.raises(ConfigurationError, match=f"status must be one of {words}, not 'done'"):
            await client.list_executions(status="done")


# --- words ------------------------------------------------------------------------------

times = st.none() | st.integers(1, 10**12)
statuses = st.builds(
    Condition,
    word=st.sampled_from(STATUSES),
    workflow_id=st.text(max_size=5),
    worker=st.text(min_size=1, max_size=5),
    queued_ms=times,
    starts_ms=times,
    ahead=st.none() | st.integers(0, 3),
    reason=st.none() | st.builds(StuckReason, st.text(), st.just(()), st.text(), st.text(min_size=1)),
    cancelled_by=st.none() | st.text(min_size=1),
    running=st.lists(
        st.builds(RunningAttempt, st.text(), st.integers(1, 3), st.integers(1, 10**12), timed_out_ms=times)
    ).map(tuple),
    open_waits=st.integers(0, 20),
    waits=st.lists(
        st.builds(
            PendingWait,
            st.sampled_from(KINDS),
            st.text(),
            times,
            times,
            st.none(),
            st.none() | st.integers(0, 3),
        )
    ).map(tuple),
    error=st.none() | st.builds(ErrorRecord, st.text(min_size=1), st.text()),
)


@given(statuses)
def test_every_status_can_be_told(status: Condition) -> None:
    view: Mapping[str, Any] = status_view(status)
    parts = sentence(view)
    assert text(parts).startswith(status.word)
    assert all(part for part in parts)
    if status.word == "waiting":
        for one in (one for one in status.waits if one.until_ms or one.since_ms):
            assert any(isinstance(part, Moment) for part in details(view)), one


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Condition("queued", "w"), "queued"),
        (Condition("queued", "w", queued_ms=1), "queued since T"),
        (Condition("queued", "w", queued_ms=1, ahead=1200), "queued for a slot behind 1,200 others, since T"),
        (Condition("running", "w", worker="w1"), "running on worker w1"),
        (
            Condition(
                "running", "w", worker="w1", running=(RunningAttempt("a", 2, 1), RunningAttempt("b", 1, 1))
            ),
            "running a, attempt 2, since T, and 1 more, on worker w1",
        ),
        (
            Condition("running", "w", worker="w1", running=(RunningAttempt("a", 1, 1, timed_out_ms=2),)),
            "running a, attempt 1 timed out, waiting for its thread to end since T, on worker w1",
        ),
        (Condition("waiting", "w"), "waiting"),
        (
            Condition(
                "waiting", "w", waits=(PendingWait("child", "all", 1, None, None, 1200),), open_waits=3
            ),
            "waiting for 1,200 children (all) since T and 2 more",
        ),
        (Condition("stuck", "w", reason=StuckReason("", (), "", "it passes")), "stuck: it passes"),
        (Condition("paused", "w", reason=StuckReason("", (), "", "OSError: no")), "paused: OSError: no"),
        (Condition("failed", "w"), "failed"),
        (Condition("failed", "w", error=ErrorRecord("KeyError", "")), "failed: KeyError"),
        (
            Condition("failed", "w", error=ErrorRecord("ValidationError", "2 errors\n  amount\n    missing")),
            "failed: ValidationError: 2 errors amount missing",
        ),
        (
            Condition("failed", "w", error=ErrorRecord("OSError", "x" * 300, "Traceback ...")),
            f"failed: OSError: {'x' * 191} ...",
        ),
        (Condition("completed", "w"), "completed"),
        (Condition("cancelled", "w"), "cancelled"),
    ],
)
def test_the_words(status: Condition, words: str) -> None:
    assert text(sentence(status_view(status))) == words
