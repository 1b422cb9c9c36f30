"""What all routes share: strict JSON, body limits, problems and headers, also without Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from polos_redis import PolosClient, errors
from polos_redis.errors import PolosError, ResumeError
from polos_redis.server import problems
from polos_redis.server.rates import Rate, network_of
from tests.harness.running import until
from tests.harness.servers import ChaosServer
from tests.harness.serving import calling, problem, serving

PATH = "/api/v1/executions"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{bad}", "the body can't be read as JSON: line 1, column 2"),
        (b'{"workflow_id": "x",', "read as JSON: line 1, column"),
        (b'{"workflow_id": "x", "input": NaN}', "JSON has no NaN"),
        (b'{"workflow_id": "x", "input": -Infinity}', "JSON has no -Infinity"),
        (b'{"workflow_id": "x", "input": [1e999]}', "the number 1e999 is too large for a float"),
        (b'{"workflow_id": "x", "input": {"a": 1, "b": 2, "a": 1}}', 'an object has the name "a" twice'),
        (b'{"workflow_id": "x", "workflow_id": "y"}', 'an object has the name "workflow_id" twice'),
        (b'{"workflow_id": "\xff"}', "byte 17 is not UTF-8"),
        (b'{"workflow_id": 1%b}' % (b"0" * 5000), "an integer in it has more than 4,300 digits"),
    ],
)
async def test_invalid_json_is_refused(client: PolosClient, body: bytes, said: str) -> None:
    async with calling(client) as api:
        refused = problem(await api.post(PATH, content=body, headers=JSON), 400, "not-json")
        assert said in refused["detail"]


async def test_a_body_of_too_many_parts_or_levels_is_refused(client: PolosClient) -> None:
    deep, wide, many = b"[" * 50_000, b"[" + b"[]," * 300_000 + b"[]]", b"[" + b"0," * 150_000 + b"0]"
    async with calling(client) as api:
        for value, said in ((deep, "100 levels"), (wide, "100,000 parts"), (many, "100,000 parts")):
            body = b'{"workflow_id": "x", "input": %b}' % value
            refused = problem(await api.post(PATH, content=body, headers=JSON), 413, "too-large")
            assert said in refused["detail"]
        unknown = {f"x{number}": 0 for number in range(50_000)}
        refused = problem(await api.post(PATH, json=unknown), 422, "invalid-request")
        assert "more than 100 members" in refused["detail"]
        refused = problem(
            await api.post(PATH, json={"workflow_id": "x", "y" * 50_000: 1}), 422, "invalid-request"
        )
        assert len(refused["errors"][0]["field"]) < 300


async def test_json_needs_its_content_type(client: PolosClient) -> None:
    async with calling(client) as api:
        body = b'{"workflow_id": "x"}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/xml"):
            problem(await api.post(PATH, content=body, headers={"Content-Type": kind}), 415, "not-json")
        problem(await api.post(PATH, content=body), 415, "not-json")
        problem(await api.post(PATH), 422, "invalid-request")
        named = {"Content-Type": "application/json; charset=utf-8"}
        assert (await api.post(PATH, content=body, headers=named)).status_code == 201


async def test_an_invalid_body_names_its_fields_but_not_its_values(client: PolosClient) -> None:
    async with calling(client) as api:
        answer = await api.post(f"{PATH}/x/resume", json={"step_key": 1, "shown_digest": "secret", "x": 1})
        refused = problem(answer, 422, "invalid-request")
        fields = {one["field"] for one in refused["errors"]}
        assert fields == {"step_key", "data", "shown_digest", "x"}
        assert "secret" not in answer.text
        refused = problem(await api.post(PATH, json=[1]), 422, "invalid-request")
        assert refused["errors"][0]["field"] == ""


@pytest.mark.threat(3)
async def test_a_body_over_the_limit_is_refused_however_it_is_sent(client: PolosClient) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b"x" * 100

    async with calling(client, max_body_bytes=1000) as api:
        said = problem(await api.post(PATH, content=b"x" * 1001, headers=JSON), 413, "too-large")
        assert "1000 bytes" in said["detail"]
        problem(await api.post(PATH, content=chunks(), headers=JSON), 413, "too-large")
        body = b'{"workflow_id": "x"}'
        fits = await api.post(PATH, content=body + b" " * (1000 - len(body)), headers=JSON)
        assert fits.status_code == 201


async def test_any_text_is_returned_unchanged(client: PolosClient) -> None:
    async with calling(client) as api:
        strange = '<script>alert("\u2028")</script> \ud800'
        body = f'{{"step_key": {_ascii(strange)}, "data": 1}}'.encode()
        handle = await client.invoke("api-later")
        answer = await api.post(f"{PATH}/{handle.id}/resume", content=body, headers=JSON)
        assert "<script>" in problem(answer, 404, "suspension-not-found")["detail"]
        problem(await api.get(f"{PATH}/%ff%00%2e"), 404, "execution-not-found")
        await client.cancel(handle.id)


async def test_unknown_paths_and_methods_are_problems_too(client: PolosClient) -> None:
    async with calling(client) as api:
        assert "/api/v1/nothing" in problem(await api.get("/api/v1/nothing"), 404, "")["detail"]
        answer = await api.put(PATH)
        problem(answer, 405, "")
        assert answer.headers["allow"] == "GET, POST"
        problem(await api.get(f"{PATH}/"), 404, "")


@pytest.mark.threat(4)
async def test_every_response_has_security_headers(client: PolosClient) -> None:
    async with calling(client, max_body_bytes=10) as api:
        for method, path, body in (
            ("GET", PATH, b""),
            ("GET", "/nothing", b""),
            ("POST", PATH, b"x" * 11),
            ("GET", "/healthz", b""),
        ):
            headers = (await api.request(method, path, content=body)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "server" not in headers and "strict-transport-security" not in headers


async def test_a_trusted_proxy_names_the_caller(client: PolosClient) -> None:
    async with (
        serving(client, rate_limit="2/hour") as url,
        httpx2.AsyncClient(timeout=60, base_url=url) as api,
    ):

        async def status(address: str) -> int:
            return (await api.get(PATH, headers={"X-Forwarded-For": address})).status_code

        assert [await status("192.0.2.1") for _ in range(3)] == [401, 401, 429]
        assert await status("192.0.2.2") == 401


async def test_behind_tls_browsers_get_hsts(client: PolosClient) -> None:
    async with calling(client) as api:
        answer = await api.get("/healthz", headers={"X-Forwarded-Proto": "https"})
        assert "max-age" in answer.headers["strict-transport-security"]


async def test_an_unexpected_error_is_logged_and_not_shown(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(client: PolosClient, **options: Any) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr("polos_redis.executions.queries.list_executions", broken)
    async with calling(client) as api:
        answer = await api.get(PATH)
        problem(answer, 500, "")
        assert answer.headers["x-frame-options"] == "DENY"
        assert "the inside" not in answer.text
    assert "the inside" in caplog.text


def test_every_refusal_of_a_resume_has_its_status() -> None:
    refusals = {
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ResumeError)
    }
    assert refusals - {ResumeError} <= problems.REFUSALS.keys()


async def test_without_redis_it_is_alive_but_not_ready(chaos_server: ChaosServer, namespace: str) -> None:
    async with (
        PolosClient(chaos_server.url, namespace, patience_seconds=0.3) as client,
        calling(client) as api,
    ):
        handle = await client.invoke("api-later")  # the log may lack it after the kill
        assert (await api.get("/readyz")).json() == {"status": "ready"}
        chaos_server.kill()
        assert (await api.get("/healthz")).status_code == 200
        for answer in await asyncio.gather(
            api.get("/readyz"), api.get(f"{PATH}/{handle.id}"), api.post(f"{PATH}/{handle.id}/cancel")
        ):
            refused = problem(answer, 503, "redis-unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert str(chaos_server.url) not in refused["detail"]
        chaos_server.start()
        await until(lambda: _ready(api))
        again = await client.invoke("api-later")
        assert (await api.get(f"{PATH}/{again.id}")).json()["status"] == "queued"


def test_a_rate_allows_a_burst_and_then_a_steady_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("polos_redis.server.rates.time.monotonic", lambda: now)
    rate = Rate("3 / minutes")
    assert [rate.take("a") for _ in range(3)] == [0, 0, 0]
    assert rate.take("a") == pytest.approx(20)
    assert rate.take("b") == 0
    now += 20
    assert rate.take("a") == 0
    assert rate.take("a") == pytest.approx(20)
    now += 1000
    assert [rate.take("a") > 0 for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("text", ["", "10", "0/minute", "10/fortnight", "-1/minute", "1e3/minute"])
def test_an_invalid_rate_is_refused(text: str) -> None:
    with pytest.raises(PolosError, match="600/minute"):
        Rate(text)


def test_addresses_of_one_customer_count_as_one() -> None:
    assert network_of("192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8:1:2::7") == network_of("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert network_of("2001:db8:1:3::7") != network_of("2001:db8:1:2::7")
    assert network_of("") == ""


def _ascii(text: str) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"'


async def _ready(api: httpx2.AsyncClient) -> bool:
    return (await api.get("/readyz")).status_code == 200
