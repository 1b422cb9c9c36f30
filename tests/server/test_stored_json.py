"""JSON of stored values: made in slices, so that large values do not delay other requests."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from polos_redis import PolosClient, WorkflowContext, tasks, workflow
from polos_redis.server import stored_json
from polos_redis.server.stored_json import StoredJson
from polos_redis.values import codec
from polos_redis.values.plain import readable
from polos_redis.values.preview import LARGE, Stored
from tests.harness.running import Running, working
from tests.harness.serving import calling

TOKEN = f"polos_{'0' * 16}_{'A' * 43}"


def values(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | numbers | st.text() | st.just(TOKEN),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )


finite = st.floats(allow_nan=False, allow_infinity=False)
contents = st.recursive(
    values(finite)
    | values(st.floats(allow_nan=False)).map(lambda value: Stored(codec.encode(value)))
    | st.just(Stored(None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


async def body(content: dict[str, Any]) -> bytes:
    response = StoredJson(content)
    return b"".join([part async for part in response.body_iterator if isinstance(part, bytes)])


def plain(content: Any) -> Any:
    if isinstance(content, Stored):
        return readable(content.data)
    if isinstance(content, dict):
        return {name: plain(one) for name, one in content.items()}
    return [plain(one) for one in content] if isinstance(content, list) else content


@settings(deadline=None)
@given(st.dictionaries(st.text(), contents, max_size=4))
def test_it_is_the_json_of_the_values_without_secrets(content: dict[str, Any]) -> None:
    made = asyncio.run(body(content))
    assert TOKEN.encode() not in made
    assert json.loads(made) == json.loads(json.dumps(plain(content)).replace(TOKEN, "[redacted key]"))


async def test_others_get_their_turn_between_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SLICE_SECONDS", 0.0)
    turns = 0

    async def counting() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(counting())
    try:
        await body({"rows": [Stored(codec.encode(number)) for number in range(200)]})
    finally:
        counter.cancel()
    assert turns >= 200


async def test_large_values_are_decoded_one_by_one_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, bool]] = []

    def recording(data: bytes | None) -> Any:
        decoded.append((len(data or b""), threading.current_thread() is threading.main_thread()))
        return readable(data)

    monkeypatch.setattr(stored_json, "readable", recording)
    large, small = codec.encode(["x" * 100] * 1000), codec.encode("x")
    await body({"rows": [{"data": Stored(large), "answer": Stored(small)} for _ in range(3)]})
    assert decoded == [(len(large), False), (len(small), True)] * 3
    assert len(large) > LARGE > len(small)


@workflow(id="stored-json-shows")
async def shows(ctx: WorkflowContext, input: int) -> None:
    await ctx.step.suspend("look", {f"field {number}": "x" * 400 for number in range(input)})


@pytest.mark.threat(12)
async def test_no_route_decodes_large_values_in_the_event_loop(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = asyncio.get_running_loop()
    decoding = codec.to_plain
    blocked: list[int] = []

    def recording(data: bytes) -> Any:
        try:
            running = asyncio.get_running_loop() is inside
        except RuntimeError:
            running = False
        if running and len(data) >= LARGE:
            blocked.append(len(data))
        return decoding(data)

    async with working(client, shows) as worker, calling(client) as api:
        at = Running(client, worker)
        handles = [await shows.invoke(client, 2000) for _ in range(3)]
        for handle in handles:
            await at.parked(handle)
        known = await client.get_suspension(handles[0].id, "look")
        monkeypatch.setattr("polos_redis.values.plain.to_plain", recording)
        monkeypatch.setattr("polos_redis.values.codec.to_plain", recording)
        rows: list[Any] = []
        cursor = "0"
        while cursor is not None:
            answer = await api.get(f"/api/v1/suspensions?cursor={cursor}")
            page = answer.json()
            rows += page["suspensions"]
            cursor = page["next_cursor"]
            assert len(answer.content) < 2_500_000, "about a megabyte, and one more"
        assert {one["execution_id"] for one in rows} == {handle.id for handle in handles}
        path = f"/api/v1/executions/{handles[0].id}"
        assert (await api.get(f"{path}/suspensions/look")).json() == json.loads(json.dumps(known))
        (one,) = (await api.get(path)).json()["suspensions"]
        assert one["data"] == known["data"]
        async with api.stream("GET", f"{path}/events") as answer:
            async for line in answer.aiter_lines():
                if "suspend_look" in line:
                    break
        assert datetime.fromisoformat(one["opened_at"]).tzinfo == UTC
        assert blocked == []


class Limits(BaseModel):
    approved: bool
    limit: float = Field(math.inf, gt=-math.inf)


@workflow(id="stored-json-infinite")
async def infinite(ctx: WorkflowContext, input: None) -> None:
    await ctx.step.suspend("look", {"limit": math.inf}, schema=Limits)


async def test_a_default_that_json_has_no_number_for(client: PolosClient) -> None:
    async with working(client, infinite) as worker, calling(client) as api:
        handle = await infinite.invoke(client)
        await Running(client, worker).parked(handle)
        path = f"/api/v1/executions/{handle.id}"
        one = (await api.get(f"{path}/suspensions/look")).json()
        assert (await api.get(path)).json()["suspensions"][0]["schema"] == one["schema"]
        assert len((await api.get("/api/v1/suspensions")).json()["suspensions"]) == 1
        assert one["schema"]["properties"]["limit"]["default"] == "Infinity"
