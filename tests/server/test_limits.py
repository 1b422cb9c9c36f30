"""Limits of the server: callers that stall, flood or guess cost little, and nobody else notices."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import APIRoute

from polos_redis import EventData, PolosClient, WorkflowContext, apikeys, events, workflow
from polos_redis.server import bodies, health, listening, site
from polos_redis.server.app import create_app
from polos_redis.server.rates import SharedRate
from tests.harness.command import POLOS
from tests.harness.running import Running, until, working
from tests.harness.serving import calling, key, problem, serving

PATH = "/api/v1/executions"
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
STALLED = 300
SIZE = 2_000_000  # bytes of a body; the server accepts a little more


class Socket:
    """A connection that sends what it is told to, and no more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str, sent: bytes = b"") -> Socket:
        host, port = url.removeprefix("http://").split(":")
        self = cls(*await asyncio.open_connection(host, int(port)))
        self._writer.write(sent)
        return self

    async def send(self, sent: bytes) -> None:
        """Send more, as far as the server reads it."""
        self._writer.write(sent)
        await self._writer.drain()

    async def status(self) -> int:
        """The status of the response."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 60)
        return int(head.split()[1])

    async def closed(self) -> bool:
        """Whether the server closes the connection, and sends no more before."""
        try:
            return await asyncio.wait_for(self._reader.read(), 60) == b""
        except ConnectionError:
            return True
        finally:
            self.close()

    def close(self) -> None:
        self._writer.close()


def head(length: int = SIZE, **headers: str) -> bytes:
    """The head of a request that starts an execution."""
    fields = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(length), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode()


async def commands(client: PolosClient) -> Counter[str]:
    """How often each command was called so far, of those that scripts and clients send."""
    store = await client.store()
    stats = (await store.wire.call("INFO", "commandstats")).decode()
    return Counter({name: int(calls) for name, calls in re.findall(r"cmdstat_(\w+):calls=(\d+)", stats)})


# --- bodies -----------------------------------------------------------------------------


@pytest.mark.threat(3)
async def test_a_caller_is_refused_before_their_body_is_read(client: PolosClient) -> None:
    async with serving(client) as url:
        stalled = await asyncio.gather(*(Socket.open(url, head()) for _ in range(15)))
        assert await asyncio.gather(*(one.status() for one in stalled)) == [401] * 15
        for one in stalled:
            one.close()


@pytest.mark.threat(3)
async def test_a_body_that_stalls_is_refused(client: PolosClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.2)
    async with serving(client) as url:
        mine = await key(client, "invoke")
        for sent in (b"", b"{"):
            stalled = await Socket.open(url, head(**mine) + sent)
            assert await stalled.status() == 408
            stalled.close()
        async with httpx2.AsyncClient(timeout=60, base_url=url) as api:
            assert (await api.post(PATH, json={"workflow_id": "limits"}, headers=mine)).status_code == 201


async def test_what_is_held_of_bodies_is_limited_for_each_caller(client: PolosClient) -> None:
    async with serving(client) as url, httpx2.AsyncClient(timeout=60, base_url=url) as api:
        mine, yours = await key(client, "invoke"), await key(client, "invoke")
        held = [await Socket.open(url, head(**mine)) for _ in range(2 * bodies.MOST_BODIES)]
        sending = [asyncio.ensure_future(one.send(b" " * (SIZE - 1))) for one in held]
        refused = [asyncio.ensure_future(one.status()) for one in held]
        await until(lambda: any(one.done() for one in refused))
        assert {one.result() for one in refused if one.done()} == {429}
        assert (await api.post(PATH, json={"workflow_id": "limits"}, headers=yours)).status_code == 201
        for one in held:
            one.close()
        await asyncio.gather(*sending, *refused, return_exceptions=True)

        async def accepted() -> bool:
            return (await api.post(PATH, json={"workflow_id": "limits"}, headers=mine)).status_code == 201

        await until(accepted)


@pytest.mark.threat(3)
async def test_stalled_bodies_hold_little_memory_and_harm_nobody(
    client: PolosClient, redis_url: str, namespace: str
) -> None:
    server = await asyncio.create_subprocess_exec(
        *(POLOS, "serve", "--port", "0", "--url", redis_url, "--namespace", namespace),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stderr is not None
        while b"server ready" not in (line := await asyncio.wait_for(server.stderr.readline(), 60)):
            assert line
        reading = asyncio.ensure_future(server.stderr.read())
        found = re.search(rb"http://127\.0\.0\.1:\d+", line)
        assert found is not None
        url = found[0].decode()

        def memory() -> int:
            status = Path(f"/proc/{server.pid}/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) * 1024

        keys = [await key(client, "invoke", name=f"caller-{number}") for number in range(20)]
        async with httpx2.AsyncClient(base_url=url, timeout=60) as api:
            others = await key(client, "invoke")
            assert (await api.post(PATH, json={"workflow_id": "limits"}, headers=others)).status_code == 201
            before = memory()
            stalled = [await Socket.open(url, head(**keys[number % 20])) for number in range(STALLED)]
            sending = [asyncio.ensure_future(one.send(b" " * (SIZE - 1))) for one in stalled]
            statuses = [asyncio.ensure_future(one.status()) for one in stalled]
            await until(lambda: any(one.done() for one in statuses))
            for _ in range(20):
                assert (await api.get("/healthz")).status_code == 200
                sent = await api.post(PATH, json={"workflow_id": "limits"}, headers=others)
                assert sent.status_code == 201
            ended = await asyncio.gather(*statuses, return_exceptions=True)
            assert {one for one in ended if isinstance(one, int)} <= {408, 429, 503}
            assert memory() - before < 150_000_000
            for one in stalled:
                one.close()
            await asyncio.gather(*sending, return_exceptions=True)
    finally:
        server.terminate()
        await server.wait()
    await reading


# --- heads ------------------------------------------------------------------------------


@pytest.mark.threat(3)
async def test_a_connection_without_a_request_is_closed(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "HEAD_SECONDS", 0.2)
    async with serving(client) as url:
        for sent in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"):
            assert await (await Socket.open(url, sent)).closed()
        used = await Socket.open(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await used.status() == 200
        await used.send(b"GET /healthz HTTP/1.1\r\n")
        await used._reader.readexactly(len(b'{"status":"ok"}'))
        assert await used.closed()


async def test_an_open_stream_is_not_closed(client: PolosClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEAD_SECONDS", 0.05)
    async with serving(client, insecure_dev=True) as url:
        host = url.removeprefix("http://")
        stream = await Socket.open(
            url, f"GET /api/v1/topics/t/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        )
        assert await stream.status() == 200
        idle = await Socket.open(url)
        assert await idle.closed()
        await events.publish(client, "t", EventData("news", 42))
        await asyncio.wait_for(stream._reader.readuntil(b'"data": 42'), 60)
        stream.close()


@pytest.mark.threat(3)
async def test_a_broken_body_logs_no_error(client: PolosClient, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    sent = {
        "a caller that leaves": head + b"Content-Length: 50\r\n\r\n",
        "no chunk": head + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
        "an endless chunk head": head + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200_000,
        "no request after one": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\nno request\r\n\r\n",
    }
    async with serving(client) as url, httpx2.AsyncClient(timeout=60, base_url=url) as api:
        for one in sent.values():
            leaving = await Socket.open(url, one)
            await leaving.send(b"")
            leaving.close()
        assert (await api.get("/healthz")).status_code == 200
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


async def test_a_response_does_not_wait_for_acknowledgements(client: PolosClient) -> None:
    listening_at = listening.listen("127.0.0.1", 0)
    server = listening.Listener(create_app(client))
    run = asyncio.create_task(server.serve([listening_at]))
    try:
        used = await Socket.open(f"http://127.0.0.1:{listening_at.getsockname()[1]}", HEALTHZ)
        assert await used.status() == 200
        (connection,) = server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        used.close()
    finally:
        server.stop()
        await run


# --- look-ups ---------------------------------------------------------------------------


@pytest.mark.threat(1)
async def test_guesses_cause_few_look_ups(client: PolosClient) -> None:
    async with serving(client) as url, httpx2.AsyncClient(timeout=60, base_url=url) as api:
        known = await key(client, "read")
        assert (await api.get(PATH, headers=known)).status_code == 200
        before, started = await commands(client), time.monotonic()

        def took_seconds() -> float:
            return time.monotonic() - started

        seen = Counter[int]()
        for number in range(200):
            wrong = {"Authorization": f"Bearer polos_{number:016}_guess"}
            seen[(await api.get(PATH, headers=wrong)).status_code] += 1
        assert seen[401] <= 20 + 1 + took_seconds() / 3 and seen[401] + seen[429] == 200
        took = await commands(client) - before
        assert took["hget"] <= seen[401] + 1 + took_seconds()  # one a second beyond the limit
        assert (await api.get(PATH, headers=known)).status_code == 200


@pytest.mark.threat(1)
async def test_a_refused_key_is_not_looked_up_again(client: PolosClient) -> None:
    async with serving(client) as url, httpx2.AsyncClient(timeout=60, base_url=url) as api:
        wrong = {"Authorization": "Bearer polos_0000000000000000_guess"}
        before = await commands(client)
        assert [(await api.get(PATH, headers=wrong)).status_code for _ in range(10)] == [401] * 10
        assert (await commands(client) - before)["hget"] == 1


async def test_a_caller_over_the_limit_causes_no_look_ups(client: PolosClient) -> None:
    async with (
        serving(client, rate_limit="5/hour") as url,
        httpx2.AsyncClient(timeout=60, base_url=url) as api,
    ):
        mine = await key(client, "read")
        assert [(await api.get("/api/v1/suspensions", headers=mine)).status_code for _ in range(5)] == [
            200
        ] * 5
        problem(await api.get("/api/v1/suspensions", headers=mine), 429, "too-many-requests")
        before = await commands(client)
        for _ in range(50):
            refused = await api.get("/api/v1/suspensions", headers=mine)
            problem(refused, 429, "too-many-requests")
            assert int(refused.headers["retry-after"]) > 600
        assert (await commands(client) - before).total() <= 2  # the commands that read the counts


@pytest.mark.threat(5)
async def test_a_revoked_key_is_refused_at_once(client: PolosClient) -> None:
    async with serving(client) as url, httpx2.AsyncClient(timeout=60, base_url=url) as api:
        made, secret = await apikeys.create(client, "ann", ["read"])
        mine = {"Authorization": f"Bearer {secret}"}
        assert (await api.get(PATH, headers=mine)).status_code == 200
        await apikeys.revoke(client, made.id)
        assert (await api.get(PATH, headers=mine)).status_code == 401


# --- rates ------------------------------------------------------------------------------


@pytest.mark.threat(3)
async def test_every_route_has_a_rate_for_an_address_without_a_key(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polos_redis.server.site.PROBE_RATE", "3/hour")
    routes = {
        (method, re.sub(r"{[^}]*}", "x", route.path))
        for included in create_app(client).routes
        for route in getattr(getattr(included, "original_router", None), "routes", [included])
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    } | {("GET", "/nothing"), ("PUT", "/login")}
    assert len(routes) > 30
    async with (
        serving(client, rate_limit="3/hour") as url,
        httpx2.AsyncClient(timeout=60, base_url=url) as api,
    ):
        for method, path in sorted(routes):
            seen = [(await api.request(method, path)).status_code for _ in range(5)]
            assert seen[-1] == 429, (method, path, seen)


@pytest.mark.threat(3)
async def test_other_public_requests_do_not_count_against_a_probe(client: PolosClient) -> None:
    async with (
        serving(client, rate_limit="3/hour") as url,
        httpx2.AsyncClient(timeout=60, base_url=url) as api,
    ):
        for _ in range(5):
            refused = await api.get("/openapi.json")
        problem(refused, 429, "too-many-requests")
        assert int(refused.headers["retry-after"]) > 600
        assert "Too many requests" in (await api.get("/login")).text
        for path in ("/healthz", "/readyz"):
            assert [(await api.get(path)).status_code for _ in range(5)] == [200] * 5


@pytest.mark.threat(3)
@pytest.mark.parametrize(("limit", "sent"), [("10/hour", 20), ("100/hour", 150)])
async def test_servers_count_a_caller_together(limit: str, sent: int, client: PolosClient) -> None:
    async with (
        serving(client, rate_limit=limit) as one,
        serving(client, rate_limit=limit) as two,
        httpx2.AsyncClient(timeout=60) as api,
    ):
        mine = await key(client, "read")
        most = int(limit.partition("/")[0])
        seen = Counter[int]()
        for number in range(sent):
            url = (one, two)[number % 2]
            seen[(await api.get(f"{url}/api/v1/suspensions", headers=mine)).status_code] += 1
        assert most - most // 20 <= seen[200] <= most and seen[200] + seen[429] == sent


async def test_calls_at_once_share_what_is_taken(client: PolosClient) -> None:
    async with (
        serving(client, rate_limit="400/hour") as url,
        httpx2.AsyncClient(timeout=60, base_url=url) as api,
    ):
        mine = await key(client, "read")
        answers = await asyncio.gather(*(api.get("/api/v1/suspensions", headers=mine) for _ in range(100)))
        assert {answer.status_code for answer in answers} == {200}


@pytest.mark.threat(3)
@pytest.mark.timeout(60)  # a loop without end would block the event loop
async def test_calls_right_after_an_answer_ask_again(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = SharedRate(client, "requests", "10/hour")  # one at a time
    ask, calls = rate._ask, [asyncio.ensure_future(rate.take("me"))]

    async def ask_and_be_called(caller: str) -> tuple[bool, float]:
        answer = await ask(caller)
        if len(calls) == 1:  # these run before anybody learns of the answer
            calls.extend(asyncio.ensure_future(rate.take(caller)) for _ in range(3))
        return answer

    monkeypatch.setattr(rate, "_ask", ask_and_be_called)
    assert await calls[0] == 0
    assert await asyncio.gather(*calls) == [0] * 4


# --- streams and checks -----------------------------------------------------------------


@pytest.mark.threat(3)
async def test_the_streams_of_a_caller_are_limited(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "STREAMS", (2, 3))
    async with serving(client) as url, httpx2.AsyncClient(timeout=60, base_url=url) as api:
        mine, yours = await key(client, "read"), await key(client, "read")
        topic = "/api/v1/topics/t/events"

        async def opened(headers: dict[str, str]) -> httpx2.Response:
            return await api.send(api.build_request("GET", topic, headers=headers), stream=True)

        first, _, third = [await opened(one) for one in (mine, mine, yours)]
        assert (first.status_code, third.status_code) == (200, 200)
        refused = await api.get(topic, headers=mine)
        assert (
            "2 event streams are in use by this caller"
            in problem(refused, 429, "too-many-requests")["detail"]
        )
        refused = await api.get(topic, headers=yours)
        assert "3 event streams are in use" in problem(refused, 503, "busy")["detail"]
        assert refused.headers["retry-after"] == "1"
        await first.aclose()

        async def free() -> bool:
            again = await opened(yours)
            if again.status_code != 200:
                await again.aclose()
            return again.status_code == 200

        await until(free)


@pytest.mark.threat(3)
async def test_a_flood_of_checks_costs_few(client: PolosClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "READY_TIMEOUT_SECONDS", 60.0)  # it is busy with them
    async with serving(client) as url, httpx2.AsyncClient(base_url=url, timeout=60) as api:
        assert (await api.get("/readyz")).status_code == 200
        before = await commands(client)
        answers = await asyncio.gather(*(api.get("/readyz") for _ in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert (await commands(client) - before)["ping"] <= 60  # ten a second, on the slowest machine


# --- pages ------------------------------------------------------------------------------


@workflow(id="limits-asks")
async def asks(ctx: WorkflowContext, input: int) -> None:
    await asyncio.gather(*(ctx.step.suspend(f"ask {number}") for number in range(input)))


async def test_the_audit_comes_in_pages_of_about_a_megabyte(client: PolosClient) -> None:
    async with working(client, asks) as worker, calling(client) as api:
        at = Running(client, worker)
        handle = await asks.invoke(client, 5)
        await at.parked(handle)
        for number in range(5):
            await client.resume(
                suspend_execution_id=handle.id, suspend_step_key=f"ask {number}", data="x" * 400_000
            )
        await at.result(handle)
        pages, cursor = [], "0"
        while cursor is not None:
            path = f"{PATH}/{handle.id}/audit?cursor={cursor}"
            page = (await api.get(path)).json()
            pages.append([one["step_key"] for one in page["audit"]])
            cursor = page["next_cursor"]
        assert [len(page) for page in pages] == [3, 2]
        assert sorted(one for page in pages for one in page) == [f"ask {number}" for number in range(5)]
        assert len(await client.audit(handle.id)) == 5
        first = (await api.get(f"{PATH}/{handle.id}/audit?limit=2")).json()
        assert (len(first["audit"]), first["next_cursor"]) == (2, "2")
