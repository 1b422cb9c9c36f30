"""The state of a namespace in Redis, read without our client."""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from zlib import crc32

import msgpack
import redis

from polos_redis.state import keys
from polos_redis.state.journal import WRITER, is_result
from polos_redis.wire import urls

TYPES = {
    keys.EXEC: "hash",
    keys.JOURNAL: "hash",
    keys.EARLY: "hash",
    keys.QUEUE: "stream",
    keys.TOPIC: "stream",
    keys.INDEX: "zset",
    keys.TIMERS: "zset",
    keys.SUSPENSIONS: "zset",
    keys.WORKFLOWS: "zset",
    keys.VERSIONS: "set",
    keys.RESERVED: "set",
    keys.WORKERS: "hash",
    keys.SERVES: "hash",
    keys.CHILDREN: "set",
    keys.BELOW: "set",
    keys.DESCENDANTS: "set",
    keys.AUDIT: "list",
    keys.SUBS: "hash",
    keys.ONCE: "string",
    keys.SLOTS: "hash",
    keys.WAITERS: "zset",
    keys.ERRANDS: "zset",
    keys.ERRAND_FAILURES: "hash",
    keys.OUTBOX: "zset",
    keys.QUEUES: "set",
    keys.LIMITS: "hash",
    keys.DEFINITIONS: "hash",
    keys.SCHEDULES: "hash",
    keys.KEYS: "hash",
    keys.TIMER_LEADER: "string",
    keys.SESSION: "string",
    keys.RATE: "string",
    keys.CONFIRMED: "string",
    keys.META: "hash",
    keys.SKIPPED: "string",
    keys.EXPIRING: "zset",
}

UNFINISHED = (b"queued", b"waiting", b"stuck")
FINISHED = (b"completed", b"failed", b"cancelled")

_READ = {
    "hash": ("HGETALL",),
    "zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
    "set": ("SMEMBERS",),
    "list": ("LRANGE", "0", "-1"),
    "string": ("GET",),
    "stream": ("XRANGE", "-", "+"),
}
_PENDING_AT_ONCE = 1_000_000


# redis-py would read its own version from disk for each connection, to send it to the server.
_UNNAMED: dict[str, None] = (
    {"driver_info": None}
    if importlib.util.find_spec("redis.driver_info")  # redis-py 7.1 and later
    else {"lib_name": None, "lib_version": None}
)


class RawConnection:
    """One redis-py connection, without the client's conversion of replies."""

    def __init__(self, url: str) -> None:
        self._connection: Any = redis.ConnectionPool.from_url(url, protocol=2, **_UNNAMED).make_connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.disconnect()

    def receive(self) -> Any:
        """The next reply, such as a message to a subscriber."""
        return self._connection.read_response()

    def do(self, *command: str | bytes | int | float) -> Any:
        """Send one command; an error reply raises."""
        self._connection.send_command(*command)
        return self._connection.read_response()

    def together(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies of commands run as one transaction; error replies come as exceptions."""
        everything = [("MULTI",), *commands, ("EXEC",)]
        self._connection.send_packed_command(self._connection.pack_commands(everything))
        for _ in everything[:-1]:
            self._connection.read_response()
        replies: list[Any] = self._connection.read_response()
        return replies

    def names(self, namespace: str) -> list[bytes]:
        """The namespace's keys."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", f"polos:{{{namespace}:") + "*"
        found: set[bytes] = set()
        cursor: bytes | str = "0"
        while True:
            cursor, page = self.do("SCAN", cursor, "MATCH", pattern, "COUNT", 10_000)
            found.update(page)
            if int(cursor) == 0:
                return sorted(found)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue's stream: its entries, and those its group has delivered."""

    entries: dict[bytes, dict[bytes, bytes]]
    pending: dict[bytes, bytes]  # entry -> consumer
    delivered: tuple[int, int]
    has_group: bool


@dataclass(slots=True)
class Partition:
    """The whole state of one partition, named as in keys.py."""

    prefix: str
    now: int = 0  # the server's clock, ms
    ttl: dict[str, int] = field(default_factory=dict)  # of every key, by its name without the prefix
    executions: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    journals: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    writers: dict[bytes, bytes] = field(default_factory=dict)  # execution -> its journal's direct writer
    early: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    queues: dict[bytes, Queue] = field(default_factory=dict)
    topics: dict[bytes, list[tuple[bytes, list[bytes]]]] = field(default_factory=dict)
    index: dict[tuple[bytes, bytes], dict[bytes, float]] = field(default_factory=dict)
    children: dict[bytes, set[bytes]] = field(default_factory=dict)
    below: dict[bytes, set[bytes]] = field(default_factory=dict)
    descendants: dict[bytes, set[bytes]] = field(default_factory=dict)
    audit: dict[bytes, list[bytes]] = field(default_factory=dict)
    subs: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    once: dict[bytes, bytes] = field(default_factory=dict)
    session: dict[bytes, bytes] = field(default_factory=dict)
    rate: dict[bytes, bytes] = field(default_factory=dict)
    slots: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    waiters: dict[bytes, dict[bytes, float]] = field(default_factory=dict)
    timers: dict[bytes, float] = field(default_factory=dict)
    errands: dict[bytes, float] = field(default_factory=dict)
    errand_failures: dict[bytes, bytes] = field(default_factory=dict)
    outbox: dict[bytes, dict[bytes, float]] = field(default_factory=dict)
    suspensions: dict[bytes, float] = field(default_factory=dict)
    workflows: dict[bytes, float] = field(default_factory=dict)
    listed_queues: set[bytes] = field(default_factory=set)
    limits: dict[bytes, bytes] = field(default_factory=dict)
    definitions: dict[bytes, bytes] = field(default_factory=dict)
    schedules: dict[bytes, bytes] = field(default_factory=dict)
    api_keys: dict[bytes, bytes] = field(default_factory=dict)
    versions: set[bytes] = field(default_factory=set)
    reserved: set[bytes] = field(default_factory=set)
    workers: dict[bytes, bytes] = field(default_factory=dict)
    serves: dict[bytes, bytes] = field(default_factory=dict)
    meta: dict[bytes, bytes] = field(default_factory=dict)
    timer_leader: bytes | None = None
    confirmed: bytes | None = None
    skipped: bytes | None = None
    expiring: dict[bytes, float] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @property
    def ended(self) -> dict[bytes, float]:
        """The executions that have ended, by the end of their retention (ms)."""
        return {
            one: due
            for (what, _), rows in self.index.items()
            if what == b"ended"
            for one, due in rows.items()
        }

    def put(self, name: bytes, kind: str, ttl: int, value: Any, groups: Any, pending: Any) -> None:
        """Store one key."""
        head, rest = split(text(name))
        if head not in TYPES:
            self.unknown.append(f"{text(name)} is not a key of ours")
            return
        if kind != TYPES[head]:
            self.unknown.append(f"{text(name)} is a {kind}, not a {TYPES[head]}")
            return
        self.ttl[text(name)] = ttl
        if head == keys.QUEUE:
            self.queues[rest] = _queue(value, groups, pending)
        elif head == keys.TOPIC:
            self.topics[rest] = [(entry, flat) for entry, flat in value]
        elif head == keys.INDEX:
            what, _, workflow = rest.partition(b":")
            self.index[what, workflow] = _scores(value)
        else:
            taken = _converted(kind, value)
            if head == keys.JOURNAL and WRITER in taken:
                self.writers[rest] = taken.pop(WRITER)
            field_name = _FIELDS.get(head, head.rstrip(":"))
            if head.endswith(":"):
                getattr(self, field_name)[rest] = taken
            else:
                setattr(self, field_name, taken)


# Fields of `Partition` whose names differ from their keys'.
_FIELDS = {
    keys.EXEC: "executions",
    keys.JOURNAL: "journals",
    keys.QUEUES: "listed_queues",
    keys.KEYS: "api_keys",
}


class Namespace:
    """All partitions of a namespace as one."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self.partitions = {
            _number(partition.prefix): partition
            for partition in sorted(partitions, key=lambda one: one.ttl.keys() != {keys.META})
        }
        zero = self.partitions.get(0)
        self.count = int(zero.meta.get(b"partitions", b"1")) if zero is not None else 1
        self._of = {
            execution_id: partition for partition in partitions for execution_id in partition.executions
        }

    def of(self, execution_id: bytes) -> Partition | None:
        """The partition of an execution."""
        return self._of.get(execution_id)

    def fields(self, execution_id: bytes) -> dict[bytes, bytes]:
        """An execution's fields; empty if it does not exist."""
        partition = self._of.get(execution_id)
        return partition.executions[execution_id] if partition is not None else {}

    def home(self, name: bytes) -> Partition:
        """The partition that a semaphore or a topic belongs to."""
        execution_id = keys.parse_topic(name.decode("utf-8", "surrogateescape"))[1]
        of = name if execution_id is None else keys.root_of(execution_id).encode()
        number = crc32(of) % self.count
        return self.partitions.get(number, Partition("nowhere:"))


def _number(prefix: str) -> int:
    return int(prefix.rpartition("}")[0].rpartition(":")[2])


def masters(url: str) -> list[str]:
    """The URLs of all servers behind a URL: several servers, or for a cluster its masters."""
    servers = urls.split(url)
    target = urls.parse(servers[0])
    if target.kind == "server":
        return servers
    with RawConnection(target.seeds[0]) as connection:
        rows = connection.do("CLUSTER", "SLOTS")
    return sorted({target.server(row[2][0].decode(), row[2][1]) for row in rows})


def read_all(url: str, namespace: str) -> list[Partition]:
    """The state of every partition on the servers of this URL."""
    partitions = []
    for server in masters(url):
        with RawConnection(server) as connection:
            partitions += read(connection, namespace)
    return partitions


def read(connection: RawConnection, namespace: str) -> list[Partition]:
    """The state of every partition on this server, all keys read at one instant."""
    names: dict[bytes, list[bytes]] = {}
    for name in connection.names(namespace):
        names.setdefault(name.partition(b"}:")[0] + b"}:", []).append(name)
    return [_read_partition(connection, text(prefix), some) for prefix, some in names.items()]


def erase(url: str, namespace: str) -> None:
    """Delete all keys of a namespace: leftovers slow down every listing of keys, including `read`."""
    for server in masters(url):
        with RawConnection(server) as connection:
            names = connection.names(namespace)
            for _, of_partition in itertools.groupby(names, lambda name: name.partition(b"}:")[0]):
                connection.do("UNLINK", *of_partition)


def _read_partition(connection: RawConnection, prefix: str, names: list[bytes]) -> Partition:
    types = [kind.decode() for kind in connection.together([("TYPE", name) for name in names])]
    commands: list[tuple[Any, ...]] = [("TIME",)]
    for name, kind in zip(names, types, strict=True):
        command, *arguments = _READ.get(kind, ("TYPE",))
        commands += [("PTTL", name), (command, name, *arguments)]
        if kind == "stream":
            commands += [
                ("XINFO", "GROUPS", name),
                ("XPENDING", name, keys.GROUP, "-", "+", _PENDING_AT_ONCE),
            ]
    replies = iter(connection.together(commands))
    seconds, micros = next(replies)
    partition = Partition(prefix, int(seconds) * 1000 + int(micros) // 1000)
    for name, kind in zip(names, types, strict=True):
        ttl, value = next(replies), next(replies)
        groups, pending = (next(replies), next(replies)) if kind == "stream" else (None, None)
        if ttl != -2 and not isinstance(value, Exception):  # else it has expired since it was listed
            partition.put(name[len(raw(prefix)) :], kind, ttl, value, groups, pending)
    return partition


def _converted(kind: str, value: Any) -> Any:
    if kind in ("string", "list"):
        return value
    return set(value) if kind == "set" else _scores(value) if kind == "zset" else _pairs(value)


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _scores(flat: list[bytes]) -> dict[bytes, float]:
    return {member: float(score) for member, score in _pairs(flat).items()}


def _queue(entries: Any, groups: Any, pending: Any) -> Queue:
    delivered, has_group = (0, 0), False
    for group in groups if isinstance(groups, list) else ():
        facts = _pairs(group)
        if facts[b"name"] == keys.GROUP.encode():
            delivered, has_group = order(facts[b"last-delivered-id"]), True
    held = {row[0]: row[1] for row in pending} if isinstance(pending, list) else {}
    return Queue({entry: _pairs(flat) for entry, flat in entries}, held, delivered, has_group)


# --- vocabulary -----------------------------------------------------------------------


def split(name: str) -> tuple[str, bytes]:
    """A key's name without its prefix, as a kind of keys.py and the rest."""
    head, colon, rest = name.partition(":")
    return head + colon, raw(rest)


def text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def raw(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def show(value: bytes | None) -> str:
    """A name as shown in a message."""
    if value is None:
        return "nothing"
    plain = value.decode("utf-8", "backslashreplace")
    return plain if plain.isprintable() and plain else repr(plain)


def order(entry: bytes) -> tuple[int, int]:
    """A stream id as two numbers."""
    ms, _, sequence = entry.partition(b"-")
    return int(ms), int(sequence or 0)


def record_of(packed: bytes) -> list[Any] | None:
    """A journal record; None for a damaged one (or a child's result)."""
    try:
        record = msgpack.unpackb(packed, raw=True, strict_map_key=False)
    except Exception:
        return None
    return record if isinstance(record, list) and len(record) >= 7 else None


def records(journal: dict[bytes, bytes]) -> Iterator[tuple[bytes, list[Any]]]:
    """The readable records of a journal."""
    for key, packed in journal.items():
        record = record_of(packed) if key and not is_result(key) else None
        if record is not None:
            yield key, record


def is_open(record: list[Any]) -> bool:
    """Whether a record is an open wait."""
    kind, status = record[1:3]
    return kind != b"race" and bool(status == (b"backoff" if kind == b"step" else b"open"))


_RACE = {b"suspend": 13, b"wait": 11, b"child": 8}  # where a record names its race


def race_of(record: list[Any]) -> bytes | None:
    """The race a wait was opened in; None for none."""
    position = _RACE.get(record[1], len(record))
    return record[position] or None if position < len(record) else None


@dataclass(frozen=True, slots=True)
class Relations:
    """An execution's relations to others."""

    parent: bytes | None = None
    parent_created: bytes | None = None
    parent_since: bytes | None = None
    key: bytes | None = None
    kids: bool = False
    semaphore: bytes | None = None
    limit: int = 0
    near: bool = False
    slot: int = 0
    timeout: int | None = None
    deadline: int | None = None


def relations_of(fields: dict[bytes, bytes]) -> Relations:
    """The relations in an execution's fields."""
    packed = fields.get(b"relations")
    found = msgpack.unpackb(packed, raw=True) if packed else {}
    return Relations(
        **{name.decode(): value for name, value in dict(found).items()}
    )  # {} may be packed as []
