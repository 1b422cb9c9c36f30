"""Checks of one server: what it is, what a crash of it loses, and how it is set."""

from __future__ import annotations

from collections.abc import Iterator

from polos_redis.diagnosis.finding import Finding, count, ok, problem, unknown, warning
from polos_redis.diagnosis.server_facts import ServerFacts, whole
from polos_redis.embedded.server import SETTINGS
from polos_redis.errors import ConfigurationError
from polos_redis.values.times import LAST_MS, iso
from polos_redis.worker.log_rewriter import closes_transactions
from polos_redis.worker.server_checks import NEEDED, check_version

CLOCK_SECONDS, WRONG_CLOCK_SECONDS = 1.0, 60.0
SLOW_SECONDS = 0.02  # of a round trip
FULL, NEARLY_FULL = 0.95, 0.8  # of maxmemory, and of maxclients
STREAM_NODE_BYTES = 512  # above that a suspended execution takes much more memory
REPLICA_LAG_SECONDS = 10

CONFIGURE = "run CONFIG SET {name} {value} there, and set it in its configuration"


def check_server(facts: ServerFacts) -> Iterator[Finding]:
    """Yields what the facts about a server mean."""
    yield _kind(facts)
    yield from _persistence(facts)
    yield from _log_rewrite(facts)
    yield _eviction(facts)
    yield from _memory(facts)
    yield from _encodings(facts)
    yield from _replication(facts)
    yield from _clients(facts)
    yield _clock(facts)
    yield _latency(facts)


def _kind(facts: ServerFacts) -> Finding:
    if not facts.info:
        return unknown("server", facts.address, "the user may not call INFO", "grant the ACL user +info")
    try:
        check_version(facts.info)
    except ConfigurationError as error:
        return problem("server", facts.address, str(error), f"use {NEEDED}")
    kind, version = "Redis", facts.info.get("redis_version", "?")
    if "valkey_version" in facts.info:
        kind, version = "Valkey", facts.info["valkey_version"]
    return ok("server", facts.address, f"{kind} {version}, up {_duration(facts.number('uptime_in_seconds'))}")


def _duration(seconds: int) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return count(days, "day")
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def _persistence(facts: ServerFacts) -> Iterator[Finding]:
    check, where = "persistence", facts.address
    fsync = facts.settings.get("appendfsync")
    if not facts.info and "appendonly" not in facts.settings:
        yield unknown(
            check, where, "what a crash loses can't be checked", "grant the ACL user +info and +config|get"
        )
        return
    if (facts.info.get("aof_enabled") or facts.settings.get("appendonly", "")) not in ("1", "yes"):
        lost = "every execution"
        if facts.settings.get("save"):
            lost = "everything since its last snapshot"
            if saved := iso(min(max(0, 1000 * facts.number("rdb_last_save_time")), LAST_MS)):
                lost += f", at {saved[:19].replace('T', ' ')} UTC"
        found = f"appendonly is off: a restart of Redis loses {lost}"
        yield problem(check, where, found, CONFIGURE.format(name="appendonly", value="yes"))
        return
    if facts.info.get("aof_last_write_status", "ok") != "ok":
        yield problem(
            check,
            where,
            "Redis can't write its log, so it refuses writes",
            "free disk space; Redis' own log has the reason",
        )
    if fsync is None:
        yield unknown(
            check,
            where,
            "appendonly is on; how much a crash of the machine loses can't be checked",
            "grant the ACL user +config|get, or look up appendfsync yourself",
        )
    elif fsync == "always":
        yield ok(check, where, "appendfsync always: a crash loses nothing that was acknowledged")
    elif fsync == "everysec":
        yield ok(
            check,
            where,
            "appendfsync everysec: a crash of Redis loses nothing, one of the machine the last second or two",
        )
    else:
        yield problem(
            check,
            where,
            f"appendfsync {fsync}: a crash of the machine loses what the kernel had not written",
            CONFIGURE.format(name="appendfsync", value="everysec") + "; or `always`",
        )
    if facts.settings.get("no-appendfsync-on-rewrite") == "yes":
        yield warning(
            check,
            where,
            "no-appendfsync-on-rewrite yes: a crash during a rewrite of the log loses more than usual",
            CONFIGURE.format(name="no-appendfsync-on-rewrite", value="no"),
        )
    if fsync == "everysec" and (delayed := facts.number("aof_delayed_fsync")):
        yield warning(
            check,
            where,
            f"the disk was too slow for appendfsync {count(delayed, 'time')} since the start: a crash then "
            "loses more than two seconds",
            "use a faster disk (a local NVMe, not a network volume)",
        )


def _log_rewrite(facts: ServerFacts) -> Iterator[Finding]:
    check, where = "log-rewrite", facts.address
    if facts.info.get("aof_enabled") != "1":
        return
    if facts.info.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield problem(
            check,
            where,
            "Redis could not rewrite its log, which therefore grows without end",
            "free memory and disk space; Redis' own log has the reason",
        )
    elif "1" in (facts.info.get("aof_rewrite_in_progress"), facts.info.get("aof_rewrite_scheduled")):
        yield ok(check, where, "the log is being rewritten")
    elif facts.info.get("aof_last_rewrite_time_sec") == "-1" and not closes_transactions(
        facts.info.get("valkey_version", "")
    ):
        yield warning(
            check,
            where,
            "the log was not rewritten since the server's start; if a crash had cut it, the next restart may "
            "apply half a change",
            "start a worker whose user has +bgrewriteaof, or run BGREWRITEAOF there",
        )


def _eviction(facts: ServerFacts) -> Finding:
    check, where = "eviction", facts.address
    policy = facts.info.get("maxmemory_policy") or facts.settings.get("maxmemory-policy")
    if policy is None:
        return unknown(
            check,
            where,
            "whether Redis may drop keys can't be checked",
            "grant the ACL user +info or +config|get",
        )
    if policy != "noeviction":
        return problem(
            check,
            where,
            f"maxmemory-policy {policy}: Redis may drop executions when its memory is full",
            CONFIGURE.format(name="maxmemory-policy", value="noeviction"),
        )
    return ok(check, where, "maxmemory-policy noeviction: no key is dropped")


def _memory(facts: ServerFacts) -> Iterator[Finding]:
    check, where = "memory", facts.address
    if not facts.info:
        return
    used, limit = facts.number("used_memory"), facts.number("maxmemory")
    if not limit:
        yield warning(
            check,
            where,
            f"{_megabytes(used)} used, without a limit: the kernel may kill Redis when memory runs out",
            CONFIGURE.format(name="maxmemory", value="BYTES") + ", below the machine's memory",
        )
    elif used >= NEARLY_FULL * limit:
        level = problem if used >= FULL * limit else warning
        yield level(
            check,
            where,
            f"{_megabytes(used)} of {_megabytes(limit)} used: Redis refuses new work when it is full",
            "raise maxmemory, lower POLOS_RETENTION_SECONDS, or delete finished executions",
        )
    else:
        yield ok(check, where, f"{_megabytes(used)} of {_megabytes(limit)} used")


def _encodings(facts: ServerFacts) -> Iterator[Finding]:
    """Settings that cost memory or pauses."""
    check, where, found = "encoding", facts.address, facts.settings
    if not found:
        yield unknown(
            check, where, "the stream and hash settings can't be checked", "grant the ACL user +config|get"
        )
        return
    wrong = []
    for name, cost in (
        ("stream-node-max-bytes", "a suspended execution takes about four times the memory"),
        ("hash-max-listpack-value", "executions with values of up to 1 KB take more memory"),
        ("hash-max-listpack-entries", "journals of up to 128 steps take more memory"),
        ("lazyfree-lazy-expire", "the end of a long journal's retention stalls all other calls"),
        ("lazyfree-lazy-user-del", "deleting a long journal stalls all other calls"),
    ):
        value, wanted = found.get(name), SETTINGS[name]
        if value is None:
            continue
        if wanted == "yes":
            bad = value != "yes"
        elif name == "stream-node-max-bytes":
            bad = not 0 < whole(value) <= STREAM_NODE_BYTES
        else:
            bad = whole(value) < int(wanted)
        if bad:
            remedy = CONFIGURE.format(name=name, value=wanted)
            wrong.append(warning(check, where, f"{name} is {value}: {cost}", remedy))
    yield from wrong or [ok(check, where, "streams and hashes are stored compactly")]


def _replication(facts: ServerFacts) -> Iterator[Finding]:
    check, where = "replication", facts.address
    if not facts.info:
        return
    if facts.info.get("role") == "slave":
        master = f"{facts.info.get('master_host', '?')}:{facts.info.get('master_port', '?')}"
        yield problem(
            check,
            where,
            f"this is a replica of {master}: it refuses writes",
            "name the master in POLOS_REDIS_URL, or the sentinels, which know it",
        )
        return
    replicas = [
        dict(part.split("=", 1) for part in value.split(",") if "=" in part)
        for name, value in facts.info.items()
        if name.startswith("slave") and name[5:].isdigit()
    ]
    if not replicas:
        if facts.info.get("cluster_enabled") == "1":
            yield warning(
                check,
                where,
                "this node of the cluster has no replica: while it is away, its partitions stand still",
                "add a replica",
            )
        return
    late = [
        f"{one.get('ip')}:{one.get('port')}"
        for one in replicas
        if one.get("state") != "online" or whole(one.get("lag", "")) > REPLICA_LAG_SECONDS
    ]
    if late:
        yield warning(
            check,
            where,
            f"{' and '.join(late)} {'does' if len(late) == 1 else 'do'} not keep up: a failover loses more",
            "look at the replica's log and at the network",
        )
    if facts.settings.get("min-replicas-to-write") == "0":
        yield warning(
            check,
            where,
            "min-replicas-to-write is 0: cut off from its replicas, Redis takes writes that a failover loses",
            CONFIGURE.format(name="min-replicas-to-write", value="1"),
        )
    if not late:
        yield ok(check, where, f"{count(len(replicas), 'replica')} up to date")


def _clients(facts: ServerFacts) -> Iterator[Finding]:
    check, where = "connections", facts.address
    connected = facts.number("connected_clients")
    limit = facts.number("maxclients") or whole(facts.settings.get("maxclients", ""))
    if limit and connected >= NEARLY_FULL * limit:
        yield warning(
            check,
            where,
            f"{connected:,} of {limit:,} connections are open: Redis refuses further ones",
            "raise maxclients, or find out which program leaves connections open (CLIENT LIST)",
        )
    if rejected := facts.number("rejected_connections"):
        yield warning(
            check,
            where,
            f"Redis has refused {count(rejected, 'connection')} since its start: maxclients was reached",
            CONFIGURE.format(name="maxclients", value="NUMBER"),
        )


def _clock(facts: ServerFacts) -> Finding:
    check, where = "clock", facts.address
    off = abs(facts.clock_ahead)
    if off <= CLOCK_SECONDS + facts.round_trip / 2:
        return ok(check, where, f"within {max(0.001, off, facts.round_trip / 2):.3f} s of this machine's")
    level = problem if off > WRONG_CLOCK_SECONDS else warning
    direction = "ahead of" if facts.clock_ahead > 0 else "behind"
    return level(
        check,
        where,
        f"the server's clock is {off:,.1f} s {direction} this machine's: deadlines and schedules follow the "
        "server's, links and API keys that of `polos serve`",
        "synchronise both clocks, for example with chrony",
    )


def _latency(facts: ServerFacts) -> Finding:
    took = f"a round trip takes {facts.round_trip * 1000:.2f} ms"
    if facts.round_trip < SLOW_SECONDS:
        return ok("latency", facts.address, took)
    return warning(
        "latency",
        facts.address,
        f"{took}: each step needs one",
        "run workers close to Redis, and look at its load",
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
