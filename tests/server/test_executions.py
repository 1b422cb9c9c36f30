"""Executions over HTTP: start, list, read, cancel, retry, delete."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from polos_redis import PolosClient, WorkflowContext, workflow
from polos_redis.definitions.queue import queue
from polos_redis.server.app import create_app
from tests.harness.running import soon, until, working
from tests.harness.serving import calling, key, problem

fails = {"left": 0}


@workflow(id="api-plain")
async def plain(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    if input.get("ask"):
        await ctx.step.suspend("ask", data={"secret": "of a person"})
    return {"user": ctx.user_id, "session": ctx.session_id, **input}


@workflow(id="api-fails")
async def failing(ctx: WorkflowContext) -> str:
    if fails["left"]:
        fails["left"] -= 1
        raise ValueError("not yet")
    return "at last"


@workflow(id="api-limited", queue=queue("api-narrow", concurrency_limit=1))
async def limited(ctx: WorkflowContext) -> None: ...


PATH = "/api/v1/executions"


async def test_an_execution_is_started_and_read(client: PolosClient) -> None:
    async with calling(client) as api, working(client, plain):
        body = {"workflow_id": "api-plain", "input": {"n": 1}, "session_id": "s", "user_id": "u"}
        answer = await api.post(PATH, json=body)
        assert answer.status_code == 201
        started = answer.json()
        assert started["workflow_id"] == "api-plain"
        assert answer.headers["location"] == f"{PATH}/{started['id']}"
        assert await client.get_handle(started["id"]).result(20) == {"user": "u", "session": "s", "n": 1}
        found = (await api.get(answer.headers["location"])).json()
        assert found == await client.get_execution(started["id"])
        assert (found["status"], found["result"]["n"]) == ("completed", 1)


async def test_the_api_works_below_another_apps_prefix(client: PolosClient) -> None:
    outer = FastAPI()
    outer.mount("/below", create_app(client, insecure_dev=True))
    here = httpx2.ASGITransport(app=outer)
    async with (
        httpx2.AsyncClient(transport=here, base_url="http://localhost/below") as api,
        working(client, plain),
    ):
        answer = await api.post(PATH, json={"workflow_id": "api-plain", "input": {"ask": True}})
        assert answer.status_code == 201
        execution = answer.headers["location"]
        assert execution == f"{PATH}/{answer.json()['id']}", "no prefix, as docs/guides/rest-api.md says"
        await until(partial(_opened, client, 1))
        decided = await api.post(f"{execution}/resume", json={"step_key": "ask", "data": 1})
        assert decided.json()["outcome"] == "accepted"
        stream = (await api.get(f"{execution}/events")).text
        assert '"workflow_finish"' in stream
        assert (await api.get(execution)).json()["status"] == "completed"
        assert 'href="/executions"' in (await api.get("/")).text, "the pages need the root of their host"


async def test_an_idempotency_key_starts_once(client: PolosClient) -> None:
    async with calling(client) as api:
        body = {"workflow_id": "api-later", "input": 1}
        answers = [
            await api.post(PATH, json=body, headers={"Idempotency-Key": "order-1"}),
            await api.post(PATH, json={**body, "idempotency_key": "order-1"}),
        ]
        assert len({answer.json()["id"] for answer in answers}) == 1
        other = await api.post(PATH, json={**body, "input": 2, "idempotency_key": "order-1"})
        refused = problem(other, 409, "idempotency-conflict")
        assert refused["execution_id"] == answers[0].json()["id"]
        both = await api.post(PATH, json={**body, "idempotency_key": "a"}, headers={"Idempotency-Key": "b"})
        problem(both, 409, "idempotency-conflict")
        found = await api.get(PATH, params={"workflow": "api-later"})
        assert len(found.json()["executions"]) == 1


async def test_the_user_is_the_caller_by_default(client: PolosClient) -> None:
    ann = await key(client, "invoke", "read", name="ann")
    async with calling(client) as api, working(client, plain):
        for named, user in (({}, "ann"), ({"user_id": "bob"}, "bob")):
            body = {"workflow_id": "api-plain", "input": {}, **named}
            started = (await api.post(PATH, json=body, headers=ann)).json()
            assert (await client.get_handle(started["id"]).result(20))["user"] == user


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"start_delay": -1}, "start_delay"),
        ({"start_at": "2026-01-01T00:00:00"}, "start_at"),
        ({"run_timeout_seconds": "long"}, "run_timeout_seconds"),
        ({"qeue": "x"}, "qeue"),
        ({"workflow_id": ""}, "workflow_id"),
        ({"queue": "a\0b"}, "queue"),
    ],
)
async def test_an_invalid_option_is_named(client: PolosClient, wrong: dict[str, Any], field: str) -> None:
    async with calling(client) as api:
        refused = problem(await api.post(PATH, json={"workflow_id": "w", **wrong}), 422, "invalid-request")
        assert [one["field"] for one in refused["errors"]] == [field]
        assert (await api.get(PATH)).json()["executions"] == []


async def test_conflicting_options_are_refused(client: PolosClient) -> None:
    async with calling(client) as api:
        both = {"workflow_id": "w", "start_delay": 1, "start_at": "2026-01-01T00:00:00Z"}
        problem(await api.post(PATH, json=both), 422, "invalid-input")
        unlimited = {"workflow_id": "w", "concurrency_key": "a"}
        problem(await api.post(PATH, json=unlimited), 409, "queue-conflict")


async def test_time_and_queue_options_are_applied(client: PolosClient) -> None:
    async with calling(client) as api, working(client, limited):
        body = {
            "workflow_id": "api-limited",
            "start_delay": 3600,
            "concurrency_key": "k",
            "run_timeout_seconds": 60.5,
        }
        started = (await api.post(PATH, json=body)).json()
        found = (await api.get(f"{PATH}/{started['id']}")).json()
        assert (found["status"], found["queue"]) == ("queued", "api-narrow")
        await client.cancel(started["id"])


async def test_a_value_over_the_limit_is_too_large(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace, max_value_bytes=1000) as client, calling(client) as api:
        answer = await api.post(PATH, json={"workflow_id": "w", "input": "x" * 2000})
        problem(answer, 413, "value-too-large")


@pytest.mark.also_on_cluster
async def test_listing_is_filtered_and_paged(client: PolosClient) -> None:
    async with calling(client) as api:
        for _ in range(5):
            await client.invoke("api-a")
        last = await client.invoke("api-b")
        await client.cancel(last.id)
        pages, cursor = [], None
        while True:
            position: dict[str, str] = {"cursor": cursor} if cursor else {}
            page = (await api.get(PATH, params={"workflow": "api-a", "limit": 2, **position})).json()
            pages.append([one["id"] for one in page["executions"]])
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert [len(page) for page in pages] == [2, 2, 1]
        assert len({one for page in pages for one in page}) == 5
        (cancelled,) = (await api.get(PATH, params={"status": "cancelled"})).json()["executions"]
        assert (cancelled["id"], cancelled["workflow_id"]) == (last.id, "api-b")
        for wrong in ("status=done", "limit=0", "limit=1001", "cursor=x"):
            problem(await api.get(f"{PATH}?{wrong}"), 422, "invalid-request")


async def test_a_cancel_says_by_whom_and_happens_once(client: PolosClient) -> None:
    ops = await key(client, "invoke", name="ann")
    async with calling(client) as api:
        handle = await client.invoke("api-later")
        answer = await api.post(f"{PATH}/{handle.id}/cancel", headers=ops)
        assert answer.json() == {"id": handle.id, "status": "cancelled", "cancelled_by": "ann"}
        assert (await client.get_execution(handle.id))["cancelled_by"] == "ann"
        refused = problem(await api.post(f"{PATH}/{handle.id}/cancel"), 409, "execution-finished")
        assert refused["execution_status"] == "cancelled"
        problem(await api.post(f"{PATH}/nothing/cancel"), 404, "execution-not-found")


async def test_a_failed_execution_is_retried(client: PolosClient) -> None:
    fails["left"] = 1
    async with calling(client) as api, working(client, failing):
        handle = await client.invoke(failing)
        await until(lambda: _has(handle.status(), "failed"))
        retried = await api.post(f"{PATH}/{handle.id}/retry")
        assert retried.json() == {"id": handle.id, "run": 2}
        assert await soon(handle.result()) == "at last"
        refused = problem(await api.post(f"{PATH}/{handle.id}/retry"), 409, "not-failed")
        assert refused["execution_status"] == "completed"
        problem(await api.post(f"{PATH}/nothing/retry"), 404, "execution-not-found")


async def test_deleting_leaves_an_audit_stub(client: PolosClient) -> None:
    async with calling(client) as api, working(client, plain):
        handle = await client.invoke(plain, {"ask": True})
        path = f"{PATH}/{handle.id}"
        await until(lambda: _opened(client, 1))
        refused = problem(await api.delete(path), 409, "not-finished")
        assert refused["execution_status"] in ("running", "waiting")
        await api.post(f"{path}/resume", json={"step_key": "ask", "data": "private", "resumed_by": "ann"})
        await handle.result(20)
        assert (await api.delete(path)).json() == {"deleted": 1}
        problem(await api.get(path), 404, "execution-not-found")
        (stub,) = (await api.get(f"{path}/audit")).json()["audit"]
        assert (stub["by"], stub["status"], stub["data"]) == ("ann", "answered", None)
        problem(await api.delete(f"{PATH}/{handle.id}.abcdefabcdef"), 422, "invalid-input")


async def test_open_suspensions_are_listed_oldest_first(client: PolosClient) -> None:
    async with calling(client) as api, working(client, plain):
        handles = []
        for n in range(3):
            handles.append(await client.invoke(plain, {"ask": True}))
            await until(partial(_opened, client, n + 1))
        first = (await api.get("/api/v1/suspensions", params={"limit": 2})).json()
        params = {"cursor": first["next_cursor"], "workflow": "api-plain"}
        second = (await api.get("/api/v1/suspensions", params=params)).json()
        found = first["suspensions"] + second["suspensions"]
        assert [one["execution_id"] for one in found] == [handle.id for handle in handles]
        assert found[0]["data"] == {"secret": "of a person"}
        none = (await api.get("/api/v1/suspensions", params={"workflow": "else"})).json()
        assert none == {"suspensions": [], "next_cursor": None}
        for handle in handles:
            await client.cancel(handle.id)


async def _opened(client: PolosClient, count: int) -> bool:
    return len(await client.list_suspensions()) == count


async def _has(status: Any, expected: str) -> bool:
    return bool(await status == expected)
