"""`polos workers` and `polos queues`, on real worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polos_redis import PolosClient, __version__
from polos_redis.state import keys
from tests.harness.command import Command
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import gated, in_queue
from tests.harness.running import until


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


async def test_without_workers_it_says_so(polos: Command) -> None:
    shown = await polos("workers")
    assert (shown.code, shown.out, shown.err) == (0, "", "no workers\n")
    assert (await polos("workers", "--json")).json == []


async def test_a_worker_says_where_it_runs_and_what_it_has_done(
    polos: Command, client: PolosClient, fleet: Fleet
) -> None:
    worker = await fleet.start(lease_seconds=1.0, concurrency=7, knows="gated")
    fleet.open("open")
    done = await client.invoke(gated, {"gate": "open"})
    await done.result()
    held = await client.invoke(gated, {"gate": "go"})
    await fleet.seen(held.id, "two")

    async def told() -> dict[str, Any] | None:
        (one,) = (await polos("workers", "--json")).json
        return dict(one) if one["steps"] == 4 else None

    one = await until(told, "a renewal after the last step")
    assert one == {
        "id": one["id"],
        "status": "alive",
        "executions": 1,
        "lease_seconds": 1.0,
        "queues": ["default"],
        "workflows": ["gated"],
        "host": one["host"],
        "pid": worker.pid,
        "version": __version__,
        "up_seconds": one["up_seconds"],
        "concurrency": 7,
        "activations": 2,
        "ended": 1,
        "failed": 0,
        "steps": 4,
        "abandoned": 0,
        "abandoned_steps": [],
        "blocked": None,
    }
    assert one["host"] and one["up_seconds"] > 0
    shown = await polos("workers")
    titles = shown.out.partition("\n")[0]
    assert titles.split() == ["ID", "STATUS", "UP", "BUSY", "VERSION", "QUEUES", "WORKFLOWS"]
    assert f"{one['id']}  alive" in shown.out and "1 of 7" in shown.out
    fleet.open("go")
    await held.result()


async def test_a_dead_worker_is_silent_and_what_is_left_of_one_is_gone(
    polos: Command, client: PolosClient, fleet: Fleet
) -> None:
    worker = await fleet.start(lease_seconds=1.0, concurrency=1)
    held = await client.invoke(gated, {"gate": "never"})
    await fleet.seen(held.id, "two")
    assert [one["status"] for one in (await polos("workers", "--json")).json] == ["alive"]
    worker.kill()
    store = await client.store()
    queue = store.prefixes[0] + keys.QUEUE.encode() + b"default"
    await store.wire.call("XGROUP", "CREATECONSUMER", queue, keys.GROUP, "left")

    async def silent() -> list[dict[str, Any]]:
        found = (await polos("workers", "--json")).json
        return found if "silent" in {one["status"] for one in found} else []

    by_pid = {one["pid"]: one for one in await until(silent, "its last read to be a lease ago")}
    assert by_pid[worker.pid]["executions"] == 1
    assert by_pid[None]["status"] == "gone" and by_pid[None]["id"] == "left"
    assert by_pid[None]["queues"] == ["default"] and by_pid[None]["lease_seconds"] is None
    shown = await polos("workers")
    assert "left  " in shown.out and "gone" in shown.out
    dead = next(line for line in shown.out.splitlines() if line.startswith(by_pid[worker.pid]["id"]))
    assert dead.split()[1:3] == ["silent", "-"]
    await client.cancel(held.id)


async def test_queues_say_what_waits_and_who_reads_them(
    polos: Command, client: PolosClient, fleet: Fleet
) -> None:
    waiting = [await client.invoke("nobody-serves-this", {"x": 1}) for _ in range(2)]
    (one,) = (await polos("queues", "--json")).json
    assert one == {
        "name": "default",
        "waiting": 2,
        "oldest_seconds": one["oldest_seconds"],
        "delivered": 0,
        "limit": None,
        "slots": 0,
        "waiters": 0,
        "workers": 0,
    }
    assert one["oldest_seconds"] > 0
    for handle in waiting:
        await client.cancel(handle.id)
    await fleet.start(lease_seconds=1.0, knows="gated,in_queue")
    held = await client.invoke(gated, {"gate": "go"})
    await fleet.seen(held.id, "two")
    default, limited = (await polos("queues", "--json")).json
    assert (default["waiting"], default["oldest_seconds"], default["delivered"]) == (0, 0, 1)
    assert (limited["name"], limited["limit"], limited["workers"]) == (in_queue.queue.name, 3, 1)
    shown = await polos("queues")
    titles = shown.out.partition("\n")[0]
    assert titles.split()[:6] == ["QUEUE", "WAITING", "OLDEST", "RUNNING", "LIMIT", "AT"]
    assert "0 of 3" in shown.out
    fleet.open("go")
    await held.result()
