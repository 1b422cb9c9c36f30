"""A worker's checks of its server's settings, and the rights it needs there."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from polos_redis import ConfigurationError, PolosClient, Worker, events
from polos_redis.errors import PolosError
from polos_redis.state.store import Store
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import approval, gated
from tests.harness.running import soon, until
from tests.harness.servers import ChaosServer

# Everything that clients and workers need. Without CONFIG and INFO a worker warns that it could not check the
# server; without CLIENT ID and UNBLOCK a second event reader may wait for two seconds.
MINIMAL = (
    *("~polos:*", "&polos:*", "-@all"),
    *("+ping", "+select", "+eval", "+evalsha"),
    *("+@read", "+@write", "+@stream", "+time", "+ssubscribe", "+spublish", "-@dangerous"),
)


async def user(store: Store, *rules: str) -> None:
    await store.wire.call("ACL", "SETUSER", "app", "reset", "on", ">secret", *rules)


def url_of(server: ChaosServer, name: str = "app", password: str = "secret") -> str:
    return server.url.replace("unix://", f"unix://{name}:{password}@")


def worker_on(client: PolosClient) -> Worker:
    return Worker(client, [gated], handle_signals=False, lease_seconds=2)


@pytest.mark.failure(15, 22)
async def test_a_user_limited_to_our_keys_can_run_everything(
    chaos_server: ChaosServer, namespace: str, tmp_path: Path
) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin:
        await user(await admin.store(), *MINIMAL)
    limited = url_of(chaos_server)
    with Fleet(limited, namespace, tmp_path) as fleet:
        async with PolosClient(limited, namespace, retention_seconds=1) as client:
            victim = await fleet.start(lease_seconds=0.5)
            handle = await gated.invoke(client, {"gate": "go"})
            await fleet.seen(handle.id, "two")
            heir = await fleet.start(lease_seconds=0.5)
            victim.kill()
            await fleet.seen(handle.id, "two", times=2)
            followed = asyncio.create_task(follow(client, handle.id))
            fleet.open("go")
            assert await handle.result(timeout=20) == [victim.pid, heir.pid, heir.pid]
            assert (await soon(followed))[-1] == "workflow_finish"

            waits = await approval.invoke(client, None)
            expires = await approval.invoke(client, 0.2)

            async def opened() -> bool:
                return len(await client.list_suspensions()) >= 1 and await waits.status() == "waiting"

            await until(opened)
            await client.resume(suspend_execution_id=waits.id, suspend_step_key="ok", data="yes")
            assert await waits.result(timeout=20) == "yes"
            with pytest.raises(PolosError, match="SuspendTimeoutError"):
                await expires.result(timeout=20)
            await events.publish(client, "news", events.EventData("hello"))
            await (await gated.invoke(client, {"gate": "go"})).result(timeout=20)
            assert await client.served_workflows()
            await until_forgotten(client)
            heir.terminate()
            assert await heir.ended() == 0
            assert "NOPERM" not in heir.log
            assert heir.log.count("could not be checked") == 2, "INFO and CONFIG"


async def follow(client: PolosClient, execution_id: str) -> list[str]:
    return [event.event_type async for event in events.stream_workflow(client, "gated", execution_id)]


async def until_forgotten(client: PolosClient) -> None:
    async def nothing() -> bool:
        return not await client.list_executions()

    await until(nothing, "retention to pass")


@pytest.mark.failure(15)
async def test_missing_rights_are_reported(chaos_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin:
        store = await admin.store()
        await user(store, "~other:*", "&polos:*", "+@all")
        async with PolosClient(url_of(chaos_server), namespace) as client:
            with pytest.raises(PolosError, match=r"~polos:\* &polos:\*"):
                await client.list_executions()
        async with PolosClient(url_of(chaos_server, password="wrong"), namespace) as client:
            with pytest.raises(PolosError, match="password"):
                await client.list_executions()
        await user(store, "~polos:*", "+@all")
        async with PolosClient(url_of(chaos_server), namespace) as client:
            with pytest.raises(PolosError, match=r"&polos:\*"):
                await (await gated.invoke(client, {"gate": "go"})).result(timeout=20)
            for one in await client.list_executions():
                await client.cancel(one["id"])


async def test_a_server_that_may_evict_keys_is_refused(chaos_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(chaos_server.url, namespace) as client:
        store = await client.store()
        await store.wire.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigurationError, match="maxmemory-policy allkeys-lru"):
            await worker_on(client).run()


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [(("appendonly", "no"), "appendonly off"), (("appendonly", "yes"), "")],
    ids=["off", "on"],
)
async def test_a_warning_is_logged_for_a_server_that_forgets(
    chaos_server: ChaosServer,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    setting: tuple[str, str],
    complaint: str,
) -> None:
    async with PolosClient(chaos_server.url, namespace) as client:
        await (await client.store()).wire.call("CONFIG", "SET", *setting)
        with caplog.at_level(logging.WARNING, "polos.worker"):
            await start_and_stop(client)
        assert complaint in caplog.text
        assert bool(caplog.text) == bool(complaint)


async def test_a_warning_is_logged_for_a_server_that_cannot_be_checked(
    chaos_server: ChaosServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with PolosClient(chaos_server.url, namespace) as admin:
        await user(await admin.store(), "~polos:*", "&polos:*", "+@all", "-config", "-info")
    async with PolosClient(url_of(chaos_server), namespace) as client:
        with caplog.at_level(logging.WARNING, "polos.worker"):
            await start_and_stop(client)
    assert "may not call INFO" in caplog.text
    assert "may not call CONFIG" in caplog.text


async def start_and_stop(client: PolosClient) -> None:
    worker = worker_on(client)
    running = asyncio.create_task(worker.run())
    await soon(worker.ready.wait())
    worker.stop()
    await soon(running)
