"""Authorization over HTTP: keys and their scopes, signed links, developers, other sites' pages."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from polos_redis import PolosClient, WorkflowContext, apikeys, workflow
from polos_redis.errors import ConfigurationError
from polos_redis.links import Links
from polos_redis.server.app import create_app
from tests.harness.running import Running, created_at, until, working
from tests.harness.serving import calling, key, problem, serving

NOW = datetime.now(UTC)
SECRET = "0123456789abcdef0123456789abcdef"


@workflow(id="api-guarded")
async def guarded(ctx: WorkflowContext, input: list[str]) -> Any:
    for name in input:
        decided = await ctx.step.suspend(name, data={"for": name}, allow_self=name != "own")
        if decided["data"] == "fail":
            raise ValueError(name)
    return "done"


ROUTES = [
    ("GET", "/api/v1/executions", "read"),
    ("POST", "/api/v1/executions", "invoke"),
    ("GET", "/api/v1/executions/x", "read"),
    ("DELETE", "/api/v1/executions/x", "admin"),
    ("POST", "/api/v1/executions/x/resume", "approve"),
    ("POST", "/api/v1/executions/x/cancel", "invoke"),
    ("POST", "/api/v1/executions/x/retry", "invoke"),
    ("POST", "/api/v1/executions/x/fork", "invoke"),
    ("GET", "/api/v1/executions/x/audit", "read"),
    ("GET", "/api/v1/executions/x/events", "read"),
    ("GET", "/api/v1/executions/x/suspensions/y", "read"),
    ("GET", "/api/v1/suspensions", "read"),
    ("GET", "/api/v1/topics/x/events", "read"),
    ("GET", "/metrics", "read"),
]
BODIES = {
    "/api/v1/executions": {"workflow_id": "never"},
    "/api/v1/executions/x/resume": {"step_key": "y", "data": 1},
}


async def _send(api: httpx2.AsyncClient, method: str, path: str, **headers: str) -> httpx2.Response:
    """Sends one request; reads only the head of a stream."""
    body = BODIES.get(path) if method == "POST" else None
    async with api.stream(method, path, json=body, headers=headers) as answer:
        if "event-stream" not in answer.headers["content-type"]:
            await answer.aread()
        return answer


def test_every_route_is_in_the_table() -> None:
    paths = create_app(PolosClient()).openapi()["paths"]
    found = {
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if path not in ("/healthz", "/readyz")
    }
    listed = {
        (method, path.replace("/x", "/{execution_id}").replace("/y", "/{step_key}"))
        for method, path, _ in ROUTES
    }
    assert found == {
        (method, path.replace("topics/{execution_id}", "topics/{topic}")) for method, path in listed
    }


@pytest.mark.threat(2, 5)
async def test_every_route_requires_its_scope(client: PolosClient) -> None:
    async with (
        serving(client, rate_limit="10000/minute") as url,
        httpx2.AsyncClient(base_url=url, timeout=20) as api,
    ):
        keys = {scope: await key(client, scope) for scope in apikeys.SCOPES}
        for method, path, required in ROUTES:
            refused = problem(await _send(api, method, path), 401, "unauthorized")
            assert "Bearer KEY" in refused["detail"]
            for scope, headers in keys.items():
                answer = await _send(api, method, path, **headers)
                if scope in (required, "admin"):
                    assert answer.status_code not in (401, 403), (method, path, scope)
                else:
                    assert problem(answer, 403, "forbidden")["scope"] == required


@pytest.mark.threat(2)
@pytest.mark.also_on_cluster
async def test_only_health_and_the_schema_are_public(client: PolosClient) -> None:
    async with serving(client) as url, httpx2.AsyncClient(base_url=url, timeout=20) as api:
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await api.get(path)).status_code == 200


@pytest.mark.threat(1)
@pytest.mark.parametrize(
    "sent",
    [
        "Bearer polos_0000000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "Bearer polos_",
        "Bearer polos_ünknown",
        "Bearer something.else",
        "Bearer",
        "Basic YTpi",
    ],
)
async def test_wrong_credentials_are_refused_even_for_developers(client: PolosClient, sent: str) -> None:
    async with calling(client) as api:
        answer = await api.get("/api/v1/executions", headers={b"Authorization": sent.encode()})
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.threat(5)
@pytest.mark.also_on_cluster
async def test_a_key_ends_with_its_revocation_or_expiry(client: PolosClient) -> None:
    async with serving(client) as url, httpx2.AsyncClient(base_url=url, timeout=20) as api:
        created, secret = await apikeys.create(client, "ann", ["read"])
        headers = {"Authorization": f"Bearer {secret}"}
        assert (await api.get("/api/v1/executions", headers=headers)).status_code == 200
        changed = {"Authorization": f"Bearer {secret[:-1]}{'a' if secret[-1] != 'a' else 'b'}"}
        problem(await api.get("/api/v1/executions", headers=changed), 401, "unauthorized")
        await apikeys.revoke(client, created.id)
        problem(await api.get("/api/v1/executions", headers=headers), 401, "unauthorized")
        _, secret = await apikeys.create(client, "ann", ["read"], expires_in=0.001)
        headers = {"Authorization": f"Bearer {secret}"}

        async def over() -> bool:
            return (await api.get("/api/v1/executions", headers=headers)).status_code == 401

        await until(over)


@pytest.mark.threat(5)
async def test_a_key_is_for_its_namespace(client: PolosClient, redis_url: str, namespace: str) -> None:
    headers = await key(client, "read")
    async with (
        PolosClient(redis_url, namespace + "-other") as other,
        serving(other) as url,
        httpx2.AsyncClient(timeout=60, base_url=url, headers=headers) as api,
    ):
        problem(await api.get("/api/v1/executions"), 401, "unauthorized")


# --- signed links -----------------------------------------------------------------------


@pytest.mark.threat(15)
async def test_a_link_is_only_for_its_suspension_in_its_run(client: PolosClient) -> None:
    links = Links([SECRET], client.namespace, "https://polos.example.com", 3600)
    async with (
        serving(client, links=links) as url,
        working(client, guarded) as worker,
        httpx2.AsyncClient(timeout=60, base_url=url) as api,
    ):
        run = Running(client, worker)
        handle = await client.invoke(guarded, ["first", "second"])
        await run.opened(handle, "first")
        path = f"/api/v1/executions/{handle.id}"
        created = await created_at(client, handle.id)

        def bearer(step_key: str, run_number: int = 1, **more: Any) -> dict[str, str]:
            token = links.token(handle.id, step_key, run_number, created, **more)
            return {"Authorization": f"Bearer {token}"}

        first = bearer("first", name="ann", groups=("finance",))
        shown = await api.get(f"{path}/suspensions/first", headers=first)
        assert shown.json()["data"] == {"for": "first"}

        for method, place in (("GET", path), ("GET", f"{path}/events"), ("POST", f"{path}/cancel")):
            problem(await api.request(method, place, headers=first), 403, "forbidden")
        problem(await api.get("/api/v1/suspensions", headers=first), 403, "forbidden")

        for place in (f"{path}/suspensions/unknown", "/api/v1/executions/unknown/suspensions/first"):
            problem(await api.get(place, headers=first), 403, "forbidden")  # and learns nothing about others

        answer = {"step_key": "first", "data": "yes"}
        view = bearer("first", scope="view")
        assert (await api.get(f"{path}/suspensions/first", headers=view)).status_code == 200
        problem(await api.post(f"{path}/resume", json=answer, headers=view), 403, "forbidden")
        problem(await api.post(f"{path}/resume", json=answer, headers=bearer("second")), 403, "forbidden")
        problem(await api.post(f"{path}/resume", json=answer, headers=bearer("first", 2)), 403, "forbidden")
        on_behalf = {**answer, "resumed_by": "bob"}
        problem(await api.post(f"{path}/resume", json=on_behalf, headers=first), 403, "forbidden")

        done = await api.post(f"{path}/resume", json=answer, headers=first)
        assert (done.json()["outcome"], done.json()["resumed_by"]) == ("accepted", "ann")

        await run.opened(handle, "second")
        failing = {"step_key": "second", "data": "fail"}
        await api.post(f"{path}/resume", json=failing, headers=bearer("second"))
        await run.reached(handle, "failed")
        await client.retry(handle.id)
        stored = await api.get(f"{path}/suspensions/first", headers=bearer("first"))
        assert (stored.json()["status"], stored.json()["run"]) == ("answered", 1)
        await run.reached(handle, "failed")


@workflow(id="api-beside", retries=1, retry_delay=0.01)
async def beside(ctx: WorkflowContext, input: dict[str, bool]) -> Any:
    """Suspends, and fails once meanwhile; the retry is automatic or by hand."""

    async def fail() -> None:
        if ctx.run == 1 or (input["finally"] and ctx.run == 2):
            await ctx.step.wait_for(f"a moment {ctx.run}", seconds=0.05)
            raise ValueError("beside")

    answer, _ = await asyncio.gather(ctx.step.suspend("ask", {"run": ctx.run}), fail())
    return answer["data"]


async def test_a_link_stays_valid_while_its_suspension_is_open_across_runs(client: PolosClient) -> None:
    links = Links([SECRET], client.namespace, None, 3600)
    async with serving(client, links=links) as url, working(client, beside) as worker:
        run = Running(client, worker)
        handle = await client.invoke(beside, {"finally": False})
        await run.opened(handle, "ask")
        token = links.token(handle.id, "ask", 1, await created_at(client, handle.id))

        async def in_the_next_run() -> bool:
            return bool((await client.get_execution(handle.id))["run"] == 2)

        await until(in_the_next_run)
        assert (await client.get_suspension(handle.id, "ask"))["run"] == 1
        async with httpx2.AsyncClient(
            timeout=60, base_url=url, headers={"Authorization": f"Bearer {token}"}
        ) as api:
            path = f"/api/v1/executions/{handle.id}/resume"
            done = await api.post(path, json={"step_key": "ask", "data": 5})
        assert done.json()["outcome"] == "accepted"
        assert await handle.result() == 5


async def test_a_link_ends_when_its_suspension_closes_and_reopens(client: PolosClient) -> None:
    links = Links([SECRET], client.namespace, None, 3600)
    async with serving(client, links=links) as url, working(client, beside) as worker:
        run = Running(client, worker)
        handle = await client.invoke(beside, {"finally": True})
        await run.reached(handle, "failed")
        await client.retry(handle.id)
        await run.opened(handle, "ask")
        async with httpx2.AsyncClient(base_url=url, timeout=20) as api:
            for number, status in ((1, 403), (2, 403), (3, 200)):
                token = links.token(handle.id, "ask", number, await created_at(client, handle.id))
                answered = await api.post(
                    f"/api/v1/executions/{handle.id}/resume",
                    json={"step_key": "ask", "data": number},
                    headers={"Authorization": f"Bearer {token}"},
                )
                assert answered.status_code == status, answered.text
        assert await handle.result() == 3


@pytest.mark.threat(15)
@pytest.mark.parametrize("says_when", [True, False])
async def test_a_link_is_not_for_a_deleted_and_restarted_execution(
    says_when: bool, client: PolosClient
) -> None:
    links = Links([SECRET], client.namespace, None, 36_000)
    async with serving(client, links=links) as url, working(client, guarded) as worker:
        run = Running(client, worker)
        handle = await client.invoke(guarded, ["first"], idempotency_key="once")
        await run.opened(handle, "first")
        created = await created_at(client, handle.id) if says_when else None
        token = links.token(handle.id, "first", 1, created)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(timeout=60, base_url=url, headers=headers) as api:
            shown = await api.get(f"/api/v1/executions/{handle.id}/suspensions/first")
            assert shown.status_code == 200
        await client.cancel(handle.id)
        await client.delete(handle.id)
        restarted = await client.invoke(guarded, ["first"], idempotency_key="once")
        assert restarted.id == handle.id
        await run.opened(restarted, "first")
        async with httpx2.AsyncClient(timeout=60, base_url=url, headers=headers) as api:
            answer = {"step_key": "first", "data": "yes"}
            refused = await api.post(f"/api/v1/executions/{restarted.id}/resume", json=answer)
            assert "was restarted" in problem(refused, 403, "forbidden")["detail"]
            shown = await api.get(f"/api/v1/executions/{restarted.id}/suspensions/first")
            assert "was restarted" in problem(shown, 403, "forbidden")["detail"]
            page = await api.get(f"/approve/{restarted.id}/first", params={"token": token})
            assert page.status_code == 403 and "was restarted" in page.text
        assert (await client.get_suspension(restarted.id, "first"))["status"] == "open"


@pytest.mark.threat(8)
async def test_the_starter_is_the_key_whatever_the_body_says(client: PolosClient) -> None:
    async with serving(client) as url, working(client, guarded) as worker:
        run = Running(client, worker)
        mallory = await key(client, "invoke", "approve", name="mallory")
        async with httpx2.AsyncClient(base_url=url, timeout=20) as api:
            for user_id in ("bob", ""):
                body = {"workflow_id": guarded.id, "input": ["own"], "user_id": user_id}
                started = await api.post("/api/v1/executions", json=body, headers=mallory)
                handle = client.get_handle(started.json()["id"])
                await run.opened(handle, "own")
                path = f"/api/v1/executions/{handle.id}/resume"
                answer = {"step_key": "own", "data": "yes"}
                problem(await api.post(path, json=answer, headers=mallory), 403, "not-approver")


@pytest.mark.threat(10)
async def test_nobody_chooses_the_starter_by_being_first(client: PolosClient) -> None:
    """With allow_self=False: who guesses an idempotency key must not become the starter, or make another the
    starter, of what the owner of the key then takes for their own."""
    mallory = await key(client, "invoke", name="mallory")
    shop = await key(client, "invoke", name="shop")
    rotated = await key(client, "invoke", name="shop")
    body = {"workflow_id": guarded.id, "input": ["own"], "idempotency_key": "order-7"}
    async with serving(client) as url, httpx2.AsyncClient(base_url=url, timeout=20) as api:
        first = await api.post("/api/v1/executions", json={**body, "user_id": "nobody"}, headers=mallory)
        refused = await api.post("/api/v1/executions", json={**body, "user_id": "ann"}, headers=shop)
        conflict = problem(refused, 409, "idempotency-conflict")
        assert conflict["differing"] == ["user_id", "started_by"]
        assert conflict["execution_id"] == first.json()["id"]

        body["idempotency_key"] = "order-8"
        started = [await api.post("/api/v1/executions", json=body, headers=one) for one in (shop, rotated)]
        assert started[0].json() == started[1].json()  # a name's keys may take turns


async def test_an_invalid_link_is_refused(client: PolosClient) -> None:
    links = Links([SECRET], client.namespace, None, 3600)
    async with serving(client, links=links) as url, httpx2.AsyncClient(base_url=url, timeout=20) as api:
        token = links.token("x", "y", 1, NOW)
        other = Links([SECRET], "another namespace", None, 3600).token("x", "y", 1, NOW)
        forged = Links([SECRET[::-1]], client.namespace, None, 3600).token("x", "y", 1, NOW)
        for wrong in (other, forged, token[:-2], token + "a"):
            headers = {"Authorization": f"Bearer {wrong}"}
            answer = await api.get("/api/v1/executions/x/suspensions/y", headers=headers)
            problem(answer, 401, "unauthorized")
        headers = {"Authorization": f"Bearer {links.token('x', 'y', 1, NOW, seconds=0.001)}"}

        async def expired() -> bool:
            answer = await api.get("/api/v1/executions/x/suspensions/y", headers=headers)
            return "expired at" in answer.json()["detail"]

        await until(expired)


async def test_a_session_cookie_can_only_read(client: PolosClient) -> None:
    _, secret = await apikeys.create(client, "ann", ["admin"])
    async with serving(client) as url, httpx2.AsyncClient(timeout=60, base_url=url) as browser:
        token = re.search(r'name="form_token" value="([^"]+)"', (await browser.get("/login")).text)
        assert token is not None
        await browser.post("/login", data={"form_token": token[1], "key": secret})
        assert (await browser.get("/api/v1/executions")).status_code == 200
        started = await browser.post("/api/v1/executions", json={"workflow_id": "w"})
        problem(started, 401, "unauthorized")


# --- developers and other sites' pages ---------------------------------------------------


@pytest.mark.threat(4)
async def test_other_sites_cannot_use_a_developers_browser(client: PolosClient) -> None:
    async with calling(client, cors_origins=["https://app.example.com"]) as api:
        handle = await client.invoke("api-later")
        path = f"/api/v1/executions/{handle.id}/cancel"  # a form could send this: it has no body
        foreign = await api.post(path, headers={"Origin": "https://evil.example.com"})
        assert "--cors-origin" in problem(foreign, 403, "forbidden")["detail"]
        for host in ("evil.example.com", "127.0.0.1.evil.example.com:80", "[", "evil@localhost", ""):
            rebound = await api.post(path, headers={"Host": host})
            assert "--insecure-dev" in problem(rebound, 403, "forbidden")["detail"]
        proxied = await api.post(path, headers={"X-Forwarded-For": "192.0.2.1"})
        assert "this machine only" in problem(proxied, 403, "forbidden")["detail"]
        plain = {"Content-Type": "text/plain", "Origin": str(api.base_url).rstrip("/")}
        body = '{"workflow_id": "x"}'
        problem(await api.post("/api/v1/executions", content=body, headers=plain), 415, "not-json")
        assert await handle.status() == "queued"
        allowed = await api.post(path, headers={"Origin": "https://app.example.com"})
        assert allowed.status_code == 200


async def test_pages_of_allowed_origins_may_call(client: PolosClient) -> None:
    headers = await key(client, "read")
    async with (
        serving(client, cors_origins=["https://app.example.com/"]) as url,
        httpx2.AsyncClient(timeout=60, base_url=url) as api,
    ):
        for origin, allowed in (("https://app.example.com", True), ("https://evil.example.com", False)):
            asked = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
            }
            preflight = await api.options("/api/v1/executions", headers=asked)
            assert (preflight.status_code == 200) is allowed
            answer = await api.get("/api/v1/executions", headers={**headers, "Origin": origin})
            refused = await api.get("/api/v1/executions", headers={"Origin": origin})
            for one in (preflight, answer, refused):
                assert (one.headers.get("access-control-allow-origin") == origin) is allowed
                assert "access-control-allow-credentials" not in one.headers


def test_a_wildcard_origin_is_refused_in_development() -> None:
    with pytest.raises(ConfigurationError, match="name the origins"):
        create_app(PolosClient(), insecure_dev=True, cors_origins=["*"])


# --- limits -----------------------------------------------------------------------------


@pytest.mark.threat(3)
async def test_each_key_has_its_own_rate(client: PolosClient) -> None:
    async with (
        serving(client, rate_limit="5/hour") as url,
        httpx2.AsyncClient(base_url=url, timeout=20) as api,
    ):
        ann, bob = await key(client, "read"), await key(client, "read")
        for _ in range(5):
            assert (await api.get("/api/v1/executions", headers=ann)).status_code == 200
        answer = await api.get("/api/v1/executions", headers=ann)
        problem(answer, 429, "too-many-requests")
        assert 1 <= int(answer.headers["retry-after"]) <= 721  # a fifth of an hour
        assert (await api.get("/api/v1/executions", headers=bob)).status_code == 200
        assert (await api.get("/healthz")).status_code == 200


@pytest.mark.threat(1)
async def test_guessing_is_slowed_down_and_affects_nobody_else(client: PolosClient) -> None:
    async with serving(client) as url, httpx2.AsyncClient(base_url=url, timeout=20) as api:
        wrong = {"Authorization": "Bearer polos_0000000000000000_guess"}
        seen = [(await api.get("/api/v1/executions", headers=wrong)).status_code for _ in range(30)]
        assert seen[:20] == [401] * 20
        assert seen[-1] == 429
        right = await key(client, "read")
        assert (await api.get("/api/v1/executions", headers=right)).status_code == 200


@pytest.mark.threat(31)
async def test_no_secret_is_logged(client: PolosClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    links = Links([SECRET], client.namespace, None, 3600)
    async with serving(client, links=links) as url, httpx2.AsyncClient(base_url=url, timeout=20) as api:
        created, secret = await apikeys.create(client, "ann", ["read"])
        token = links.token("x", "y", 1, NOW)
        await api.get("/api/v1/executions", headers={"Authorization": f"Bearer {secret}"})
        await api.get("/api/v1/executions", headers={"Authorization": f"Bearer {secret}!"})
        await api.get(f"/approve/x/y?token={token}")
        await api.get("/api/v1/executions/x/suspensions/y", headers={"Authorization": f"Bearer {token}"})
    ours = [record for record in caplog.records if record.name.startswith(("polos", "uvicorn"))]
    logged = " ".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    assert f"'caller': '{created.id}'" in logged and "'path': '/approve/x/y'" in logged
    assert secret not in logged and token not in logged and SECRET not in logged
