"""Logging in and out, and forms that other sites can't submit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2
import pytest
from fastapi import FastAPI

from polos_redis import PolosClient, Workflow, WorkflowContext, apikeys
from polos_redis.links import Links
from polos_redis.server import streams
from polos_redis.server.app import create_app
from polos_redis.server.sessions import SESSION_SECONDS
from polos_redis.state import keys
from tests.harness.running import created_at, running, soon
from tests.harness.serving import serving
from tests.harness.visiting import Page, Visitor, visiting

SECRET = "a secret of more than 32 characters, for tests"


async def waits(ctx: WorkflowContext, input: None) -> None:
    await ctx.step.suspend("ok", data={"amount": 5})


WAITS: Workflow[Any, Any] = Workflow(waits, "sessions_waits")


async def fails(ctx: WorkflowContext, input: None) -> None:
    raise LookupError("no stock")


FAILS: Workflow[Any, Any] = Workflow(fails, "sessions_fails")


@pytest.fixture
async def site(client: PolosClient, namespace: str) -> AsyncIterator[Visitor]:
    async with serving(client, links=Links([SECRET], namespace, "", 60)) as base, visiting(base) as visitor:
        yield visitor


async def key_of(client: PolosClient, *scopes: str) -> tuple[str, str]:
    """A key's id and secret."""
    key, secret = await apikeys.create(client, "ann", scopes or ("read", "approve", "invoke"))
    return key.id, secret


def cookie(visitor: Visitor, name: str) -> str:
    return next(one for one in visitor.http.cookies.jar if one.name == name).value or ""


async def test_an_unknown_visitor_logs_in_and_returns(client: PolosClient, site: Visitor) -> None:
    page = await site.get("/executions", workflow="a b")
    assert page.url.startswith(f"{site.base}/login") and page.status == 200
    _, secret = await key_of(client)
    page = await site.send(page, page.form("/login"), key=f" {secret} ")
    assert page.url == f"{site.base}/executions?workflow=a+b" and "ann" in page.text


async def test_a_wrong_key_is_refused(client: PolosClient, site: Visitor) -> None:
    key_id, secret = await key_of(client)
    for wrong in ("", "polos_", secret[:-1], f"polos_{key_id}_x", "ä" * 50):
        page = await site.log_in(wrong)
        assert page.status == 403 and "Unknown, expired or revoked key" in page.text
        assert secret not in page.response.text and (not wrong or wrong not in page.response.text)
    assert (await site.get("/")).url.startswith(f"{site.base}/login")


async def test_scripts_and_other_sites_cannot_read_the_cookie(client: PolosClient, site: Visitor) -> None:
    _, secret = await key_of(client)
    page = await site.get("/login")
    response = await site.http.post(
        "/login", data=site.data(page.form("/login"), key=secret), follow_redirects=False
    )
    assert response.status_code == 303 and response.headers["location"] == "/"
    (header,) = response.headers.get_list("set-cookie")
    assert "HttpOnly" in header and "SameSite=lax" in header and secret not in header


@pytest.mark.threat(4)
@pytest.mark.parametrize(
    "after",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/login", "\n/x"],
)
async def test_a_login_never_redirects_to_another_site(
    client: PolosClient, site: Visitor, after: str
) -> None:
    _, secret = await key_of(client)
    page = await site.get("/login", next=after)
    form = page.form("/login")
    assert form.get("next") == "/"
    data = {**site.data(form, key=secret), "next": [after]}
    response = await site.http.post("/login", data=data, follow_redirects=False)
    assert response.headers["location"] == "/"


@pytest.mark.threat(5)
async def test_a_session_ends_with_its_key(client: PolosClient, site: Visitor) -> None:
    key_id, secret = await key_of(client)
    assert (await site.log_in(secret)).url == f"{site.base}/"
    await apikeys.revoke(client, key_id)
    assert (await site.get("/")).url.startswith(f"{site.base}/login")


async def test_logging_out_ends_the_session(client: PolosClient, site: Visitor) -> None:
    _, secret = await key_of(client)
    page = await site.log_in(secret)
    page = await site.send(page, page.form("/logout"))
    assert page.url.startswith(f"{site.base}/login")
    assert (await site.get("/")).url.startswith(f"{site.base}/login")


@pytest.mark.threat(18)
async def test_a_copied_cookie_is_refused_after_the_logout_in_every_process(
    client: PolosClient, site: Visitor, redis_url: str, namespace: str
) -> None:
    _, secret = await key_of(client)
    page = await site.log_in(secret)
    copy = {"Cookie": f"polos_session={cookie(site, 'polos_session')}"}
    links = Links([SECRET], namespace, "", 60)
    async with (
        PolosClient(redis_url, namespace) as elsewhere,
        serving(elsewhere, links=links) as other,
        httpx2.AsyncClient(timeout=60, follow_redirects=True) as thief,
        visiting(site.base) as again,
    ):
        await again.log_in(secret)  # a second session of the same key
        for base in (site.base, other):
            assert (await thief.get(f"{base}/", headers=copy)).url.path == "/"
            assert (await thief.get(f"{base}/api/v1/executions", headers=copy)).status_code == 200
        await site.send(page, page.form("/logout"))
        for base in (site.base, other):
            assert (await thief.get(f"{base}/", headers=copy)).url.path == "/login"
            assert (await thief.get(f"{base}/api/v1/executions", headers=copy)).status_code == 401
        assert (await again.get("/")).url == f"{site.base}/"


async def test_a_session_leaves_nothing_behind(client: PolosClient, site: Visitor) -> None:
    _, secret = await key_of(client)
    page = await site.log_in(secret)
    store = await client.store()
    names = await store.wire.call("KEYS", store.prefixes[0] + keys.SESSION.encode() + b"*")
    (name,) = names
    assert 0 < await store.wire.call("TTL", name) <= SESSION_SECONDS
    await site.send(page, page.form("/logout"))
    assert await store.wire.call("EXISTS", name) == 0


@pytest.mark.parametrize(
    ("public_url", "secure"),
    [("https://polos.example", True), ("HTTPS://polos.example", True), ("http://polos.example", False)],
)
async def test_behind_an_undeclared_proxy_the_public_url_makes_cookies_secure(
    client: PolosClient, namespace: str, public_url: str, secure: bool
) -> None:
    _, secret = await key_of(client)
    links = Links([SECRET], namespace, public_url, 60)
    async with serving(client, links=links) as base, httpx2.AsyncClient(timeout=60, base_url=base) as http:
        page = Page(await http.get("/login"))
        (visitor_cookie,) = page.response.headers.get_list("set-cookie")
        sent = {"form_token": page.form("/login").get("form_token"), "key": secret}
        headers = {"Cookie": visitor_cookie.partition(";")[0]}  # as the proxy's visitor has it
        response = await http.post("/login", data=sent, headers=headers)
        (session_cookie,) = response.headers.get_list("set-cookie")
        assert ("Secure" in visitor_cookie, "Secure" in session_cookie) == (secure, secure)


@pytest.mark.threat(1)
@pytest.mark.parametrize("change", ["x", "", "swap"])
async def test_a_changed_cookie_logs_nobody_in(client: PolosClient, site: Visitor, change: str) -> None:
    _, secret = await key_of(client)
    await site.log_in(secret)
    value = cookie(site, "polos_session")
    site.http.cookies.clear()
    forged = ("A" if value[0] != "A" else "B") + value[1:] if change == "swap" else change
    page = await site.http.get("/", headers={"Cookie": f"polos_session={forged}"})
    assert page.url.path == "/login"


async def test_a_session_may_read_the_api_but_change_nothing_there(
    client: PolosClient, site: Visitor
) -> None:
    _, secret = await key_of(client, "admin")
    await site.log_in(secret)
    assert (await site.http.get("/api/v1/executions")).status_code == 200
    response = await site.http.post("/api/v1/executions", json={"workflow_id": "x", "input": None})
    assert response.status_code == 401


async def test_rotating_the_secret_ends_no_session_while_the_old_one_is_kept(
    client: PolosClient, namespace: str
) -> None:
    _, secret = await key_of(client)
    new = "another secret of more than 32 characters"
    async with serving(client, links=Links([SECRET], namespace, "", 60)) as base, visiting(base) as visitor:
        await visitor.log_in(secret)
        value = cookie(visitor, "polos_session")
    for secrets, path in (([new, SECRET], "/"), ([new], "/login")):
        async with (
            serving(client, links=Links(secrets, namespace, "", 60)) as base,
            httpx2.AsyncClient(timeout=60, base_url=base, follow_redirects=True) as http,
        ):
            response = await http.get("/", headers={"Cookie": f"polos_session={value}"})
            assert response.url.path == path


@pytest.mark.threat(4)
@pytest.mark.parametrize("token", ["", "x", "of another"])
async def test_another_sites_form_is_refused(redis_url: str, namespace: str, token: str) -> None:
    async with (
        running(redis_url, namespace, WAITS) as run,
        serving(run.client, links=Links([SECRET], namespace, "", 60)) as base,
        visiting(base) as ann,
        visiting(base) as eve,
    ):
        handle = await run.client.invoke(WAITS)
        await run.parked(handle)
        _, secret = await key_of(run.client)
        await ann.log_in(secret)
        await eve.log_in(secret)
        other = await eve.get(f"/approve/{handle.id}/ok")
        form_token = other.form("/approve").get("form_token") if token == "of another" else token
        for path, data in (
            (f"/approve/{handle.id}/ok", {"answer/approved": "true"}),
            (f"/executions/{handle.id}/cancel", {}),
            (f"/executions/{handle.id}/retry", {}),
            ("/logout", {}),
        ):
            response = await ann.http.post(path, data={"form_token": form_token, **data})
            assert response.status_code == 403 and "try again" in response.text.lower()
        assert await handle.status() == "waiting"
        assert (await ann.get("/")).status == 200  # still logged in


async def test_another_sites_form_is_refused_in_development_too(redis_url: str, namespace: str) -> None:
    async with (
        running(redis_url, namespace, WAITS) as run,
        serving(run.client, insecure_dev=True) as base,
        visiting(base) as visitor,
    ):
        handle = await run.client.invoke(WAITS)
        await run.parked(handle)
        response = await visitor.http.post(f"/approve/{handle.id}/ok", data={"answer/approved": "true"})
        assert response.status_code == 403
        page = await visitor.get(f"/approve/{handle.id}/ok")
        done = await visitor.send(page, page.form("/approve"), "Approve")
        assert "Approved" in done.text


async def test_expired_and_forged_links_say_so(client: PolosClient, namespace: str) -> None:
    links = Links([SECRET], namespace, "", 60)
    async with serving(client, links=links) as base, visiting(base) as visitor:
        short = links.token("some", "ok", 1, datetime.now(UTC), seconds=1e-6)
        page = await visitor.get("/approve/some/ok", token=short)
        assert page.status == 403 and "This link has expired" in page.text
        page = await visitor.get(
            "/approve/some/ok", token=links.token("some", "ok", 1, datetime.now(UTC))[:-2]
        )
        assert page.status == 403 and "does not work" in page.text
    async with serving(client) as base, visiting(base) as visitor:
        page = await visitor.get("/approve/some/ok", token="x")
        assert page.status == 403 and "can't check signed links" in page.text


async def test_an_unreadable_form_is_refused_with_a_page(site: Visitor) -> None:
    response = await site.http.post("/login", data={f"field {number}": "" for number in range(20)})
    assert response.status_code == 400 and response.headers["content-type"].startswith("text/html")


@pytest.mark.threat(1)
async def test_guessing_is_slowed_down(client: PolosClient, namespace: str) -> None:
    async with serving(client, links=Links([SECRET], namespace, "", 60)) as base, visiting(base) as visitor:
        statuses = {(await visitor.log_in(f"polos_x_{n}")).status for n in range(30)}
        assert statuses == {403, 429}


@pytest.mark.threat(19)
async def test_pages_are_not_cached_and_restrict_what_they_load(site: Visitor) -> None:
    page = await site.get("/login")
    headers = page.response.headers
    assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in headers["content-security-policy"]
    assets = [attributes.get("src") or attributes.get("href", "") for _, attributes in page.tags]
    for path in (one for one in assets if one.startswith("/static/")):
        asset = await site.http.get(path)
        assert asset.status_code == 200 and "immutable" in asset.headers["cache-control"]
        assert (await site.http.get(path.replace("/static/", "/static/0"))).status_code == 404
    assert (await site.http.get("/favicon.ico")).headers["content-type"] == "image/svg+xml"


@pytest.mark.threat(15)
@pytest.mark.parametrize("scope", ["decide", "view"])
async def test_a_link_opens_only_its_own_page_wherever_its_token_is(
    redis_url: str, namespace: str, scope: Literal["decide", "view"]
) -> None:
    links = Links([SECRET], namespace, "", 60)
    async with (
        running(redis_url, namespace, WAITS) as run,
        serving(run.client, links=links) as base,
        visiting(base) as eve,
    ):
        handle, other = await run.client.invoke(WAITS), await run.client.invoke(WAITS)
        await run.parked(handle)
        await run.parked(other)
        page = await eve.get("/login")
        form = {"form_token": page.form("/login").get("form_token")}
        eve.http.headers["Authorization"] = (
            f"Bearer {links.token(handle.id, 'ok', 1, await created_at(run.client, handle.id), scope=scope)}"
        )
        for path in ("/", "/executions", f"/executions/{other.id}", f"/approve/{other.id}/ok"):
            response = await eve.get(path)
            assert response.status == 403 and other.id not in response.text
        for path in (f"/executions/{other.id}/cancel", f"/executions/{handle.id}/cancel"):
            assert (await eve.http.post(path, data=form)).status_code == 403
        assert {await handle.status(), await other.status()} == {"waiting"}


async def test_below_another_app_a_session_changes_nothing_through_the_api(
    redis_url: str, namespace: str
) -> None:
    outer = FastAPI()
    async with running(redis_url, namespace, WAITS) as run:
        outer.mount("/below", create_app(run.client))
        here = httpx2.ASGITransport(app=outer)
        async with httpx2.AsyncClient(transport=here, base_url="http://here") as http:
            handle = await run.client.invoke(WAITS)
            await run.parked(handle)
            _, secret = await key_of(run.client, "admin")
            page = Page(await http.get("/below/login"))
            form = {"form_token": page.form("/login").get("form_token"), "key": secret}
            assert (await http.post("/below/login", data=form)).status_code == 303
            assert (await http.get(f"/below/api/v1/executions/{handle.id}")).status_code == 200
            assert (await http.post(f"/below/api/v1/executions/{handle.id}/cancel")).status_code == 401
        assert await handle.status() == "waiting"


@pytest.mark.threat(15)
async def test_an_answer_is_not_for_the_next_execution_of_the_id(redis_url: str, namespace: str) -> None:
    """It shows the same data, so its digest is the same."""
    async with (
        running(redis_url, namespace, WAITS) as run,
        serving(run.client) as base,
        visiting(base) as ann,
    ):
        handle = await run.client.invoke(WAITS, idempotency_key="order 7")
        await run.parked(handle)
        await ann.log_in((await key_of(run.client))[1])
        page = await ann.get(f"/approve/{handle.id}/ok")
        await run.client.cancel(handle.id)
        await run.client.delete(handle.id)
        again = await run.client.invoke(WAITS, idempotency_key="order 7")
        await run.parked(again)
        assert again.id == handle.id
        page = await ann.send(page, page.form("/approve"), "Approve")
        assert page.status == 409 and "started again since you opened this page" in page.text
        assert (await run.client.get_suspension(again.id, "ok"))["status"] == "open"
        page = await ann.send(page, page.form("/approve"), "Approve")  # the new page is for the new one
        assert page.status == 200
        await run.result(again)


@pytest.mark.threat(15)
@pytest.mark.parametrize("button", ["cancel", "retry"])
async def test_a_button_is_not_for_the_next_execution_of_the_id(
    button: str, redis_url: str, namespace: str
) -> None:
    async with (
        running(redis_url, namespace, WAITS, FAILS) as run,
        serving(run.client) as base,
        visiting(base) as ann,
    ):
        workflow, status = (WAITS, "waiting") if button == "cancel" else (FAILS, "failed")
        handle = await run.client.invoke(workflow, idempotency_key="order 8")
        await run.reached(handle, status)
        await ann.log_in((await key_of(run.client))[1])
        page = await ann.get(f"/executions/{handle.id}")
        if button == "cancel":
            await run.client.cancel(handle.id)
        await run.client.delete(handle.id)
        again = await run.client.invoke(workflow, idempotency_key="order 8")
        await run.reached(again, status)
        assert again.id == handle.id
        page = await ann.send(page, page.form(f"/{button}"))
        assert page.status == 409 and "no longer the one your page showed" in page.text
        execution = await run.client.get_execution(again.id)
        assert (execution["status"], execution["run"]) == (status, 1)
        assert (
            await ann.send(page, page.form(f"/{button}"))
        ).status == 200  # the new page is for the new one


@pytest.mark.parametrize("public_url", ["", "http://polos.example.com", "https://polos.example.com"])
async def test_browsers_are_told_to_use_https_where_people_do(
    public_url: str, client: PolosClient, namespace: str
) -> None:
    """A proxy that speaks HTTPS to people speaks HTTP to the server."""
    links = Links([SECRET], namespace, public_url, 60)
    async with serving(client, links=links) as base, httpx2.AsyncClient(timeout=60, base_url=base) as http:
        for path in ("/login", "/healthz", "/api/v1/executions", "/nothing"):
            found = (await http.get(path)).headers.get("strict-transport-security")
            assert (found is not None) == public_url.startswith("https:"), path


@pytest.mark.threat(18)
async def test_logging_out_ends_event_streams(
    client: PolosClient, site: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    _, secret = await key_of(client)
    await site.log_in(secret)
    page = await site.get("/")
    async with site.http.stream("GET", "/api/v1/topics/prices/events") as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        for _ in range(3):  # an open session survives several checks
            while await soon(anext(lines)) != ":":
                pass
        await site.send(page, page.form("/logout"))

        async def end() -> None:
            async for _ in lines:
                pass

        await soon(end())
    assert (await site.http.get("/api/v1/topics/prices/events")).status_code == 401
