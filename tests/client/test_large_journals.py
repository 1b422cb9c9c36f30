"""Journals and audits of any size are read in pages, and only the newest of their entries are listed."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from polos_redis import PolosClient, Workflow, WorkflowContext
from polos_redis.connection import tails
from polos_redis.events import EventData, publish, stream_topic
from polos_redis.executions import journal_entries
from polos_redis.executions.queries import audit_tail
from polos_redis.state import executions, keys
from polos_redis.values import codec
from polos_redis.values.plain import readable
from tests.harness.running import running, soon

pack = msgpack.Packer(use_bin_type=False).pack


async def _asks(ctx: WorkflowContext, input: None) -> None:
    await ctx.step.suspend("ask", {"amount": 5})


asks: Workflow[Any, Any] = Workflow(_asks, "large-asks")


async def add_steps(client: PolosClient, execution_id: str, count: int, value: Any) -> None:
    """Adds steps to a journal: `step 0` is the oldest; all are newer than its suspension."""
    store = await client.store()
    key = store.partitions.prefix(execution_id) + keys.JOURNAL.encode() + execution_id.encode()
    stored = codec.encode(value)
    for first in range(0, count, 1000):
        fields: list[Any] = []
        for number in range(first, min(count, first + 1000)):
            at = 4_000_000_000_000 + number
            fields += [f"step {number}", pack([1, "step", "ok", 1, 0.5, stored, at])]
        await store.wire.call("HSET", key, *fields)


async def drop_steps(client: PolosClient, execution_id: str, count: int) -> None:
    store = await client.store()
    key = store.partitions.prefix(execution_id) + keys.JOURNAL.encode() + execution_id.encode()
    for first in range(0, count, 1000):
        await store.wire.call("HDEL", key, *(f"step {number}" for number in range(first, first + 1000)))


async def test_the_newest_steps_of_a_long_journal_are_listed(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await at.client.invoke(asks)
        await at.parked(handle)
        total = journal_entries.MOST + 2000
        await add_steps(at.client, handle.id, total, "x")
        found = await at.client.get_execution(handle.id)
        assert [one["step_key"] for one in found["steps"]] == [f"step {n}" for n in range(2000, total)]
        assert found["left_out"] == {"steps": 2000, "suspensions": 0, "waits": 0, "children": 0}
        assert [one["step_key"] for one in found["open_suspensions"]] == ["ask"]
        await drop_steps(at.client, handle.id, total)


async def test_a_journal_is_read_in_pages_of_about_a_megabyte(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await at.client.invoke(asks)
        await at.parked(handle)
        await add_steps(at.client, handle.id, 300, "x" * 20_000)
        store = await at.client.store()
        pages = [page async for page in store.executions.journal_pages(handle.id)]
        sizes = [sum(len(record) for _, record in page) for page in pages]
        assert max(sizes) < executions.BYTES_PER_CALL + 20 * 21_000 and len(pages) >= 4
        assert len({name for page in pages for name, _ in page}) == 302  # with the suspension and the count
        await drop_steps(at.client, handle.id, 300)


async def test_the_values_that_are_listed_are_bounded(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_entries, "MOST_BYTES", 1 << 18)
    async with running(redis_url, namespace, asks) as at:
        handle = await at.client.invoke(asks)
        await at.parked(handle)
        await add_steps(at.client, handle.id, 100, "x" * 20_000)
        found = await at.client.get_execution(handle.id)
        listed = [one["step_key"] for one in found["steps"]]
        assert listed == [f"step {number}" for number in range(100 - len(listed), 100)]
        assert (len(listed), found["left_out"]["steps"]) == (13, 87)
        await drop_steps(at.client, handle.id, 100)


async def test_the_end_of_a_long_audit(client: PolosClient) -> None:
    store, root = await client.store(), "a" * 32
    key = store.partitions.prefix(root) + keys.AUDIT.encode() + root.encode()
    entries = [
        pack(
            [
                1,
                root,
                f"ask {n}",
                "large-asks",
                "answered",
                n,
                "ann",
                "page",
                b"",
                1,
                codec.encode("x" * 200_000),
            ]
        )
        for n in range(30)
    ]
    await store.wire.call("RPUSH", key, *entries)
    total, some = await store.suspensions.audit(root, 3, 20)
    assert total == 30 and some == entries[3:9], "about a megabyte"
    assert (await store.suspensions.audit(root, 30, 20)) == (30, [])
    found, left_out = await audit_tail(client, root, 8, readable)
    assert [one["step_key"] for one in found] == [f"ask {n}" for n in range(22, 30)] and left_out == 22
    found, left_out = await audit_tail(client, root, 100, readable)
    assert len(found) == 30 and left_out == 0
    assert len(await client.audit(root)) == 30
    await store.wire.call("DEL", key)


async def test_large_events_are_read_a_few_at_a_time(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    following = tails._next_batch

    def recording(batch: int, found: Any) -> int:
        sizes.append(sum(len(part) for _, entries in found for _, flat in entries for part in flat))
        return following(batch, found)

    monkeypatch.setattr(tails, "_next_batch", recording)
    for number in range(12):
        await publish(client, "large", EventData("e", [number, "x" * 900_000]))
    got: list[int] = []

    async def read() -> None:
        async for event in stream_topic(client, "large"):
            got.append(event.data[0])
            if len(got) == 12:
                return

    await soon(read())
    assert got == list(range(12))
    assert max(sizes) <= tails.LEAST_BATCH * 901_000
