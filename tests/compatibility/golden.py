"""Golden data: what a release has stored, in a form that any server takes.

It has the logical content of each key, not what DUMP returns, whose format depends on the server. Names are
without the namespace. Whatever expires or is due keeps its time, which is mostly far in the future.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgpack

from polos_redis.state import keys
from tests.invariants.state import RawConnection

FOLDER = Path(__file__).with_name("golden")
FORMAT = 1
MOST_BYTES = 300_000
YEAR_MS = 365 * 86_400_000
FOR_EVER = 3_000_000_000_000  # ms since 1970, in 2065: the retention of golden data ends later
_READ: dict[str, tuple[str, ...]] = {
    "hash": ("HGETALL",),
    "zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
    "set": ("SMEMBERS",),
    "list": ("LRANGE", "0", "-1"),
    "string": ("GET",),
    "stream": ("XRANGE", "-", "+"),
}
_WRITE = {"hash": "HSET", "set": "SADD", "list": "RPUSH", "string": "SET"}
_NO_EXPIRY = -1
_ERRANDS = keys.ERRANDS.encode()


@dataclass(frozen=True)
class Stored:
    """One key: its name without the namespace, its expiry (ms since 1970; -1: none) and its content as the
    command that reads it replies. Of a stream also what XINFO and XPENDING say."""

    partition: int
    name: bytes
    kind: str
    expires: int
    content: Any
    stream: Any = None


@dataclass(frozen=True)
class Execution:
    """One that the test goes on with."""

    id: str
    status: str


@dataclass(frozen=True)
class Golden:
    """The golden data of a release: its keys, and the executions in them by what they are examples of."""

    version: str
    partitions: int
    executions: dict[str, Execution]
    stored: list[Stored]

    @property
    def kinds(self) -> set[str]:
        """The kinds of keys, as keys.py names them."""
        return {keys_kind(one.name.decode("utf-8", "replace")) for one in self.stored}

    def write(self) -> None:
        packed = msgpack.packb([FORMAT, asdict(self)])
        compressed = gzip.compress(packed, mtime=0)
        assert len(compressed) < MOST_BYTES, f"{len(compressed)} bytes of golden data are too many"
        FOLDER.mkdir(exist_ok=True)
        path_of(self.version).write_bytes(compressed)

    def a_year_later(self) -> Golden:
        """As it would be if it were older: what its retention does not keep is gone, errands are overdue."""
        lasting = [one for one in self.stored if one.expires == _NO_EXPIRY or one.expires > FOR_EVER]
        return replace(self, stored=[_overdue(one) if one.name == _ERRANDS else one for one in lasting])

    def restore(self, connection: RawConnection, namespace: str) -> None:
        """Writes it all into an empty namespace, with ordinary commands."""
        commands: list[tuple[Any, ...]] = []
        for one in self.stored:
            name = keys.prefix(namespace, one.partition).encode() + one.name
            commands += _restoring(one, name)
            if one.expires != _NO_EXPIRY:
                commands.append(("PEXPIREAT", name, one.expires))
        for command, reply in zip(commands, connection.together(commands), strict=True):
            assert not isinstance(reply, Exception), (command, reply)


def _overdue(errands: Stored) -> Stored:
    """The errands with due times of a year before."""
    content = list(errands.content)
    content[1::2] = [float(due) - YEAR_MS for due in content[1::2]]  # some are infinite
    return replace(errands, content=content)


def path_of(version: str) -> Path:
    return FOLDER / f"{version}.msgpack.gz"


def releases() -> list[str]:
    """The releases that there is golden data of."""
    return sorted(path.name.removesuffix(".msgpack.gz") for path in FOLDER.glob("*.msgpack.gz"))


def load(version: str) -> Golden:
    form, found = msgpack.unpackb(gzip.decompress(path_of(version).read_bytes()), strict_map_key=False)
    assert form == FORMAT
    executions = {role: Execution(**row) for role, row in found["executions"].items()}
    stored = [Stored(**row) for row in found["stored"]]
    return Golden(found["version"], found["partitions"], executions, stored)


def keys_kind(name: str) -> str:
    """The kind of a key's name without its prefix."""
    head, colon, _ = name.partition(":")
    return head + colon


def read(connection: RawConnection, namespace: str, partitions: int) -> list[Stored]:
    """Everything that a namespace has on this server."""
    found = []
    for full in connection.names(namespace):
        before, _, name = full.partition(b"}:")
        kind = connection.do("TYPE", full).decode()
        expires = connection.do("PEXPIRETIME", full)
        command, *arguments = _READ[kind]
        content = connection.do(command, full, *arguments)
        if expires == -2 or content is None:
            continue  # it has expired meanwhile
        stream = _about(connection, full) if kind == "stream" else None
        number = int(before.rpartition(b":")[2])
        assert number < partitions
        assert namespace.encode() not in msgpack.packb([content, stream]), f"{full!r} names its namespace"
        found.append(Stored(number, name, kind, expires, _in_order(kind, content), stream))
    return found


def _in_order(kind: str, content: Any) -> Any:
    """The content of a key, in an order that no server decides."""
    if kind == "set":
        return sorted(content)
    if kind == "hash":
        pairs = sorted(zip(content[::2], content[1::2], strict=True))
        return [part for pair in pairs for part in pair]
    return content


# --- streams ------------------------------------------------------------------------------


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _about(connection: RawConnection, name: bytes) -> dict[str, Any]:
    """Its counters, and its group with what that has delivered and is not acknowledged."""
    facts = _pairs(connection.do("XINFO", "STREAM", name))
    groups = [_pairs(group) for group in connection.do("XINFO", "GROUPS", name)]
    counters = [facts["last-generated-id"], facts["entries-added"], facts["max-deleted-entry-id"]]
    if not groups:
        return {"counters": counters, "group": None}
    (group,) = groups
    assert group["name"] == keys.GROUP.encode()
    consumers = [_pairs(row)["name"] for row in connection.do("XINFO", "CONSUMERS", name, keys.GROUP)]
    pending = connection.do("XPENDING", name, keys.GROUP, "-", "+", 1_000_000)
    return {
        "counters": counters,
        "group": [group["last-delivered-id"], group["entries-read"]],
        "consumers": consumers,
        "pending": [[entry, consumer, times] for entry, consumer, _, times in pending],
    }


def _restoring(one: Stored, name: bytes) -> Iterator[tuple[Any, ...]]:
    """The commands that write one key."""
    if one.kind == "zset":
        pairs = zip(one.content[1::2], one.content[::2], strict=True)
        yield ("ZADD", name, *(part for pair in pairs for part in pair))
    elif one.kind == "stream":
        yield from _restoring_stream(one, name)
    else:
        content = [one.content] if one.kind == "string" else one.content
        yield (_WRITE[one.kind], name, *content)


def _restoring_stream(one: Stored, name: bytes) -> Iterator[tuple[Any, ...]]:
    """Its counters come before its group: Redis 8 lets no group have read more entries than were added."""
    group = one.stream["group"]
    for entry, flat in one.content:
        yield ("XADD", name, entry, *flat)
    last, added, deleted = one.stream["counters"]
    if group is not None:
        yield ("XGROUP", "CREATE", name, keys.GROUP, "0", "MKSTREAM")
    elif not one.content:
        yield ("XADD", name, last, "gone", "")
        yield ("XDEL", name, last)
    yield ("XSETID", name, last, "ENTRIESADDED", added, "MAXDELETEDID", deleted)
    if group is not None:
        delivered, entries_read = group
        read_before = () if entries_read is None else ("ENTRIESREAD", entries_read)
        yield ("XGROUP", "SETID", name, keys.GROUP, delivered, *read_before)
        for consumer in one.stream["consumers"]:
            yield ("XGROUP", "CREATECONSUMER", name, keys.GROUP, consumer)
        for entry, consumer, times in one.stream["pending"]:
            yield ("XCLAIM", name, keys.GROUP, consumer, 0, entry, "RETRYCOUNT", times, "FORCE", "JUSTID")
