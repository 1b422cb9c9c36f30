"""Stuck executions, and questions that code no longer asks: over HTTP and on the pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from polos_redis import apikeys
from polos_redis.metrics.prometheus import WorkerMetrics
from tests.harness import stuck_flow
from tests.harness.running import Running
from tests.harness.serving import calling, key, problem, serving
from tests.harness.stuck_flow import MESSAGE, WHERE
from tests.harness.visiting import Visitor, visiting

pytestmark = pytest.mark.failure(45)

PATH = "/api/v1/executions"


@asynccontextmanager
async def visitor_of(at: Running, *scopes: str) -> AsyncIterator[Visitor]:
    _, secret = await apikeys.create(at.client, "bob", list(scopes))
    async with serving(at.client) as base, visiting(base) as visitor:
        await visitor.log_in(secret)
        yield visitor


async def test_it_is_read_and_retried(redis_url: str, namespace: str) -> None:
    async with (
        stuck_flow.deployed(redis_url, namespace) as (at, flow, handle),
        calling(at.client) as api,
    ):
        assert (await api.get(f"{PATH}/{handle.id}")).json()["stuck"] is None
        await stuck_flow.become_stuck(at, flow, handle)
        listed = (await api.get(PATH, params={"status": "stuck"})).json()
        assert [one["id"] for one in listed["executions"]] == [handle.id]
        why = (await api.get(f"{PATH}/{handle.id}")).json()["stuck"]
        assert why == (await at.client.get_execution(handle.id))["stuck"]
        (passed_over,) = why.pop("passed_over")
        assert why == {"kind": "unreached", "message": MESSAGE, "where": WHERE}
        assert passed_over.pop("at") is not None
        assert passed_over == {
            "step_key": "review",
            "data": {"approved": False},
            "by": "ann",
            "channel": "client",
        }
        flow.deploy(stuck_flow.asks)
        assert (await api.post(f"{PATH}/{handle.id}/retry")).json() == {"id": handle.id, "run": 2}
        await stuck_flow.answer(at, handle, "other", approved=True)
        assert await at.result(handle) == "reviewed"
        assert (await api.get(f"{PATH}/{handle.id}")).json()["stuck"] is None


@pytest.mark.parametrize("skip", ["review", ["review"]])
async def test_an_admin_skips_an_answer(skip: Any, redis_url: str, namespace: str) -> None:
    async with (
        stuck_flow.deployed(redis_url, namespace) as (at, flow, handle),
        calling(at.client) as api,
    ):
        await stuck_flow.become_stuck(at, flow, handle)
        path, body = f"{PATH}/{handle.id}/retry", {"skip": skip, "reason": "no review now"}
        invoker, admin = await key(at.client, "invoke"), await key(at.client, "admin", name="bob")
        refused = problem(await api.post(path, json=body, headers=invoker), 403, "forbidden")
        assert refused["detail"] == "the scope 'admin' is required to skip answers"
        for wrong in ({"skip": skip}, {"reason": "r"}, {"skip": skip, "reason": " "}):
            kind = "invalid-request" if wrong.get("reason") == " " else "invalid-input"
            problem(await api.post(path, json=wrong, headers=admin), 422, kind)
        nothing = {"skip": ["charge"], "reason": "r"}
        refused = problem(await api.post(path, json=nothing, headers=admin), 409, "not-skippable")
        assert refused["step_key"] == "charge"
        assert (await api.get(f"{PATH}/{handle.id}")).json()["status"] == "stuck"

        assert (await api.post(path, json=body, headers=admin)).json() == {"id": handle.id, "run": 2}
        (skipped,) = [one for one in await at.client.audit(handle.id) if one["status"] == "skipped"]
        assert (skipped["by"], skipped["reason"]) == ("bob", "no review now")
        await stuck_flow.answer(at, handle, "other", approved=True)
        await at.opened(handle, "approval")


async def test_a_retry_without_skip_needs_no_admin(redis_url: str, namespace: str) -> None:
    async with (
        stuck_flow.deployed(redis_url, namespace) as (at, flow, handle),
        calling(at.client) as api,
    ):
        await stuck_flow.become_stuck(at, flow, handle)
        invoker = await key(at.client, "invoke")
        done = await api.post(f"{PATH}/{handle.id}/retry", json={}, headers=invoker)
        assert done.json()["run"] == 2


async def test_its_page_says_why_and_retries_it(redis_url: str, namespace: str) -> None:
    async with (
        stuck_flow.deployed(redis_url, namespace) as (at, flow, handle),
        visitor_of(at, "read", "invoke", "approve") as visitor,
    ):
        await stuck_flow.become_stuck(at, flow, handle)
        page = await visitor.get(f"/executions/{handle.id}")
        assert "Stuck" in page.text and MESSAGE in page.text
        assert "review: rejected by ann" in page.text
        assert "Retry without these answers" not in page.text, "only an admin may skip them"
        assert 'class="pill stuck"' in page.response.text
        assert "Stuck" in (await visitor.get("/executions", status="stuck")).text
        flow.deploy(stuck_flow.asks)
        await visitor.send(page, page.form("/retry"))
        await stuck_flow.answer(at, handle, "other", approved=True)
        assert await at.result(handle) == "reviewed"


async def test_an_admin_skips_an_answer_on_its_page(redis_url: str, namespace: str) -> None:
    async with (
        stuck_flow.deployed(redis_url, namespace) as (at, flow, handle),
        visitor_of(at, "admin") as visitor,
    ):
        await stuck_flow.become_stuck(at, flow, handle)
        page = await visitor.get(f"/executions/{handle.id}")
        (form,) = [one for one in page.forms if "reason" in one.controls]
        nothing = await visitor.send(page, form, reason="no review now")
        assert nothing.status == 422 and "choose the answers to skip, and say why" in nothing.text
        wrong = await visitor.send(page, form, skip="charge", reason="no review now")
        assert wrong.status == 409 and "charge has no accepted answer that could be skipped" in wrong.text
        done = await visitor.send(page, form, skip="review", reason="no review now")
        assert done.url == f"{visitor.base}/executions/{handle.id}"
        assert "Skipped by bob" in done.text and ": no review now" in done.text
        await stuck_flow.answer(at, handle, "other", approved=True)
        await at.opened(handle, "approval")


async def test_only_an_admin_skips_an_answer_on_a_page(redis_url: str, namespace: str) -> None:
    async with (
        stuck_flow.deployed(redis_url, namespace) as (at, flow, handle),
        visitor_of(at, "read", "invoke", "approve") as visitor,
    ):
        await stuck_flow.become_stuck(at, flow, handle)
        page = await visitor.get(f"/executions/{handle.id}")
        fields = {**dict(page.form("/retry").fields), "skip": "review", "reason": "r"}
        forged = await visitor.http.post(f"/executions/{handle.id}/retry", data=fields)
        assert forged.status_code == 403
        assert await handle.status() == "stuck"


async def test_an_open_question_that_code_no_longer_asks(redis_url: str, namespace: str) -> None:
    async with (
        stuck_flow.deployed(redis_url, namespace) as (at, flow, handle),
        visitor_of(at, "read", "approve") as visitor,
    ):
        before = await visitor.get(f"/approve/{handle.id}/review")
        assert "no longer asks this" not in before.text
        await stuck_flow.pass_over_an_open_question(at, flow, handle)
        found = (await visitor.http.get("/api/v1/suspensions")).json()["suspensions"]
        assert {one["step_key"]: one["unreached"] for one in found} == {"review": True, "approval": False}
        assert (await at.client.get_suspension(handle.id, "review"))["unreached"] is True
        assert (await visitor.get("/")).text.count("not reached by its code now") == 1
        page = await visitor.get(f"/executions/{handle.id}")
        assert page.text.count("not reached by its code now") == 1
        asked = await visitor.get(f"/approve/{handle.id}/review")
        assert "The workflow's code has changed and no longer asks this." in asked.text
        other = await visitor.get(f"/approve/{handle.id}/approval")
        assert "no longer asks this" not in other.text


async def test_the_metrics_count_it(redis_url: str, namespace: str) -> None:
    async with (
        stuck_flow.deployed(redis_url, namespace) as (at, flow, handle),
        calling(at.client) as api,
    ):
        await stuck_flow.become_stuck(at, flow, handle)
        state = (await api.get("/metrics")).text
        assert 'polos_executions{status="stuck",workflow="deployed"} 1.0\n' in state
        counted = {family.name: family.samples for family in WorkerMetrics(at.worker).collect()}
        assert [one.value for one in counted["polos_executions_stuck"]] == [1]
