"""API keys that are restricted to workflows: what their trees contain is all that exists for them."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

import polos_redis.server
from polos_redis import EventData, ExecutionHandle, PolosClient, Workflow, WorkflowContext, apikeys, events
from polos_redis.errors import ConfigurationError
from tests.harness.running import Running, running
from tests.harness.serving import key, problem, serving
from tests.harness.visiting import visiting

API = "/api/v1"
SCOPES = ("read", "invoke", "approve", "admin")


async def _charge(ctx: WorkflowContext, input: Any) -> Any:
    if input == "fail":
        raise ValueError("no")
    return (await ctx.step.suspend("ok", {"what": "charge"}))["data"]


charge: Workflow[Any, Any] = Workflow(_charge, "keys-charge")


async def _helper(ctx: WorkflowContext, input: Any) -> Any:
    return (await ctx.step.suspend("below", {"what": "helper"}))["data"]


helper: Workflow[Any, Any] = Workflow(_helper, "keys-helper")


async def _order(ctx: WorkflowContext, input: Any) -> Any:
    child = charge if input == "charge" else helper
    return await ctx.step.invoke_and_wait("child", child, None)


order: Workflow[Any, Any] = Workflow(_order, "keys-order")


@dataclass
class Shop:
    """Two trees: an order of a charge, and an order of a helper; and a charge of its own. `api` has a key for
    orders only, `other` one for charges only, both with every scope."""

    at: Running
    url: str
    api: httpx2.AsyncClient
    other: httpx2.AsyncClient
    ordered: ExecutionHandle[Any]
    child: str
    charged: ExecutionHandle[Any]


@pytest.fixture
async def shop(redis_url: str, namespace: str) -> AsyncIterator[Shop]:
    async with running(redis_url, namespace, order, charge, helper) as at, serving(at.client) as url:
        clients = []
        for name, workflow in (("ann", order), ("bob", charge)):
            _, secret = await apikeys.create(at.client, name, SCOPES, workflows=[workflow.id, "unknown"])
            headers = {"Authorization": f"Bearer {secret}"}
            clients.append(httpx2.AsyncClient(base_url=url, headers=headers, timeout=60))
        ordered = await order.invoke(at.client, "charge")
        charged = await charge.invoke(at.client)
        await at.parked(ordered)
        await at.parked(charged)
        (child,) = (await at.client.get_execution(ordered.id))["children"]
        await at.parked(at.client.get_handle(child["id"]))
        async with clients[0] as api, clients[1] as other:
            yield Shop(at, url, api, other, ordered, child["id"], charged)


PUBLIC = ("/healthz", "/readyz", "/openapi.json", "/login", "/logout", "/static", "/favicon.ico")


def routes() -> list[tuple[str, str]]:
    """Every route of the server that needs a scope or shows a page: method and path."""
    found = []
    for module in pkgutil.walk_packages(polos_redis.server.__path__, "polos_redis.server."):
        router = getattr(importlib.import_module(module.name), "router", None)
        for route in router.routes if isinstance(router, APIRouter) else ():
            if isinstance(route, APIRoute) and not route.path.startswith(PUBLIC):
                found += [(method, route.path) for method in route.methods or () if method != "HEAD"]
    return found


def calls_about(execution_id: str, step_key: str) -> list[tuple[str, str]]:
    """All calls about one execution, reading ones first."""
    calls = []
    for method, path in routes():
        if "{" in path:
            path = path.replace("{execution_id}", execution_id).replace("{step_key:anything}", step_key)
            path = path.replace("{topic:anything}", f"{step_key}/{execution_id}")
            if "{" not in path:
                calls.append((method, path))
    return sorted(calls, key=lambda call: ("GET", "POST", "DELETE").index(call[0]))


async def send(api: httpx2.AsyncClient, method: str, path: str) -> httpx2.Response:
    body = {"step_key": "ok", "data": {"approved": True}, "early": True} if method == "POST" else None
    data = json.dumps(body) if body and path.startswith("/api") else None
    return await api.request(
        method, path, content=data, headers={"Content-Type": "application/json"} if data else {}
    )


@pytest.mark.threat(6)
async def test_what_a_key_does_not_cover_does_not_exist_for_it(shop: Shop) -> None:
    before = [await shop.at.client.get_execution(one) for one in (shop.ordered.id, shop.child)]
    calls = [*calls_about(shop.ordered.id, "ok"), *calls_about(shop.child, "ok")]
    assert len(calls) > 15
    for method, path in calls:
        refused = await send(shop.other, method, path)
        assert refused.status_code == 404 or not path.startswith("/api"), refused.text
        unknown = path.replace(shop.child, "0" * 32).replace(shop.ordered.id, "0" * 32)
        missing = await send(shop.other, method, unknown)
        assert missing.status_code == refused.status_code
        hidden = refused.text.replace(shop.child, "0" * 32).replace(shop.ordered.id, "0" * 32)
        form_token = re.compile(r'name="form_token" value="[^"]*"')
        assert form_token.sub("", hidden) == form_token.sub("", missing.text)
    assert [await shop.at.client.get_execution(one) for one in (shop.ordered.id, shop.child)] == before


async def test_a_key_covers_a_whole_tree(shop: Shop) -> None:
    for execution_id in (shop.ordered.id, shop.child):
        found = await shop.api.get(f"{API}/executions/{execution_id}")
        assert found.status_code == 200
    for path in (f"executions/{shop.child}/suspensions/ok", f"executions/{shop.ordered.id}/suspensions/ok"):
        assert (await shop.api.get(f"{API}/{path}")).json()["execution_id"] == shop.child
    answered = await shop.api.post(
        f"{API}/executions/{shop.ordered.id}/resume", json={"step_key": "ok", "data": {"approved": True}}
    )
    assert answered.json()["outcome"] == "accepted"
    assert await shop.at.result(shop.ordered) == {"approved": True}
    for path in (f"executions/{shop.ordered.id}/audit", f"executions/{shop.child}/audit"):
        assert len((await shop.api.get(f"{API}/{path}")).json()["audit"]) == 1
    stream = (await shop.api.get(f"{API}/executions/{shop.ordered.id}/events")).text
    assert "workflow_finish" in stream and "suspend_ok" in stream
    assert (await shop.api.delete(f"{API}/executions/{shop.ordered.id}")).json() == {"deleted": 2}
    assert (await shop.api.get(f"{API}/executions/{shop.ordered.id}")).status_code == 404

    execution = f"{API}/executions/{shop.charged.id}"
    await shop.other.post(f"{execution}/resume", json={"step_key": "ok", "data": 1})
    await shop.at.result(shop.charged)
    assert (await shop.other.delete(execution)).json() == {"deleted": 1}
    (entry,) = (await shop.other.get(f"{execution}/audit")).json()["audit"]  # it outlives the execution
    assert (entry["step_key"], entry["by"], entry["data"]) == ("ok", "bob", None)
    assert (await shop.api.get(f"{execution}/audit")).status_code == 404


@pytest.mark.threat(6)
async def test_lists_leave_out_the_rest(shop: Shop) -> None:
    async def ids(api: httpx2.AsyncClient, **query: Any) -> set[str]:
        found: list[str] = []
        while True:
            page = (await api.get(f"{API}/executions", params=query)).json()
            found += [one["id"] for one in page["executions"]]
            if page["next_cursor"] is None:
                assert len(found) == len(set(found))
                return set(found)
            query["cursor"] = page["next_cursor"]

    async def open_ones(api: httpx2.AsyncClient, **query: Any) -> list[str]:
        page = (await api.get(f"{API}/suspensions", params=query)).json()
        assert page["next_cursor"] is None
        return [one["execution_id"] for one in page["suspensions"]]

    everything = {shop.ordered.id, shop.child, shop.charged.id}
    admin = httpx2.AsyncClient(timeout=60, base_url=shop.url, headers=await key(shop.at.client, "read"))
    async with admin:
        assert await ids(admin) == everything
        assert len(await open_ones(admin)) == 2
    for limit in (1, 2, 50):
        assert await ids(shop.api, limit=limit) == {shop.ordered.id}
        assert await ids(shop.api, workflow=charge.id, limit=limit) == {shop.child}
        assert await ids(shop.other, limit=limit) == {shop.charged.id}
        assert await ids(shop.other, workflow=order.id, limit=limit) == set()
        assert await ids(shop.other, status="waiting", limit=limit) == {shop.charged.id}
    assert await open_ones(shop.api) == [shop.child]
    assert await open_ones(shop.api, workflow=charge.id) == [shop.child]
    assert await open_ones(shop.api, workflow=order.id) == []
    assert await open_ones(shop.other) == [shop.charged.id]


async def test_only_its_workflows_can_be_started(shop: Shop) -> None:
    refused = await shop.other.post(f"{API}/executions", json={"workflow_id": order.id, "input": "charge"})
    assert (
        f"restricted to workflows ('{charge.id}', 'unknown')" in problem(refused, 403, "forbidden")["detail"]
    )
    started = await shop.other.post(f"{API}/executions", json={"workflow_id": charge.id, "input": "fail"})
    execution_id = started.json()["id"]
    await shop.at.reached(shop.at.client.get_handle(execution_id), "failed")
    assert (await shop.other.post(f"{API}/executions/{execution_id}/retry")).json()["run"] == 2
    assert (await shop.api.post(f"{API}/executions/{execution_id}/retry")).status_code == 404
    assert (await shop.other.post(f"{API}/executions/{shop.charged.id}/cancel")).status_code == 200


async def test_what_is_about_the_whole_namespace_is_refused(shop: Shop) -> None:
    await events.publish(shop.at.client, "news", EventData("secret", 1))
    for path in ("/metrics", f"{API}/topics/news/events", f"{API}/topics/ok%2Fnews/events"):
        problem(await shop.api.get(path), 403, "forbidden")


@pytest.mark.threat(6)
async def test_every_route_without_an_execution_restricts_itself_or_refuses(shop: Shop) -> None:
    """A new route is refused until it says how it restricts what it shows."""
    fixed = {path for _, path in routes() if "{" not in path}
    restricting = {f"{API}/executions", f"{API}/suspensions", "/", "/executions"}
    for path in fixed - restricting:
        assert (await shop.api.get(path)).status_code in (403, 404, 405), path
    assert restricting <= fixed
    about = {path for _, path in routes() if "{" in path}
    assert all("{execution_id}" in path or "{topic:anything}" in path for path in about)


async def test_the_pages_of_a_restricted_key(shop: Shop) -> None:
    _, secret = await apikeys.create(shop.at.client, "bob", ["admin"], workflows=[charge.id])
    async with visiting(shop.url) as visitor:
        page = await visitor.get("/login")
        token = page.form("/login").get("form_token")
        await visitor.http.post("/login", data={"key": secret, "form_token": token})
        for path in ("/", "/executions"):
            page = await visitor.get(path)
            assert shop.charged.id in page.response.text, page.text
            assert shop.ordered.id not in page.response.text and order.id not in page.response.text
        for path in (
            f"/executions/{shop.ordered.id}",
            f"/executions/{shop.child}",
            f"/approve/{shop.child}/ok",
            f"/approve/{shop.ordered.id}",
        ):
            refused = await visitor.get(path)
            assert refused.status == 404 and "keys-" not in refused.text
        page = await visitor.get(f"/approve/{shop.charged.id}/ok")
        token = page.form("/approve").get("form_token")
        for action in ("cancel", "retry"):
            sent = await visitor.http.post(
                f"/executions/{shop.ordered.id}/{action}", data={"form_token": token}, follow_redirects=False
            )
            assert sent.status_code == 404
        form = page.form("/approve")
        sent = await visitor.http.post(
            form.action.replace(shop.charged.id, shop.child), data=visitor.data(form, "Approve")
        )
        assert sent.status_code == 404
    assert (await shop.at.client.get_suspension(shop.child, "ok"))["status"] == "open"


@pytest.mark.parametrize("workflows", ["charge", [""], [1]])
async def test_an_invalid_restriction_is_refused(workflows: Any, client: PolosClient) -> None:
    with pytest.raises(ConfigurationError, match=r"workflow ids|workflow's id"):
        await apikeys.create(client, "ann", ["read"], workflows=workflows)
    assert await apikeys.list_keys(client) == []
