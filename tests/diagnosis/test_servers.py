"""The checks of a server, on real servers with bad settings, and on any answer that a server may give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import PolosClient
from polos_redis.diagnosis import Diagnosis, Finding, diagnose
from polos_redis.diagnosis.server_facts import SETTINGS, ServerFacts
from polos_redis.diagnosis.servers import check_server
from polos_redis.embedded import EmbeddedServer
from tests.harness.cluster import Cluster
from tests.harness.impostors import INFO, impostor
from tests.harness.running import until
from tests.harness.servers import AT_ONCE, ChaosServer
from tests.harness.wrong_clock import shifted

GOOD = {"maxmemory": "200mb"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3661, "1 h 1 min"), (90000, "1 day")],
)
def test_how_long_a_server_is_up(seconds: int, words: str) -> None:
    facts = ServerFacts("there:1", info={"redis_version": "7.4.0", "uptime_in_seconds": str(seconds)})
    (kind,) = [one for one in check_server(facts) if one.check == "server"]
    assert kind.found == f"Redis 7.4.0, up {words}"


@contextmanager
def serving(folder: Path, binary: Path, **config: str) -> Iterator[EmbeddedServer]:
    """A server with these settings beside those that are recommended."""
    settings = {name.replace("_", "-"): value for name, value in config.items()}
    with EmbeddedServer(folder / "redis", binary=binary, config={**GOOD, **settings}) as server:
        yield server


async def diagnosis_of(url: str, namespace: str = "doctor", **options: Any) -> Diagnosis:
    async with PolosClient(url, namespace, **{"patience_seconds": 5.0, **options}) as client:
        return await diagnose(client)


def of(diagnosis: Diagnosis, check: str) -> list[Finding]:
    """The findings of a check that are not "ok"."""
    return [one for one in diagnosis.findings if one.check == check and one.level != "ok"]


async def test_a_good_server_has_no_problems(tmp_path: Path, binary: Path) -> None:
    with serving(tmp_path, binary) as server:
        found = await diagnosis_of(server.url)
    assert {one.check for one in found.findings if one.level != "ok"} <= {
        "log-rewrite",
        "partitions",
        "workers",
    }
    assert {one.check for one in found.findings if one.level == "ok"} >= {
        *(
            "clock",
            "encoding",
            "eviction",
            "latency",
            "memory",
            "persistence",
            "rights",
            "server",
            "settings",
        ),
    }


@pytest.mark.parametrize(
    ("config", "check", "level", "found", "remedy"),
    [
        ({"appendonly": "no"}, "persistence", "problem", "loses every execution", "appendonly yes"),
        (
            {"appendonly": "no", "save": "3600 1"},
            "persistence",
            "problem",
            "loses everything since its last snapshot, at 20",
            "appendonly yes",
        ),
        (
            {"appendfsync": "no"},
            "persistence",
            "problem",
            "the kernel had not written",
            "appendfsync everysec",
        ),
        (
            {"no_appendfsync_on_rewrite": "yes"},
            "persistence",
            "warning",
            "a crash during a rewrite",
            "no-appendfsync-on-rewrite no",
        ),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", "problem", "may drop executions", "noeviction"),
        ({"maxmemory_policy": "volatile-ttl"}, "eviction", "problem", "may drop executions", "noeviction"),
        ({"maxmemory": "0"}, "memory", "warning", "the kernel may kill Redis", "CONFIG SET maxmemory"),
        ({"maxmemory": "900kb"}, "memory", "problem", "refuses new work", "raise maxmemory"),
        (
            {"stream_node_max_bytes": "4096"},
            "encoding",
            "warning",
            "stream-node-max-bytes is 4096: a suspended execution",
            "stream-node-max-bytes 256",
        ),
        (
            {"hash_max_listpack_value": "64"},
            "encoding",
            "warning",
            "hash-max-listpack-value is 64",
            "hash-max-listpack-value 1024",
        ),
        (
            {"lazyfree_lazy_expire": "no"},
            "encoding",
            "warning",
            "stalls all other calls",
            "lazyfree-lazy-expire yes",
        ),
    ],
)
async def test_a_bad_setting_is_found(
    tmp_path: Path,
    binary: Path,
    config: dict[str, str],
    check: str,
    level: str,
    found: str,
    remedy: str,
) -> None:
    with serving(tmp_path, binary, **config) as server:
        (one,) = of(await diagnosis_of(server.url), check)
    assert one.level == level
    assert found in one.found and remedy in one.remedy


@pytest.mark.parametrize(("seconds", "level"), [(120, "problem"), (-5, "warning")])
async def test_a_clock_that_is_off_is_found(
    tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, level: str
) -> None:
    for name, value in shifted(tmp_path, seconds).items():
        monkeypatch.setenv(name, value)
    with serving(tmp_path, binary) as server:
        monkeypatch.undo()
        (one,) = of(await diagnosis_of(server.url), "clock")
    assert one.level == level and "synchronise both clocks" in one.remedy
    assert ("ahead of" if seconds > 0 else "behind") in one.found
    shown = float(one.found.split(" s ")[0].rpartition(" ")[2])
    assert abs(shown - abs(seconds)) < 1


async def test_a_replica_and_an_unguarded_master_are_found(tmp_path: Path, binary: Path) -> None:
    with (
        EmbeddedServer(tmp_path / "a", port=0, binary=binary, config={**GOOD, **AT_ONCE}) as master,
        EmbeddedServer(tmp_path / "b", port=0, binary=binary, config=GOOD) as replica,
    ):
        port = master.url.rpartition(":")[2].partition("/")[0]
        async with PolosClient(replica.url, "doctor") as client:
            store = await client.store()
            await store.wire.call("REPLICAOF", "127.0.0.1", port)
        async with PolosClient(master.url, "doctor") as client:
            store = await client.store()
            await until(lambda: _online(store.wire), "the replica to be online")
        (one,) = of(await diagnosis_of(replica.url), "replication")
        assert one.level == "problem" and f"a replica of 127.0.0.1:{port}" in one.found
        (one,) = of(await diagnosis_of(master.url), "replication")
        assert one.level == "warning" and "min-replicas-to-write" in one.remedy


async def _online(wire: Any) -> bool:
    return b"state=online" in await wire.call("INFO", "replication")


@asynccontextmanager
async def limited(server: EmbeddedServer, *rules: str) -> AsyncIterator[str]:
    """The URL of a user with these rights."""
    async with PolosClient(server.url, "doctor") as client:
        store = await client.store()
        await store.wire.call("ACL", "SETUSER", "app", "reset", "on", ">secret", *rules)
    yield server.url.replace("unix://", "unix://app:secret@")


MINIMAL = (
    *(
        "~polos:*",
        "&polos:*",
        "-@all",
        "+ping",
        "+select",
        "+eval",
        "+evalsha",
        "+@read",
        "+@write",
        "+@stream",
    ),
    *("+time", "+ssubscribe", "+spublish", "-@dangerous"),
)
ALL = ("~polos:*", "&polos:*", "+@all")


@pytest.mark.parametrize(
    ("rules", "level", "found", "remedy"),
    [
        ((*ALL, "-xadd"), "problem", "may not run XADD on the keys polos:{doctor:0}:*", "+xadd"),
        ((*ALL, "-hset", "-zadd"), "problem", "may not run HSET, ZADD", "+hset +zadd"),
        ((*ALL, "-bgrewriteaof"), "warning", "can't have the log rewritten", "+bgrewriteaof"),
        ((*ALL, "-script|load"), "warning", "sent once with its source", "+script|load"),
        ((*ALL, "-eval", "-evalsha"), "problem", "NOPERM", "An ACL user"),
        (("~polos:{other:*", "&polos:*", "+@all"), "problem", "NOPERM", "An ACL user"),
    ],
)
async def test_a_missing_right_is_found(
    tmp_path: Path, binary: Path, rules: tuple[str, ...], level: str, found: str, remedy: str
) -> None:
    with serving(tmp_path, binary) as server:
        async with limited(server, *rules) as url:
            (one,) = of(await diagnosis_of(url), "rights")
    assert one.level == level
    assert found in one.found and remedy in one.remedy


async def test_the_least_rights_are_enough_and_what_cannot_be_checked_is_said(
    tmp_path: Path, binary: Path
) -> None:
    with serving(tmp_path, binary) as server:
        async with limited(server, *MINIMAL) as url:
            found = await diagnosis_of(url)
    assert not found.count("problem"), found.findings
    unknown = {one.check: one.remedy for one in found.findings if one.level == "unknown"}
    assert unknown.keys() == {"server", "persistence", "eviction", "encoding"}
    assert all("grant the ACL user +" in remedy for remedy in unknown.values())


async def test_a_right_that_only_a_durability_needs_is_missed_with_it(tmp_path: Path, binary: Path) -> None:
    with serving(tmp_path, binary) as server:
        async with limited(server, *ALL, "-wait") as url:
            assert not of(await diagnosis_of(url), "rights")
            (one,) = of(await diagnosis_of(url, durability="replicated"), "rights")
    assert one.level == "problem" and "durability='replicated' can't be had" in one.found


async def test_a_server_that_cannot_be_reached_is_a_finding(tmp_path: Path, binary: Path) -> None:
    found = await diagnosis_of(f"unix://{tmp_path}/nobody.sock", patience_seconds=0.1)
    (one,) = of(found, "server")
    assert one.level == "problem" and "can't be reached" in one.found and "start Redis" in one.remedy
    with serving(tmp_path, binary) as server:
        async with limited(server, *ALL) as url:
            (one,) = of(await diagnosis_of(url.replace("secret", "wrong")), "server")
    assert one.level == "problem" and "WRONGPASS" in one.found


@pytest.mark.parametrize("kind", ["Dragonfly", "Garnet", "unknown"])
async def test_a_server_that_only_speaks_the_protocol_is_found(kind: str) -> None:
    async with impostor(INFO[kind], b"-ERR unknown command\r\n") as url:
        found = await diagnosis_of(url, patience_seconds=0.5)
    assert found.count("problem") >= 1


async def test_one_server_of_several_that_is_away_is_found(tmp_path: Path, binary: Path) -> None:
    with (
        EmbeddedServer(tmp_path / "a", binary=binary) as one,
        ChaosServer(tmp_path / "b", binary=binary) as other,
    ):
        urls = [one.url, other.url]
        async with PolosClient(urls, "doctor", partitions=2) as client:
            await client.list_executions()
        found = await diagnosis_of(",".join(urls), partitions=2)
        assert not found.count("problem"), found.findings
        other.kill()
        found = await diagnosis_of(",".join(urls), partitions=2, patience_seconds=0.2)
    (away,) = of(found, "server")
    assert away.level == "problem" and away.where in other.url
    assert [one.level for one in found.findings if one.check == "namespace"] == ["unknown"]


async def test_another_number_of_partitions_is_found(tmp_path: Path, binary: Path) -> None:
    with serving(tmp_path, binary) as server:
        async with PolosClient(server.url, "doctor", partitions=4) as client:
            await client.list_executions()
        (one,) = of(await diagnosis_of(server.url, partitions=2), "partitions")
        (new,) = of(await diagnosis_of(server.url, "another"), "partitions")
    assert one.level == "problem" and "has 4 partitions, not 2" in one.found
    assert (
        new.level == "warning"
        and "nothing has used namespace 'another' yet; this server has 'doctor'" in new.found
    )


@pytest.mark.only_on_cluster
async def test_a_cluster_is_checked(redis_cluster: Cluster, redis_url: str, namespace: str) -> None:
    found = await diagnosis_of(redis_cluster.url, namespace, partitions=1)
    (spread,) = of(found, "cluster")
    assert spread.level == "warning" and "1 partition is on 1 of 3 masters" in spread.found
    assert {one.found for one in of(found, "replication")} == {
        "this node of the cluster has no replica: while it is away, its partitions stand still"
    }
    assert len([one for one in found.findings if one.check == "server"]) == 3


async def test_nothing_is_written(tmp_path: Path, binary: Path) -> None:
    with serving(tmp_path, binary) as server:
        await diagnosis_of(server.url)
        async with PolosClient(server.url, "doctor") as client:
            # The client's first call records the layout, so it goes to the server directly.
            wire = client._opened().wire
            assert await wire.call("DBSIZE") == 0


NAMES = st.sampled_from(
    [
        *("redis_version", "valkey_version", "uptime_in_seconds", "aof_enabled", "rdb_last_save_time"),
        *("aof_last_write_status", "aof_delayed_fsync", "aof_last_bgrewrite_status", "maxmemory_policy"),
        *(
            "aof_last_rewrite_time_sec",
            "used_memory",
            "maxmemory",
            "role",
            "slave0",
            "slave1",
            "cluster_enabled",
        ),
        *(
            "connected_clients",
            "maxclients",
            "rejected_connections",
            "master_host",
            "aof_rewrite_in_progress",
        ),
    ]
)
VALUES = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.sampled_from(
        ["0", "1", "-1", "ok", "err", "slave", "yes", "no", "always", "everysec", "ip=::1,lag=x"]
    ),
)


@given(
    st.dictionaries(NAMES, VALUES),
    st.dictionaries(st.sampled_from(SETTINGS), VALUES),
    st.floats(-1e9, 1e9),
    st.floats(0, 100),
)
def test_any_answer_yields_findings_that_say_what_to_do(
    info: dict[str, str], settings: dict[str, str], ahead: float, took: float
) -> None:
    found = list(check_server(ServerFacts("here", info, settings, ahead, took)))
    assert found
    for one in found:
        assert one.found and one.where == "here"
        assert bool(one.remedy) == (one.level != "ok")
