"""A master watched by sentinels: found through them, and found again after a failover."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from polos_redis import PolosClient, RedisUnavailableError
from polos_redis.errors import RedisRefusedError
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import approval, chain, gated
from tests.harness.running import soon, until
from tests.harness.sentinel import PASSWORD, SERVICE, Watched
from tests.invariants.state_invariants import check


@pytest.fixture
def watched(binary: Path, tmp_path: Path, namespace: str) -> Iterator[Watched]:
    with Watched(tmp_path / "watched", binary) as watched:
        yield watched
        check(f"redis://:{PASSWORD}@127.0.0.1:{watched.master_port()}", namespace)


@pytest.mark.failure(18)
async def test_executions_continue_after_a_failover(watched: Watched, namespace: str, tmp_path: Path) -> None:
    with Fleet(watched.url, namespace, tmp_path) as fleet:
        async with PolosClient(watched.url, namespace) as client:
            workers = [await fleet.start(lease_seconds=6) for _ in range(2)]
            running = await gated.invoke(client, {"gate": "go"})
            waiting = await approval.invoke(client, None)
            results = [asyncio.create_task(handle.result(timeout=60)) for handle in (running, waiting)]
            await fleet.seen(running.id, "two")

            async def parked() -> bool:
                return await waiting.status() == "waiting"

            await until(parked)
            await asyncio.to_thread(watched.replicated)
            before = watched.master_port()
            await asyncio.to_thread(watched.fail_over)
            fleet.open("go")
            await client.resume(suspend_execution_id=waiting.id, suspend_step_key="ok", data="yes")
            assert (await asyncio.gather(*results))[1] == "yes"
            assert fleet.counts()[running.id] == {"one": 1, "two": 1, "two-through": 1, "three": 1}
            handle = await chain.invoke(client, {"steps": 3})
            assert await handle.result(timeout=20) == [0, 1, 2]
            store = await client.store()
            assert store.wire.address == f"127.0.0.1:{watched.master_port()}" != f"127.0.0.1:{before}"
            assert all(worker.running for worker in workers)


async def test_an_error_reports_what_the_sentinels_do_not_know(watched: Watched, namespace: str) -> None:
    unknown = watched.url.replace(SERVICE, "nothing")
    async with PolosClient(unknown, namespace, patience_seconds=0.2) as client:
        with pytest.raises(RedisUnavailableError, match="knows no service 'nothing'"):
            await client.list_executions()
    async with PolosClient(
        f"redis+sentinel://:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/{SERVICE}", namespace, patience_seconds=0.2
    ) as client:
        with pytest.raises(RedisUnavailableError, match=r"127\.0\.0\.1:1 .*127\.0\.0\.1:2 ") as caught:
            await client.list_executions()
        assert PASSWORD not in str(caught.value)


async def test_sentinels_that_all_refuse_are_a_refusal(watched: Watched, namespace: str) -> None:
    """Repeating the call would not help, so a worker does not wait for them."""
    refusing = f"{watched.url}?sentinel_username=nobody&sentinel_password=wrong"
    async with PolosClient(refusing, namespace) as client:
        with pytest.raises(RedisRefusedError, match=r"no sentinel knows the master: .*WRONGPASS"):
            await soon(client.list_executions())


async def test_an_unavailable_sentinel_is_skipped(watched: Watched, namespace: str) -> None:
    url = watched.url.replace("@", "@127.0.0.1:1,")
    async with PolosClient(url, namespace) as client:
        assert not await client.list_executions()
