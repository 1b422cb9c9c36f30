"""`polos doctor` on an installation with at least ten problems, and on one without any."""

from __future__ import annotations

from pathlib import Path

from polos_redis import PolosClient, WorkflowContext, workflow
from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.errands import Errand
from tests.harness.command import Command
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import gated
from tests.harness.running import until, working

GOOD = {"maxmemory": "200mb"}
BAD = {
    "appendonly": "no",
    "hash-max-listpack-value": "64",
    "lazyfree-lazy-expire": "no",
    "stream-node-max-bytes": "4096",
}


@workflow(id="doctor-cli")
async def nothing(ctx: WorkflowContext) -> None:
    pass


async def test_ten_problems_are_found_each_with_a_remedy(tmp_path: Path, binary: Path) -> None:
    space = "ill"
    with (
        EmbeddedServer(tmp_path / "redis", binary=binary, config=BAD) as server,
        Fleet(server.url, space, tmp_path) as fleet,
    ):
        async with PolosClient(server.url, space) as client:
            store = await client.store()
            call, prefix = store.wire.call, store.prefixes[0].decode()
            worker = await fleet.start(lease_seconds=1.0)
            held = await client.invoke(gated, {"gate": "never"})
            await fleet.seen(held.id, "two")
            worker.kill()  # a dead lease, and its execution

            async def has_been_idle() -> bool:
                rows = await call("XINFO", "CONSUMERS", f"{prefix}queue:default", keys.GROUP)
                return all(int(dict(zip(row[::2], row[1::2], strict=True))[b"idle"]) > 1000 for row in rows)

            await until(has_been_idle, "the killed worker to have read nothing for a lease")
            await client.invoke("nobody-has-this", {"x": 1})  # an unknown workflow
            late = await client.invoke(gated, {"gate": "never"}, start_delay=3600)
            await call("ZADD", f"{prefix}{keys.TIMERS}", "XX", 1_700_000_000_000, f"p{late.id}")  # overdue
            await call("XGROUP", "CREATECONSUMER", f"{prefix}queue:default", keys.GROUP, "left-behind")
            await call("ZADD", f"{prefix}{keys.ERRANDS}", 1, "kdaily")
            errand = Errand("kdaily", b"1")
            begun = await store.errands.start(
                store.prefixes[0], errand, "a", most=1, alone=True, longest_ms=60_000
            )
            errand = Errand("kdaily", begun[1])
            await store.errands.failed(store.prefixes[0], errand, "a", "no", most=1, first_ms=1, longest_ms=1)
            await call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            await call(
                "ACL", "SETUSER", "app", "reset", "on", ">pw", "~polos:*", "&polos:*", "+@all", "-xadd"
            )
        polos = Command(server.url.replace("unix://", "unix://app:pw@"), space, tmp_path)
        polos.environment |= {"POLOS_LEASE_SECONDS": "soon", "POLOS_NAMSPACE": "x"}
        found = await polos("doctor", "--json")
        shown = await polos("doctor")
    assert (found.code, shown.code) == (1, 1), shown.err
    wrong = [one for one in found.json["findings"] if one["level"] != "ok"]
    assert all(one["found"] and one["remedy"] for one in wrong)
    seeded = {
        ("persistence", "problem"),
        ("eviction", "problem"),
        ("encoding", "warning"),
        ("rights", "problem"),
        ("workers", "problem"),
        ("leases", "problem"),
        ("consumers", "warning"),
        ("timers", "problem"),
        ("errands", "problem"),
        ("workflows", "problem"),
        ("settings", "problem"),
        ("settings", "warning"),
    }
    assert seeded <= {(one["check"], one["level"]) for one in wrong}
    assert found.json["problems"] == len([one for one in wrong if one["level"] == "problem"]) >= 9
    for one in wrong:
        assert f"{one['level'].ljust(9)}{one['check']} " in shown.out
        assert f"-> {one['remedy']}\n" in shown.out
    assert f"{found.json['problems']} problems, " in shown.out.splitlines()[-1]
    assert "pw@" not in shown.out and "pw@" not in found.out


async def test_a_sound_installation_has_nothing_to_do(tmp_path: Path, binary: Path) -> None:
    with EmbeddedServer(tmp_path / "redis", binary=binary, config=GOOD) as server:
        async with PolosClient(server.url, "sound") as client, working(client, nothing):
            await (await client.invoke(nothing)).result()
            polos = Command(server.url, "sound", tmp_path)

            async def is_rewritten() -> bool:
                return "log-rewrite" not in (await polos("doctor", "--strict")).out

            await until(is_rewritten, "the log to be rewritten")
            shown, found = await polos("doctor", "--strict"), await polos("doctor", "--json", "--strict")
            every = await polos("doctor", "--all")
    assert (shown.code, found.code) == (0, 0), shown.out
    assert shown.out.splitlines()[-1] == "nothing to do"
    assert "POLOS_NAMESPACE" in shown.out and "POLOS_LEASE_SECONDS" not in shown.out
    assert "POLOS_LEASE_SECONDS" in every.out
    assert (found.json["problems"], found.json["warnings"], found.json["unknown"]) == (0, 0, 0)
    assert found.json["namespace"] == "sound"


async def test_warnings_fail_only_a_strict_run(tmp_path: Path, binary: Path) -> None:
    with EmbeddedServer(tmp_path / "redis", binary=binary, config=GOOD) as server:
        polos = Command(server.url, "empty", tmp_path)
        assert (await polos("doctor")).code == 0
        strict = await polos("doctor", "--strict")
    assert strict.code == 1 and "nothing has used namespace 'empty' yet" in strict.out


def test_without_redis_the_finding_says_so(tmp_path: Path) -> None:
    polos = Command("redis://u:secret@127.0.0.1:1/0", "any", tmp_path)
    done = polos.run("doctor", "--patience", "0.1")
    assert done.code == 1 and done.err == ""
    assert "127.0.0.1:1 can't be reached" in done.out and "-> start Redis" in done.out
    assert "secret" not in done.out
