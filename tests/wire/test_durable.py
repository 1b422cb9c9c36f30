"""Durability on request: what a call acknowledges is fsynced or replicated by then, or the call says no."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polos_redis import (
    AlreadyResumedError,
    ConfigurationError,
    EventData,
    NotConfirmedError,
    PolosClient,
    RedisRefusedError,
    WorkflowContext,
    events,
    workflow,
)
from polos_redis.embedded import EmbeddedServer
from polos_redis.wire import durable
from tests.harness.cluster import Cluster
from tests.harness.programs import skip_without
from tests.harness.proxy import Proxy
from tests.harness.running import Running, soon, until, working
from tests.harness.sentinel import PASSWORD, Watched, port_of
from tests.harness.servers import AT_ONCE, KINDS, ChaosServer, server_binaries, wait_for
from tests.harness.serving import calling
from tests.invariants.state import RawConnection
from tests.invariants.state_invariants import check

WAITAOF = ("redis8", "valkey")  # kinds of servers that know it


@workflow(id="durable_ask")
async def ask(ctx: WorkflowContext, input: Any) -> Any:
    return await ctx.step.suspend("ok")


def program(kind: str) -> Path:
    found = server_binaries()[kind]
    if isinstance(found, str):
        skip_without(KINDS[kind], found)
    return found


def log_of(kind: str) -> dict[str, str]:
    """Settings under which a kind of server can confirm an fsync."""
    return {"appendfsync": "everysec" if kind == "redis8" else "always"}


@pytest.fixture(params=WAITAOF)
def log_server(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Iterator[ChaosServer]:
    """A server of each kind that can confirm an fsync."""
    config = log_of(request.param)
    with ChaosServer(tmp_path / "redis", port=0, binary=program(request.param), config=config) as server:
        yield server
        server.start()
        check(server.url, namespace)


class Pair:
    """A master and its replica."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.master = ChaosServer(folder / "master", port=0, binary=binary, config=AT_ONCE)
        self._folder, self._binary = folder, binary

    def __enter__(self) -> Pair:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.master)
            follow = {"replicaof": f"127.0.0.1 {port_of(self.master.url)}"}
            replica = ChaosServer(self._folder / "replica", port=0, binary=self._binary, config=follow)
            self.replica = stack.enter_context(replica)
            wait_for(self._in_sync, "the replica")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _in_sync(self) -> bool:
        return "state=online" in str(do(self.master, "INFO", "replication"))


@pytest.fixture(params=["redis8", "valkey", "redis7"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path, program(request.param)) as pair:
        yield pair


def do(server: EmbeddedServer, *command: str | int) -> Any:
    with RawConnection(server.url) as connection:
        return connection.do(*command)


def calls(server: EmbeddedServer, command: str) -> int:
    """How often a server has executed a command."""
    for line in do(server, "INFO", "commandstats").decode().splitlines():
        if line.startswith(f"cmdstat_{command}:calls="):
            return int(line.partition("=")[2].partition(",")[0])
    return 0


async def answer(client: PolosClient, execution_id: str, data: Any = "yes", **options: Any) -> str:
    """Answer before the suspension opens; no worker runs."""
    done = await client.resume(
        suspend_execution_id=execution_id, suspend_step_key="ok", data=data, early=True, **options
    )
    return done.outcome


async def kept(client: PolosClient, execution_id: str) -> Any:
    store = await client.store()
    return await store.suspensions.early_answer(execution_id, "ok")


# --- what is acknowledged is there ----------------------------------------------------------


@pytest.mark.failure(18)
@pytest.mark.promise("invoke", "answer", "event")
async def test_what_was_fsynced_outlives_the_server(log_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(log_server.url, namespace, durability="fsync") as client:
        for number in range(3):
            handles = await asyncio.gather(*(client.invoke(ask, number) for _ in range(20)))
            await asyncio.gather(*(answer(client, handle.id) for handle in handles))
            event = await events.publish(client, "news", EventData("said", number))
            log_server.kill()
            log_server.start()
            for handle in handles:
                assert await handle.status() == "queued"
                assert await kept(client, handle.id) is not None
            found = events.stream_topic(client, "news")
            assert [(await soon(anext(found))).data for _ in range(number + 1)][-1] == number
            await found.aclose()  # type: ignore[attr-defined]
            assert event


@pytest.mark.failure(18)
@pytest.mark.promise("invoke", "answer", "event")
async def test_what_was_replicated_is_on_the_promoted_replica(pair: Pair, namespace: str) -> None:
    async with PolosClient(pair.master.url, namespace, durability="replicated") as client:
        handles = await asyncio.gather(*(client.invoke(ask, number) for number in range(100)))
        await asyncio.gather(*(answer(client, handle.id) for handle in handles))
        await events.publish(client, "news", EventData("said"))
        pair.master.kill()
    do(pair.replica, "REPLICAOF", "NO", "ONE")
    async with PolosClient(pair.replica.url, namespace) as client:
        for handle in handles:
            assert await client.get_handle(handle.id).status() == "queued"
            assert await kept(client, handle.id) is not None
        assert (await soon(anext(events.stream_topic(client, "news")))).event_type == "said"
    check(pair.replica.url, namespace)


@pytest.mark.failure(18)
async def test_each_acknowledged_call_survives_a_failover_by_sentinels(
    binary: Path, tmp_path: Path, namespace: str
) -> None:
    with Watched(tmp_path / "watched", binary) as watched:
        async with PolosClient(watched.url, namespace, durability="replicated") as client:
            acknowledged: list[str] = []
            stop = asyncio.Event()

            async def call() -> None:
                while not stop.is_set():
                    handle = await client.invoke(ask, None, idempotency_key=os.urandom(8).hex())
                    acknowledged.append(handle.id)

            callers = [asyncio.create_task(call()) for _ in range(8)]
            await until(lambda: len(acknowledged) > 50, "some calls")
            await asyncio.to_thread(watched.fail_over)
            before = len(acknowledged)
            await until(lambda: len(acknowledged) > before + 50, "calls after the failover")
            stop.set()
            await soon(asyncio.gather(*callers))
            for execution_id in acknowledged:
                assert await client.get_handle(execution_id).status() == "queued"
        check(f"redis://:{PASSWORD}@127.0.0.1:{watched.master_port()}", namespace)


async def test_each_node_of_a_cluster_confirms_its_own_writes(tmp_path: Path, namespace: str) -> None:
    with Cluster(tmp_path / "cluster", program("redis8")) as cluster:
        options: dict[str, Any] = {"partitions": 6, "durability": "fsync"}
        async with PolosClient(cluster.url, namespace, **options) as client:
            await asyncio.gather(*(client.invoke(ask, number) for number in range(60)))
            assert all(calls(node, "waitaof") > 0 for node in cluster.nodes)
            handle = await client.invoke(ask, None)
            key = (await client.store()).partitions.prefix(handle.id)
            to = cluster.next_after(cluster.owner(key))
            await cluster.move(key, to)
            before = calls(to, "waitaof")
            assert await answer(client, handle.id) == "early"
            assert calls(to, "waitaof") > before
        check(cluster.url, namespace)


# --- what is not confirmed is said ----------------------------------------------------------


@pytest.mark.parametrize("again", ["the same call", "another client"])
async def test_nothing_is_confirmed_without_an_fsync(
    log_server: ChaosServer, namespace: str, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeat writes nothing, and WAITAOF answers at once on a connection that has written nothing."""
    patient: dict[str, Any] = {"durability": "fsync", "patience_seconds": 0.5}
    async with (
        PolosClient(log_server.url, namespace, **patient) as client,
        PolosClient(log_server.url, namespace, **patient) as other,
    ):
        handle = await client.invoke(ask, 1, idempotency_key="a")
        await other.invoke(ask, 2)
        monkeypatch.setattr(durable, "WAIT_SECONDS", 0.2)
        do(log_server, "CONFIG", "SET", "appendfsync", "no")
        with pytest.raises(NotConfirmedError, match=r"that it is on disk \(no fsync of its log within 0.2 s"):
            await answer(client, handle.id)
        assert await kept(client, handle.id) is not None
        second = client if again == "the same call" else other
        with pytest.raises(NotConfirmedError):
            await answer(second, handle.id)
        with pytest.raises(NotConfirmedError) as caught:
            await second.invoke(ask, 1, idempotency_key="a")
        assert caught.value.execution_id == handle.id
        assert await answer(second, handle.id, durability="server") == "early"
        do(log_server, "CONFIG", "SET", "appendfsync", "always")
        assert await answer(second, handle.id) == "early"
        assert (await second.invoke(ask, 1, idempotency_key="a")).id == handle.id


async def test_nothing_is_confirmed_without_the_replica(
    pair: Pair, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"durability": "replicated", "patience_seconds": 0.5}
    async with PolosClient(pair.master.url, namespace, **options) as client:
        handle = await client.invoke(ask, None)
        monkeypatch.setattr(durable, "WAIT_SECONDS", 0.2)
        pair.replica.pause()
        try:
            for _ in range(2):
                with pytest.raises(NotConfirmedError, match=r"on a replica \(0 of 1 replica confirmed"):
                    await answer(client, handle.id)
            with pytest.raises(NotConfirmedError) as caught:
                await client.invoke(ask, None)
        finally:
            pair.replica.resume()
            monkeypatch.undo()
        assert await client.get_handle(caught.value.execution_id or "").status() == "queued"
        assert await answer(client, handle.id) == "early"
    check(pair.master.url, namespace)


async def test_a_refusal_is_not_confirmed(log_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(log_server.url, namespace, durability="fsync") as client:
        handle = await client.invoke(ask, None)
        await answer(client, handle.id)
        before = calls(log_server, "waitaof")
        with pytest.raises(AlreadyResumedError):
            await answer(client, handle.id, "no")
        assert calls(log_server, "waitaof") == before


@pytest.mark.failure(16)
@pytest.mark.parametrize("marker", [b"EVALSHA", b"WAITAOF"])
async def test_a_lost_connection_repeats_and_confirms_the_call(
    log_server: ChaosServer, namespace: str, marker: bytes
) -> None:
    async with (
        Proxy(log_server.url) as proxy,
        PolosClient(proxy.url, namespace, durability="fsync") as client,
    ):
        handle = await client.invoke(ask, None)
        lost = proxy.lose_reply(marker)
        assert await soon(answer(client, handle.id)) == "early"
        await soon(lost.wait())
        before = calls(log_server, "waitaof")
        lost = proxy.lose_reply(marker)
        await soon(client.invoke(ask, None))
        assert lost.is_set() and calls(log_server, "waitaof") > before
        assert len(await client.list_executions()) == 2


async def test_a_restart_repeats_the_calls_that_wait(
    tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChaosServer(tmp_path / "redis", port=0, binary=program("redis8")) as server:
        async with PolosClient(server.url, namespace, durability="fsync") as client:
            handle = await client.invoke(ask, None)
            waiting = [asyncio.create_task(client.invoke(ask, number)) for number in range(20)]
            with RawConnection(server.url) as connection:
                await until(lambda: b"waitaof" in connection.do("CLIENT", "LIST"), "a wait")
            server.kill()
            await asyncio.to_thread(server.start)
            handles = await soon(asyncio.gather(*waiting))
            assert len({one.id for one in [handle, *handles]}) == 21
            assert len(await client.list_executions()) == 21
        check(server.url, namespace)


# --- what it costs --------------------------------------------------------------------------


async def test_calls_are_confirmed_in_groups(tmp_path: Path, namespace: str) -> None:
    with EmbeddedServer(tmp_path / "redis", port=0, binary=program("redis8")) as server:
        async with PolosClient(server.url, namespace, durability="fsync") as client:
            await client.invoke(ask, None)
            before = calls(server, "waitaof")
            await asyncio.gather(*(client.invoke(ask, number) for number in range(500)))
            assert calls(server, "waitaof") - before <= 3
            assert b"polos-durable" in do(server, "CLIENT", "LIST")
        assert do(server, "CLIENT", "LIST").count(b"polos-") == 0


async def test_a_cancelled_caller_does_not_disturb_its_group(log_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(log_server.url, namespace, durability="fsync") as client:
        await client.invoke(ask, None)
        calls = [asyncio.create_task(client.invoke(ask, number)) for number in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        done = await soon(asyncio.gather(*calls, return_exceptions=True))
        assert all(isinstance(one, asyncio.CancelledError) for one in done[::2])
        for handle in done[1::2]:
            assert await handle.status() == "queued"


async def test_who_does_not_ask_pays_nothing(log_server: ChaosServer, namespace: str) -> None:
    before = calls(log_server, "waitaof")
    async with PolosClient(log_server.url, namespace) as client:
        handle = await client.invoke(ask, None)
        assert await answer(client, handle.id) == "early"
        assert calls(log_server, "waitaof") == before
        assert b"polos-durable" not in do(log_server, "CLIENT", "LIST")
        # and for one call:
        assert await answer(client, handle.id, durability="fsync") == "early"
        assert calls(log_server, "waitaof") > before
        await handle.cancel(durability="fsync")
        await client.delete(handle.id, durability="fsync")


@workflow(id="durable_leaf")
async def leaf(ctx: WorkflowContext) -> str:
    return "done"


@workflow(id="durable_parent")
async def parent(ctx: WorkflowContext, other: str) -> str:
    await ctx.step.run("one", lambda: 1)
    await ctx.step.publish_event("two", "news", 2)
    await ctx.step.resume("three", suspend_step_key="ok", suspend_execution_id=other, data="yes")
    return await ctx.step.invoke_and_wait("four", leaf, None)


async def test_workers_do_not_wait(log_server: ChaosServer, namespace: str) -> None:
    async with (
        PolosClient(log_server.url, namespace, durability="fsync") as client,
        working(client, parent, leaf, ask) as worker,
    ):
        waiting = await client.invoke(ask, None)
        await Running(client, worker).opened(waiting, "ok")
        handle = await client.invoke(parent, waiting.id)
        before = calls(log_server, "waitaof")
        assert await soon(handle.result()) == "done"
        assert (await soon(waiting.result()))["data"] == "yes"
        assert calls(log_server, "waitaof") == before


async def test_the_server_has_its_callers_changes_confirmed(log_server: ChaosServer, namespace: str) -> None:
    async with (
        PolosClient(log_server.url, namespace, durability="fsync") as client,
        working(client, ask) as worker,
        calling(client) as api,
    ):

        async def confirmed(path: str, **body: Any) -> Any:
            before = calls(log_server, "waitaof")
            answered = await api.post(f"/api/v1/{path}", json=body)
            assert answered.is_success, answered.text
            assert calls(log_server, "waitaof") > before
            return answered.json()

        started = await confirmed("executions", workflow_id="durable_ask")
        handle = client.get_handle(started["id"])
        await Running(client, worker).opened(handle, "ok")
        await confirmed(f"executions/{handle.id}/resume", step_key="ok", data="yes")
        assert (await soon(handle.result()))["data"] == "yes"
        started = await confirmed("executions", workflow_id="durable_ask")
        await confirmed(f"executions/{started['id']}/cancel")


async def test_a_cancel_is_confirmed_when_memory_is_full(log_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(log_server.url, namespace, durability="fsync") as client:
        handle = await client.invoke(ask, None)
        do(log_server, "CONFIG", "SET", "maxmemory", 1)
        await handle.cancel()
        do(log_server, "CONFIG", "SET", "maxmemory", 0)
        assert await handle.status() == "cancelled"


# --- servers that can't promise it ----------------------------------------------------------

ON = {"appendonly": "yes", "appendfsync": "everysec"}


@pytest.mark.parametrize(
    ("kind", "config", "options", "sentence"),
    [
        (
            "redis7",
            {},
            {"durability": "fsync"},
            'durability="fsync" needs WAITAOF, which Redis at {} does not know: use Redis 7.2 or newer',
        ),
        (
            "redis8",
            {"appendonly": "no"},
            {"durability": "fsync"},
            'durability="fsync" needs a log, and Redis at {} keeps none: set appendonly to yes',
        ),
        (
            "redis8",
            {"appendfsync": "no"},
            {"durability": "fsync"},
            (
                'durability="fsync" needs fsync, and Redis at {} has appendfsync no: set it to everysec or '
                "always"
            ),
        ),
        (
            "valkey",
            {"appendfsync": "everysec"},
            {"durability": "fsync"},
            (
                'durability="fsync" can\'t be promised, because Redis at {} answers WAITAOF before it has '
                "fsynced, as Valkey and some releases of Redis 7 do: set appendfsync to always, or use "
                "Redis 8"
            ),
        ),
        (
            "redis8",
            {},
            {"durability": "replicated"},
            (
                'durability="replicated" waits for 1 replica, and Redis at {} has 0 connected: start more '
                "replicas, or lower POLOS_REPLICAS"
            ),
        ),
    ],
)
async def test_a_server_that_cannot_confirm_is_an_error_at_start(
    kind: str,
    config: dict[str, str],
    options: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durable, "WAIT_SECONDS", 0.2)
    with EmbeddedServer(tmp_path / "redis", port=0, binary=program(kind), config=config) as server:
        async with PolosClient(server.url, namespace, **options) as client:
            for _ in range(2):
                with pytest.raises(ConfigurationError) as caught:
                    await client.invoke(ask, None)
                assert str(caught.value) == sentence.format(f"127.0.0.1:{port_of(server.url)}")
            assert not await client.list_executions()  # reading needs no confirmation


async def test_too_few_replicas_are_an_error_at_start(
    pair: Pair, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "WAIT_SECONDS", 0.2)
    options: dict[str, Any] = {"durability": "replicated", "replicas": 2}
    async with PolosClient(pair.master.url, namespace, **options) as client:
        with pytest.raises(ConfigurationError, match=r"waits for 2 replicas, and .* has 1 connected"):
            await client.invoke(ask, None)


async def test_a_user_who_may_not_wait_is_told_what_to_grant(log_server: ChaosServer, namespace: str) -> None:
    rights = "~polos:* &polos:* -@all +@read +@write +@stream +eval +evalsha +ping +select +time +config|get"
    do(log_server, "ACL", "SETUSER", "some", "on", ">secret", *rights.split())
    url = log_server.url.replace("redis://", "redis://some:secret@")
    async with PolosClient(url, namespace, durability="fsync") as client:
        with pytest.raises(RedisRefusedError, match=r"NOPERM.*waitaof.*grant the ACL user"):
            await client.invoke(ask, None)
        do(log_server, "ACL", "SETUSER", "some", "+waitaof")
        assert await (await client.invoke(ask, None)).status() == "queued"


@pytest.mark.parametrize("value", ["", "disk", "FSYNC", 1, True])
def test_an_unknown_durability_is_named(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="durability= must be server, fsync or replicated, not"):
        PolosClient(durability=value)
    monkeypatch.setenv("POLOS_DURABILITY", "disk")
    with pytest.raises(ConfigurationError, match="POLOS_DURABILITY must be server, fsync or replicated"):
        PolosClient()


async def test_an_unknown_durability_of_a_call_is_named(log_server: ChaosServer, namespace: str) -> None:
    async with PolosClient(log_server.url, namespace) as client:
        options: dict[str, Any] = {"durability": "disk"}
        with pytest.raises(ConfigurationError, match="durability= must be"):
            await client.invoke(ask, None, **options)
        assert not await client.list_executions()
