"""Events over HTTP: server-sent events of executions and topics."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from polos_redis import EventData, PolosClient, WorkflowContext, apikeys, events, workflow
from polos_redis.links import Links
from polos_redis.server import streams
from tests.harness.running import soon, until, working
from tests.harness.serving import calling, key, problem, serving

READERS = 1000


@workflow(id="api-steps")
async def takes_steps(ctx: WorkflowContext, input: int) -> int:
    for n in range(input):
        await ctx.step.run(f"step {n}\nof two lines", abs, n)
    await ctx.step.suspend("go")
    return input


class Reader:
    """A stream that is being read."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, Any]:
        """Returns the next message's data, with its id as "last"."""
        found: dict[str, Any] = {}
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                found["last"] = value
            elif name == "data":
                found |= json.loads(value)
            elif not line and "last" in found:
                return found
        raise EOFError

    async def rest(self) -> list[dict[str, Any]]:
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(await soon(self.next()))
        return found


@contextlib.asynccontextmanager
async def reading(api: httpx2.AsyncClient, path: str, **headers: str) -> AsyncIterator[Reader]:
    async with api.stream("GET", f"/api/v1/{path}/events", headers=headers, timeout=30) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Reader(answer)


@pytest.mark.also_on_cluster
async def test_an_executions_events_arrive_live_until_its_end(client: PolosClient) -> None:
    async with calling(client) as api, working(client, takes_steps):
        handle = await client.invoke(takes_steps, 2)
        async with reading(api, f"executions/{handle.id}") as reader:
            seen: list[dict[str, Any]] = []
            while not seen or seen[-1]["event_type"] != "suspend_go":
                seen.append(await soon(reader.next()))
            body = {"step_key": "go", "data": 1}
            await api.post(f"/api/v1/executions/{handle.id}/resume", json=body)
            seen += await reader.rest()
        mine = [event async for event in events.stream_workflow(client, "api-told", handle.id, plain=True)]
        assert [(one["id"], one["event_type"], one["data"]) for one in seen] == [
            (one.id, one.event_type, one.data) for one in mine
        ]
        assert seen[0]["event_type"] == "workflow_start"
        assert seen[-1]["event_type"] == "workflow_finish"
        assert "step 1\nof two lines" in {one["data"].get("step_key") for one in seen}
        assert all(one["last"] == one["id"] for one in seen)


async def test_a_reader_continues_where_it_stopped(client: PolosClient) -> None:
    async with calling(client) as api, working(client, takes_steps):
        handle = await client.invoke(takes_steps, 3)
        path = f"executions/{handle.id}"
        async with reading(api, path) as reader:
            seen = [await soon(reader.next()) for _ in range(3)]
        body = {"step_key": "go", "data": 1}
        while (await api.post(f"/api/v1/{path}/resume", json=body)).status_code != 200:
            pass
        while True:
            async with reading(api, path, **{"Last-Event-ID": seen[-1]["last"]}) as reader:
                seen.append(await soon(reader.next()))
            if seen[-1]["event_type"] == "workflow_finish":
                break
        async with reading(api, path) as reader:
            assert await reader.rest() == seen
        # a browser that reconnects after the end is told not to return
        headers = {"Last-Event-ID": seen[-1]["last"]}
        assert (await api.get(f"/api/v1/{path}/events", headers=headers)).status_code == 204
        after = await api.get(f"/api/v1/{path}/events", params={"after": seen[-1]["last"]})
        assert after.status_code == 204


async def test_a_topic_is_read_from_its_start(client: PolosClient) -> None:
    async with calling(client) as api:
        await events.publish(client, "prices/of the day/events", EventData("price", {"n": 0}))
        async with reading(api, "topics/prices%2Fof%20the%20day/events") as reader:
            assert (await soon(reader.next()))["data"] == {"n": 0}
            await events.publish(client, "prices/of the day/events", EventData("price", {"n": 1}))
            second = await soon(reader.next())
            assert (second["data"], second["topic"]) == ({"n": 1}, "prices/of the day/events")


async def test_an_unreadable_stream_is_a_problem(client: PolosClient) -> None:
    async with calling(client) as api:
        path = "/api/v1/executions/nothing/events"
        problem(await api.get(path), 404, "execution-not-found")
        path = "/api/v1/topics/prices/events"
        for odd in ("next", "9" * 20, f"1-{'9' * 20}"):  # beyond Redis's largest id
            problem(await api.get(path, headers={"Last-Event-ID": odd}), 422, "invalid-request")
        problem(await api.get(path, headers={"Last-Event-ID": "1-1.0"}), 410, "events-trimmed")


async def test_a_quiet_stream_sends_heartbeats(client: PolosClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    async with calling(client) as api, api.stream("GET", "/api/v1/topics/quiet/events") as answer:
        lines = answer.aiter_lines()
        while await soon(anext(lines)) != ":":
            pass


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
async def test_a_stream_ends_when_its_key_is_revoked(
    busy: bool, client: PolosClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)

    async def publishing() -> None:
        while True:
            await events.publish(client, "prices", EventData("price", {"n": 1}))

    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(
            httpx2.AsyncClient(timeout=60, base_url=await stack.enter_async_context(serving(client)))
        )
        headers = {name: await key(client, "read", name=name) for name in ("ann", "bob")}
        anns, bobs = [
            (
                await stack.enter_async_context(
                    api.stream("GET", "/api/v1/topics/prices/events", headers=headers[name])
                )
            ).aiter_lines()
            for name in ("ann", "bob")
        ]
        if busy:
            publisher = asyncio.create_task(publishing())
            stack.callback(publisher.cancel)
        await _heartbeats(anns)
        await _heartbeats(bobs)  # a valid key survives several checks
        await apikeys.revoke(client, "bob")
        await soon(_end(bobs))
        await _heartbeats(anns)
        refused = await api.get("/api/v1/topics/prices/events", headers=headers["bob"])
        problem(refused, 401, "unauthorized")


async def _heartbeats(lines: AsyncIterator[str]) -> None:
    for _ in range(3):
        while await soon(anext(lines)) != ":":
            pass


async def _end(lines: AsyncIterator[str]) -> None:
    async for _ in lines:
        pass


async def test_stopping_the_server_ends_open_streams(client: PolosClient) -> None:
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(httpx2.AsyncClient(timeout=60))
        async with serving(client, insecure_dev=True) as url:
            answer = await stack.enter_async_context(api.stream("GET", f"{url}/api/v1/topics/quiet/events"))
            assert answer.status_code == 200
        assert "retry" in (await answer.aread()).decode()  # it ended properly


async def test_a_leaving_readers_tasks_end(client: PolosClient) -> None:
    def followed() -> int:
        return sum(
            "Event.wait" in str(task.get_coro()) for task in asyncio.all_tasks()
        )  # the tasks that wait for the server's stop

    async with calling(client) as api:
        async with reading(api, "topics/quiet"), reading(api, "topics/quiet"):
            await until(lambda: followed() == 2)
        await until(lambda: followed() == 0)


@pytest.mark.threat(14)
async def test_tokens_are_only_for_approvers(client: PolosClient) -> None:
    links = Links(["a secret of more than 32 characters"], "x", "https://polos.example.com", 3600)
    url = links.url("x", "y", 1, datetime.now(UTC))
    page = url.partition("?")[0]
    _, secret = await apikeys.create(client, "ann", ["approve"])
    async with serving(client) as server, httpx2.AsyncClient(timeout=60, base_url=server) as api:
        data = {"in": [{"_approval_url": url, "note": f"see {url}", "key": secret}]}
        await events.publish(client, "links", EventData("suspend", data))
        for scope, shown in (("read", page), ("approve", url), ("admin", url)):
            headers = await key(client, "read", scope)
            async with reading(api, "topics/links", **headers) as reader:
                found = (await soon(reader.next()))["data"]["in"]
            assert found == [{"_approval_url": shown, "note": f"see {page}", "key": "[redacted key]"}]


async def test_a_thousand_readers_share_a_few_connections(client: PolosClient) -> None:
    async with serving(client, insecure_dev=True, rate_limit="100000/minute") as url:
        host, port = url.removeprefix("http://").split(":")
        request = f"GET /api/v1/topics/busy/events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()

        async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            await reader.readuntil(b"retry:")
            return reader, writer

        connections = []
        for _ in range(READERS // 100):  # never more at once than the backlog holds
            connections += await asyncio.gather(*(opened() for _ in range(100)))
        await events.publish(client, "busy", EventData("news", {"number": 42}))
        received = await soon(
            asyncio.gather(*(reader.readuntil(b'"number": 42') for reader, _ in connections))
        )
        assert len(received) == READERS
        store = await client.store()
        counts = []
        for node in await store.wire.nodes():
            rows = (await node.call("CLIENT", "LIST")).splitlines()
            counts.append(sum(b" name=polos-" in row for row in rows))
        assert 1 <= max(counts) <= 5
        for _, writer in connections:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in connections), return_exceptions=True)
