"""Several plain servers that share a namespace's partitions, without a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import (
    ConfigurationError,
    Event,
    EventData,
    ExecutionHandle,
    Polos,
    PolosClient,
    RedisUnavailableError,
    WorkflowContext,
    events,
    queue,
    workflow,
)
from polos_redis.embedded import EmbeddedServer
from polos_redis.server.health import redis_responds
from polos_redis.state import keys
from polos_redis.wire.routing import wire_to
from polos_redis.wire.servers import ServersWire, ranges
from tests.harness.command import POLOS, Command
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import approval, chain, gated
from tests.harness.programs import skip_without
from tests.harness.running import connections, in_partition, soon, until, working
from tests.harness.sentinel import Watched
from tests.harness.servers import KINDS, ChaosServer, server_binaries
from tests.invariants.state import RawConnection
from tests.invariants.state_invariants import check

PARTITIONS = 6
FLOW = "from polos_redis import workflow\n@workflow(id='servers-of-a-command')\nasync def f(ctx): return 5\n"
FIRST = (0, 2, 4)  # the first partition of each of three servers


def address(server: EmbeddedServer) -> str:
    return server.url.removeprefix("unix://")


def joined(*servers: EmbeddedServer) -> str:
    return ",".join(server.url for server in servers)


def record(server: EmbeddedServer, namespace: str) -> dict[str, str]:
    with RawConnection(server.url) as connection:
        flat = [one.decode() for one in connection.do("HGETALL", keys.prefix(namespace, 0) + keys.META)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


# --- which server has which partitions ----------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 200))
def test_every_partition_has_exactly_one_server(servers: int, more: int) -> None:
    partitions = servers + more
    shares = ranges(partitions, servers)
    assert list(itertools.chain(*shares)) == list(range(partitions)), "contiguous and in order"
    sizes = {len(share) for share in shares}
    assert len(shares) == servers and min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@given(st.data(), st.integers(2, 9), st.text("ab:09", min_size=1))
def test_a_key_leads_to_the_server_of_its_partition(
    data: st.DataObject, servers: int, namespace: str
) -> None:
    partitions = data.draw(st.integers(servers, 40))
    urls = [f"redis://h{position}" for position in range(servers)]
    wire = wire_to(",".join(urls), name="test", scripts=(), partitions=partitions)
    assert isinstance(wire, ServersWire)
    prefixes = [keys.prefix(namespace, partition).encode() for partition in range(partitions)]
    for share, url in zip(ranges(partitions, servers), urls, strict=True):
        for partition in share:
            assert wire.node(prefixes[partition]).url == url
            assert wire.beside(prefixes[partition] + b"exec:1{2}3").url == url
    assert wire.groups(prefixes) == [[prefixes[p] for p in share] for share in ranges(partitions, servers)]


@pytest.mark.parametrize(("partitions", "said"), [(1, "1 partition:"), (2, "2 partitions:")])
def test_fewer_partitions_than_servers_are_refused(partitions: int, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"names 3 servers for {said} set POLOS_PARTITIONS to 3 or"):
        PolosClient(["redis://a", "redis://b", "redis://c"], partitions=partitions)


# --- the layout that the servers have recorded ----------------------------------------------


@pytest.fixture
def servers(tmp_path: Path, binary: Path, namespace: str) -> Iterator[list[ChaosServer]]:
    """Four servers of the test's own; at the end, the invariants hold on the first three."""
    with contextlib.ExitStack() as stack:
        config = {"appendfsync": "always"}
        found = [
            stack.enter_context(ChaosServer(tmp_path / name, binary=binary, config=config)) for name in "abcd"
        ]
        yield found
        for server in found[:3]:
            server.start()
        check(joined(*found[:3]), namespace)


@pytest.fixture
def three(servers: list[ChaosServer], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the first three."""
    monkeypatch.setenv("POLOS_PARTITIONS", str(PARTITIONS))
    return joined(*servers[:3])


async def use(client: PolosClient, partition: int) -> Any:
    store = await client.store()
    return await store.executions.read_fields(id_in(client, partition), "status")


def id_in(client: PolosClient, partition: int) -> str:
    return keys.id_in(partition, client.partitions, "invoke", "a", "b")


async def test_every_server_records_what_it_holds(
    servers: list[ChaosServer], three: str, namespace: str
) -> None:
    async with PolosClient([server.url for server in servers[:3]], namespace) as client:
        assert client.url == three
        await use(client, 5)
    shared = {"partitions": "6", "complete": "1", "format": "1", "minimum_reader": "1"}
    assert [record(server, namespace) for server in servers] == [
        {"server": "1 of 3", "range": "0 to 1", **shared},
        {"server": "2 of 3", "range": "2 to 3", **shared},
        {"server": "3 of 3", "range": "4 to 5", **shared},
        {},
    ]


REORDERED = ["acb", "bac", "bca", "cab", "cba"]
SHORTENED = ["a", "b", "c", "ab", "bc", "ac", "ca"]
LENGTHENED = ["abcd", "dabc", "adbc"]
REPLACED = ["abd", "dbc", "adc", "bd", "da", "bad"]


@pytest.mark.parametrize("named", [*REORDERED, *SHORTENED, *LENGTHENED, *REPLACED])
async def test_another_list_is_refused_and_nothing_is_written(
    named: str, servers: list[ChaosServer], three: str, namespace: str
) -> None:
    """Whichever server a client needs first. Only one that stands where it belongs can be used."""
    async with PolosClient(three, namespace) as client:
        await use(client, 0)
    before = [record(server, namespace) for server in servers]
    listed = ["abcd".index(name) for name in named]
    url = joined(*(servers[one] for one in listed))
    for place, share in enumerate(ranges(PARTITIONS, len(named))):
        right = before[listed[place]].get("server") == f"{place + 1} of {len(named)}"
        for partition in share:
            async with PolosClient(url, namespace) as client:
                if right:
                    await use(client, partition)
                    continue
                with pytest.raises(ConfigurationError, match=r"makes it server|holds nothing") as caught:
                    await use(client, partition)
                assert any(address(server) in str(caught.value) for server in servers)
    assert [record(server, namespace) for server in servers] == before
    for server, kept in zip(servers, (1, 1, 1, 0), strict=True):
        with RawConnection(server.url) as connection:
            assert len(connection.names(namespace)) == kept


async def test_the_sentences(servers: list[ChaosServer], three: str, namespace: str) -> None:
    a, b, c, d = servers
    async with PolosClient(three, namespace) as client:
        await use(client, 0)

    async def refusal(url: str, partition: int, partitions: int = PARTITIONS) -> str:
        async with PolosClient(url, namespace, partitions=partitions) as client:
            with pytest.raises(ConfigurationError) as caught:
                await use(client, partition)
        return str(caught.value)

    assert await refusal(joined(b, a, c), 0) == (
        f"Redis at {address(b)} is server 2 of 3 of namespace '{namespace}', with partitions 2 to 3 of 6, "
        "and the Redis URL makes it server 1 of 3, with partitions 0 to 1 of 6: name the same servers in the "
        "same order as before, which can't be changed"
    )
    assert await refusal(joined(a, b, d), 5) == (
        f"Redis at {address(d)} holds nothing of namespace '{namespace}', of which Redis at {address(a)} is "
        "server 1 of 3: it is another server or has lost its data; name server 3 of 3 in its place, or "
        "restore the data"
    )
    assert await refusal(three, 0, partitions=7) == (
        f"namespace '{namespace}' on Redis at {address(a)} has 6 partitions, not 7: set POLOS_PARTITIONS to "
        "that number, which can't be changed"
    )
    assert "server 2 of 3" in await refusal(b.url, 0, partitions=1)


async def test_the_server_of_a_namespace_without_others_is_not_shared_later(
    servers: list[ChaosServer], three: str, namespace: str
) -> None:
    async with PolosClient(servers[0].url, namespace) as client:
        await use(client, 0)
    for partition in range(PARTITIONS):
        async with PolosClient(three, namespace) as client:
            with pytest.raises(ConfigurationError, match=r"is server 1 of 1 of namespace .* server 1 of 3"):
                await use(client, partition)
    assert [record(server, namespace) for server in servers[1:]] == [{}, {}, {}]


async def test_one_server_under_two_names_is_noticed(
    servers: list[ChaosServer], three: str, namespace: str
) -> None:
    again = servers[0].url.replace("-", "%2D") + "?db=0"
    assert again != servers[0].url
    async with PolosClient([servers[0].url, again], namespace) as client:
        with pytest.raises(ConfigurationError, match=r"is server (1|2) of 2 .* makes it server (1|2) of 2"):
            await use(client, 0)
    with pytest.raises(ConfigurationError, match=r"names .* twice"):
        PolosClient([servers[0].url, servers[1].url, servers[0].url], namespace)
    with RawConnection(servers[0].url) as connection:
        connection.do("DEL", keys.prefix(namespace, 0) + keys.META)


async def test_two_databases_of_a_server_are_two_servers(
    tmp_path: Path, binary: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PARTITIONS", "2")
    with EmbeddedServer(tmp_path / "data", port=0, binary=binary) as server:
        url = f"{server.url},{server.url[:-1]}1"
        async with PolosClient(url, namespace) as client, working(client, chain):
            for partition in range(2):
                handle = await in_partition(client, partition, chain, {"steps": 1, "pause": 0})
                assert await soon(handle.status()) in ("queued", "completed")
        check(url, namespace)


async def test_the_first_use_needs_all_servers(
    servers: list[ChaosServer], three: str, namespace: str
) -> None:
    servers[1].kill()
    async with PolosClient(three, namespace, patience_seconds=0.5) as client:
        with pytest.raises(
            RedisUnavailableError, match=r"the first use of namespace .* needs all of its"
        ) as caught:
            await use(client, 0)
        assert address(servers[1]) in str(caught.value)
        assert not record(servers[0], namespace)
        await asyncio.to_thread(servers[1].start)
        await until(lambda: _works(client, 0))
        servers[1].kill()
        await use(client, 5)


async def _works(client: PolosClient, partition: int) -> bool:
    with contextlib.suppress(RedisUnavailableError):
        await use(client, partition)
        return True
    return False


@pytest.mark.parametrize("fields", [(), ("server",), ("server", "partitions", "range")])
async def test_an_interrupted_first_use_is_continued(
    fields: tuple[str, ...], servers: list[ChaosServer], three: str, namespace: str
) -> None:
    async with PolosClient(three, namespace) as client:
        await use(client, 0)
    before = [record(server, namespace) for server in servers]
    key = keys.prefix(namespace, 0) + keys.META
    for server, kept in zip(servers[:3], (fields, before[1].keys() - {"complete"}, ()), strict=True):
        with RawConnection(server.url) as connection:
            connection.do("HDEL", key, *(before[0].keys() - set(kept)))
    async with PolosClient(three, namespace) as client:
        await use(client, 5)
    assert [record(server, namespace) for server in servers] == before


async def test_clients_that_start_together_agree(
    servers: list[ChaosServer], three: str, namespace: str
) -> None:
    a, b, c, _ = servers

    async def one(url: str, partition: int) -> str:
        async with PolosClient(url, namespace) as client:
            try:
                await use(client, partition)
            except ConfigurationError:
                return "refused"
            return url

    urls = [joined(*some) for some in itertools.permutations((a, b, c))]
    outcomes = await asyncio.gather(*(one(url, FIRST[n % 3]) for n, url in enumerate(urls * 5)))
    assert "refused" in outcomes
    usable = [url for url in urls if [await one(url, first) for first in FIRST] == [url] * 3]
    (winner,) = usable
    for url in set(outcomes) - {"refused"}:  # a server that stands where the winner has it can be used
        assert any(mine == other for mine, other in zip(url.split(","), winner.split(","), strict=True))


async def test_a_server_that_has_lost_its_data_stops_its_partitions_only(
    servers: list[ChaosServer], three: str, namespace: str, tmp_path: Path
) -> None:
    with Fleet(three, namespace, tmp_path) as fleet:
        worker = await fleet.start(lease_seconds=2)
        async with PolosClient(three, namespace) as client:
            await (await in_partition(client, 2, gated, {"gate": "never"})).status()
            servers[1].kill()
            shutil.rmtree(servers[1].data_dir / "appendonlydir")
            await asyncio.to_thread(servers[1].start)
            with pytest.raises(ConfigurationError, match="holds nothing of namespace"):
                await use(client, 2)
            await worker.said("timers could not be fired")
            handle = await in_partition(client, 0, chain, {"steps": 2})
            assert await handle.result(timeout=30) == [0, 1]
            assert worker.running
            fields = ("server", "2 of 3", "partitions", "6", "range", "2 to 3", "complete", "1")
            with RawConnection(servers[1].url) as connection:
                connection.do("HSET", keys.prefix(namespace, 0) + keys.META, *fields)
            handle = await soon(in_partition(client, 2, chain, {"steps": 2}))
            assert await handle.result(timeout=30) == [0, 1]
        worker.terminate()
        assert await worker.ended() == 0


# --- executions -----------------------------------------------------------------------------


async def has_status(handle: ExecutionHandle[Any], status: str) -> bool:
    return await handle.status() == status


@workflow(id="servers-child")
async def child(ctx: WorkflowContext, number: int) -> int:
    return number


@workflow(id="servers-everything", queue=queue("servers-narrow", concurrency_limit=4))
async def everything(ctx: WorkflowContext, number: int) -> list[int]:
    """A step, a child, an event of a topic that may be on another server, and an answer."""
    one = await ctx.step.run("double", lambda: 2 * number)
    two = await ctx.step.invoke_and_wait("child", child, number)
    event = await ctx.step.wait_for_event("news", f"news/{number}")
    resume = await ctx.step.suspend("ok")
    return [one, two, event.data, resume["data"]]


async def does_everything(client: PolosClient, number: int, partition: int) -> ExecutionHandle[Any]:
    handle = await in_partition(client, partition, everything, number)
    seen: list[Event] = []
    async for event in events.stream_workflow(client, everything.id, handle.id):
        seen.append(event)
        if event.event_type == "workflow_finish" and event.metadata["execution_id"] != handle.id:
            await until(lambda: has_status(handle, "waiting"), "the wait for the event")
            published = await events.publish(client, f"news/{number}", EventData("news", number))
            topic = events.stream_topic(client, f"news/{number}")
            assert (await anext(topic)).id == published
            await topic.aclose()  # type: ignore[attr-defined]
        if event.event_type == "suspend_ok":
            await client.resume(suspend_execution_id=handle.id, suspend_step_key="ok", data=number)
    assert await soon(handle.result()) == [2 * number, number, number, number]
    counts = Counter(event.event_type for event in seen)
    assert (counts["workflow_finish"], counts["suspend_ok"]) == (2, 1), "the child's and its own"
    return handle


async def test_executions_run_on_all_servers(servers: list[ChaosServer], three: str, namespace: str) -> None:
    async with PolosClient(three, namespace) as client, working(client, everything, child):
        handles = await soon(
            asyncio.gather(*(does_everything(client, n, n % PARTITIONS) for n in range(4 * PARTITIONS)))
        )
        listed = await client.list_executions(workflow=everything.id, limit=100)
        assert {row["id"] for row in listed} == {handle.id for handle in handles}
        assert await redis_responds(client)
        store = await client.store()
        each = {"polos-client": 1, "polos-reader": 1, "polos-tail": 1, "polos-lease": 1, "polos-notices": 2}
        for name, number in each.items():  # notices are the client's and the worker's

            async def on_each_server(name: str = name, number: int = number) -> bool:
                found = Counter(node.address for node, _ in await connections(store, name))
                return found == dict.fromkeys(map(address, servers[:3]), number)

            await until(on_each_server, f"connections named {name}")
    for server, share in zip(servers, ranges(PARTITIONS, 3), strict=False):
        with RawConnection(server.url) as connection:
            names = {name.partition(b"}:")[0] for name in connection.names(namespace)}
        held = {f"polos:{{{namespace}:{partition}".encode() for partition in share}
        assert names == held | {f"polos:{{{namespace}:0".encode()}


@pytest.mark.failure(13)
async def test_while_one_server_is_down_the_executions_of_the_others_go_on(
    servers: list[ChaosServer], three: str, namespace: str, tmp_path: Path
) -> None:
    down = servers[1]
    with Fleet(three, namespace, tmp_path) as fleet:
        workers = [await fleet.start(lease_seconds=1), await fleet.start(lease_seconds=1)]
        async with PolosClient(three, namespace) as client:
            running = [await in_partition(client, first, gated, {"gate": "go"}) for first in FIRST]
            waiting = [await in_partition(client, first, approval, None) for first in FIRST]
            for handle in running:
                await fleet.seen(handle.id, "two")
            for handle in waiting:
                await until(partial(has_status, handle, "waiting"))
            results = [asyncio.create_task(handle.result()) for handle in (*running, *waiting)]
            down.kill()
            fleet.open("go")

            async with PolosClient(three, namespace, patience_seconds=0.5) as fresh:
                for at in (0, 2):
                    await fresh.resume(suspend_execution_id=waiting[at].id, suspend_step_key="ok", data=at)
                    handle = await in_partition(fresh, FIRST[at] + 1, chain, {"steps": 3})
                    assert await handle.result(timeout=30) == [0, 1, 2]
                    await soon(results[at])
                    assert await soon(results[3 + at]) == at
                for call in (fresh.get_handle(waiting[1].id).status, fresh.list_executions):
                    with pytest.raises(RedisUnavailableError) as caught:
                        await call()
                    assert address(down) in str(caught.value)
                    assert address(servers[0]) not in str(caught.value)
                    assert address(servers[2]) not in str(caught.value)
                assert not await redis_responds(fresh)
            assert not results[1].done() and not results[4].done()

            await asyncio.to_thread(down.start)
            await client.resume(suspend_execution_id=waiting[1].id, suspend_step_key="ok", data=1)
            await soon(results[1])
            assert await soon(results[4]) == 1
        once = {"one": 1, "two": 1, "two-through": 1, "three": 1}
        assert [fleet.counts()[handle.id] for handle in running] == [once] * 3
        assert all(worker.running and "lost worker" not in worker.log for worker in workers)


async def test_a_worker_dies_while_a_server_is_down(
    servers: list[ChaosServer], three: str, namespace: str, tmp_path: Path
) -> None:
    """It is recovered on the other servers meanwhile, and there once the server is back."""
    with Fleet(three, namespace, tmp_path) as fleet:
        async with PolosClient(three, namespace) as client:
            victim = await fleet.start(lease_seconds=1)
            running = [await in_partition(client, first, gated, {"gate": "go"}) for first in FIRST]
            for handle in running:
                await fleet.seen(handle.id, "two")
            await fleet.start(lease_seconds=1)
            servers[2].kill()
            victim.kill()
            fleet.open("go")
            for handle in running[:2]:
                await handle.result(timeout=60)
            await asyncio.to_thread(servers[2].start)
            await running[2].result(timeout=60)
        for handle in running:
            assert fleet.counts()[handle.id] == {"one": 1, "two": 2, "two-through": 1, "three": 1}


async def test_a_worker_waits_for_every_server(
    servers: list[ChaosServer], three: str, namespace: str, tmp_path: Path
) -> None:
    async with PolosClient(three, namespace) as client:
        await use(client, 0)
        handle = await client.invoke("servers-of-a-command")
        servers[2].kill()
        with pytest.raises(RedisUnavailableError) as caught:
            async with Polos(url=three, namespace=namespace, patience_seconds=0.2):
                pass
        assert address(servers[2]) in str(caught.value)
        (tmp_path / "flow.py").write_text(FLOW)
        polos = Command(three, namespace, tmp_path)
        with polos.start(POLOS, "worker", "flow.py", "--patience", "0.1") as worker:
            await asyncio.to_thread(worker.wait_for, "waiting for Redis")
            assert address(servers[2]) in worker.err
            assert "worker ready" not in worker.err
            await asyncio.to_thread(servers[2].start)
            assert await handle.result(timeout=30) == 5
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 0


async def test_the_command_takes_several_servers(
    servers: list[ChaosServer], three: str, namespace: str, tmp_path: Path
) -> None:
    polos = Command("redis://nowhere", namespace, tmp_path)
    done = polos.run("list", "--url", three.replace(",", ", "), "--json")
    assert (done.code, done.json["executions"] if isinstance(done.json, dict) else done.json) == (0, [])
    done = polos.run("list", "--url", joined(*reversed(servers[:3])))
    assert done.code == 1
    assert "of namespace" in done.sentence and "makes it server" in done.sentence


async def test_each_server_confirms_its_own_writes(tmp_path: Path, namespace: str) -> None:
    binary = server_binaries()["redis8"]
    if isinstance(binary, str):
        skip_without(KINDS["redis8"], binary)
    with contextlib.ExitStack() as stack:
        some = [stack.enter_context(ChaosServer(tmp_path / name, binary=binary)) for name in "ab"]
        url = joined(*some)
        async with PolosClient(
            url, namespace, partitions=4, durability="fsync", patience_seconds=1
        ) as client:
            await asyncio.gather(*(client.invoke("servers-nobody", number) for number in range(40)))
            for server in some:
                with RawConnection(server.url) as connection:
                    assert b"cmdstat_waitaof" in connection.do("INFO", "commandstats")
            some[1].kill()
            await in_partition(client, 0, child, 1)
            with pytest.raises(RedisUnavailableError) as caught:
                await in_partition(client, 2, child, 1)
            assert address(some[1]) in str(caught.value)
        some[1].start()
        check(url, namespace)


@pytest.mark.failure(18)
async def test_one_of_the_servers_is_the_master_of_a_sentinel_service(
    servers: list[ChaosServer], binary: Path, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PARTITIONS", "4")
    with Watched(tmp_path / "watched", binary) as watched:
        url = f"{watched.url},{servers[3].url}"
        with Fleet(url, namespace, tmp_path) as fleet:
            async with PolosClient(url, namespace) as client:
                await fleet.start(lease_seconds=6)
                running = [await in_partition(client, first, gated, {"gate": "go"}) for first in (0, 2)]
                for handle in running:
                    await fleet.seen(handle.id, "two")
                await asyncio.to_thread(watched.replicated)
                await asyncio.to_thread(watched.fail_over)
                fleet.open("go")
                for handle in running:
                    await handle.result(timeout=60)
        once = {"one": 1, "two": 1, "two-through": 1, "three": 1}
        assert [fleet.counts()[handle.id] for handle in running] == [once] * 2
