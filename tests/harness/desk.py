"""The scripts, called one by one over a plain connection: what Redis does without any of our Python."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgpack

from polos_redis.state import keys, scripts
from polos_redis.state.journal import step_record
from polos_redis.state.repairs import FIRST, LIVE
from polos_redis.state.statuses import Condition
from polos_redis.state.stuck import EXHAUSTED, StuckReason
from polos_redis.values.text import text
from tests.invariants.state import Partition, RawConnection, read
from tests.invariants.state_invariants import violations

Arg = str | bytes | int
Snapshot = dict[bytes, tuple[bytes, int]]

Race = tuple[bytes, bytes]  # the race that a wait decides, and those it takes part in
NO_RACE: Race = (b"", b"")
RETENTION = 600_000
SHOWN_DIGEST = b"d" * 32
AUDIT_MS = 3_600_000
FAR = 3_600_000  # ms: beyond the end of any test
ALL = 1_000_000  # answers seen by an activation that has seen all of them
ERROR: bytes = msgpack.packb((1, "OSError", "no paper", ""))
PAUSED = StuckReason(EXHAUSTED, (), "", "OSError: no paper").pack()
REASON = StuckReason("unreached", ("ok",), "flow.py:7", "its code has not reached ok").pack()

_SCRIPTS = {script.name: script for script in scripts.ALL}
_numbers = itertools.count(1)


def new_id(child: str = "") -> str:
    """An execution id no test has used."""
    return f"{next(_numbers):032x}" + (f".{child}" if child else "")


def step(value: bytes = b"\x01", status: str = "ok", attempt: int = 1) -> bytes:
    """A step's record as an activation sends it."""
    return step_record(status, attempt, 1.5, value)


class Activated:
    """An activation: its entry and its owner nonce."""

    def __init__(self, execution_id: str, entry: bytes, owner: str) -> None:
        self.id, self.entry, self.owner = execution_id, entry, owner
        self.known = 0

    @property
    def fence(self) -> tuple[Arg, ...]:
        return self.id, self.entry, self.owner, self.known


class Desk:
    """A connection to one partition of a namespace (by default the only one)."""

    def __init__(self, url: str, namespace: str, partition: int = 0) -> None:
        self.url, self.namespace = url, namespace
        self.connection = RawConnection(url)
        self.prefix = keys.prefix(namespace, partition)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    # --- calling ------------------------------------------------------------------------

    def do(self, command: str, key: str | bytes, *args: Arg) -> Any:
        """Run a command on one key, given without its prefix."""
        name = key if isinstance(key, bytes) else key.encode()
        return self.connection.do(command, self.prefix.encode() + name, *args)

    def run(self, script: str, *args: Arg) -> Any:
        """Run a script and return its reply."""
        return self.connection.do("EVAL", _SCRIPTS[script].source, 1, self.prefix, *args)

    def invoke(
        self,
        execution_id: str | None = None,
        *,
        workflow: Arg = "wf",
        input: bytes = b"in",
        retention: int = RETENTION,
        **options: Any,
    ) -> str:
        """Start an execution; `options` are those of creation.lua."""
        name = execution_id or new_id()
        given = (packed(options),) if options else ()
        script = "invoke_with_options" if options else "invoke"
        assert self.run(script, name, workflow, input, retention, *given) == 1
        return name

    def deliver(self, consumer: str = "w1", queue: str = "default", owner: str = "") -> Activated:
        """Read one entry as a worker would."""
        rows = self.read_entries(consumer, queue)
        assert rows, f"nothing to read from {queue}"
        entry, flat = rows[0]
        return Activated(flat[1].decode(), entry, owner or f"{consumer}:{next(_numbers)}")

    def read_entries(self, consumer: str, queue: str = "default", count: int = 1) -> list[Any]:
        self.run("create_group", queue)
        reply = self.connection.do(
            *("XREADGROUP", "GROUP", keys.GROUP, consumer, "COUNT", count),
            *("STREAMS", self.prefix + keys.QUEUE + queue, ">"),
        )
        return list(reply[0][1]) if reply else []

    def start(self, execution_id: str | None = None, consumer: str = "w1", **options: Any) -> Activated:
        """Invoke an execution and deliver it."""
        name = self.invoke(execution_id, **options)
        activated = self.deliver(consumer, options.get("queue", "default"))
        assert activated.id == name
        return activated

    def load(self, by: Activated, *version: str) -> Any:
        """Become the owner, as code of this version."""
        return self.run("load", by.id, by.entry, by.owner, *version)

    def write(self, by: Activated, key: Arg, record: bytes | None = None, *events: Arg) -> Any:
        """Without events, a record that says it succeeded is told as one."""
        record = step() if record is None else record
        starts = ""
        if not events:
            if key and msgpack.unpackb(record + b"\0", raw=True)[2] == b"ok":
                started = self.do("HEXISTS", keys.EXEC + by.id, "started")
                starts = "s" if started else "ws"
            else:
                events = ("e", b"\x01")
        return _learn_changes(by, self.run("write_step", *by.fence, key, record, starts, *events))

    def note_starts(self, by: Activated, *step_keys: str, first: bool = False) -> Any:
        steps = msgpack.packb([(key, 1, 0, False) for key in step_keys], use_bin_type=False)
        return _learn_changes(by, self.run("note_starts", *by.fence, steps, int(first)))

    def note_progress(self, by: Activated, *step_keys: str, attempt: int = 1, value: bytes = b"\x05") -> Any:
        reports = msgpack.packb([(key, attempt, value) for key in step_keys], use_bin_type=False)
        return _learn_changes(by, self.run("note_progress", *by.fence, reports))

    def backoff(
        self, by: Activated, key: Arg, delay: int = FAR, record: bytes | None = None, races: bytes = b""
    ) -> Any:
        record = step(b"", "backoff") if record is None else record
        return _learn_changes(by, self.run("back_off", *by.fence, key, record, delay, races, "e", b"\x01"))

    def suspend(
        self,
        by: Activated,
        key: Arg,
        timeout: int = 0,
        shown: bytes = b"\x81\xa1a\x01",
        race: Race = NO_RACE,
        **more: Any,
    ) -> Any:
        """`more`: terms, default, told, channels; see suspend.lua."""
        packed = msgpack.packb(more, use_bin_type=False) if more else b""
        asked = (key, timeout, shown, *race, SHOWN_DIGEST, AUDIT_MS, packed)
        return _learn_changes(by, self.run("suspend", *by.fence, *asked))

    def wait(
        self,
        by: Activated,
        key: Arg,
        ms: Arg = "",
        *,
        until: Arg = "",
        topic: Arg = "",
        subscriber: Arg = "",
        race: Race = NO_RACE,
    ) -> Any:
        return _learn_changes(by, self.run("open_wait", *by.fence, key, ms, until, topic, subscriber, *race))

    def wait_for_event(self, by: Activated, key: str, topic: Arg, ms: Arg = "", race: Race = NO_RACE) -> Any:
        """Wait for an event of a topic of this partition."""
        return self.wait(by, key, ms, topic=topic, subscriber=subscriber(by, key), race=race)

    def spawn(
        self,
        by: Activated,
        key: str,
        count: int = 1,
        *,
        first: int = 0,
        total: int | None = None,
        status: str = "open",
        workflow: str = "child",
        race: Race = NO_RACE,
        events: Sequence[Arg] = (),
        **options: Any,
    ) -> Any:
        """Start `count` of a step's `total` children; `options` are those of creation.lua."""
        children: list[Arg] = []
        for index in range(first, first + count):
            given = {**options, "parent": by.id, "key": key}
            child = keys.child_id(by.id, key, index, self.since_run(by))
            children += (child, workflow, b"in %d" % index, packed(given))
        whole = first + count if total is None else total
        return _learn_changes(
            by,
            self.run(
                "start_children",
                *(*by.fence, key, status, whole, first, RETENTION, *race),
                *(len(events), *events, *children),
            ),
        )

    def child(self, by: Activated, key: str = "kid", **options: Any) -> Activated:
        """The activation of a step's only child."""
        self.spawn(by, key, **options)
        activated = self.deliver(queue=options.get("queue", "default"))
        assert activated.id == keys.child_id(by.id, key, 0, self.since_run(by))
        return activated

    def since_run(self, by: Activated) -> int:
        """The run that the journal of an activation's execution begins with."""
        return int(self.do("HGET", keys.EXEC + by.id, "since") or 1)

    def choose(self, by: Activated, key: str, branch: str, *others: Arg, races: bytes = b"") -> Any:
        return _learn_changes(by, self.run("choose_winner", *by.fence, key, branch, races, *others))

    def park(
        self,
        by: Activated,
        *waits: Arg,
        given_up: Sequence[Arg] = (),
        state: bytes = b"",
        seen: int = ALL,
        unreached: Sequence[str] = (),
    ) -> Any:
        passed_over = packed(unreached) if unreached else b""
        return self.run("park", *by.fence, state, seen, passed_over, len(given_up), *given_up, *waits)

    def give_up(self, by: Activated, *given_up: Arg) -> Any:
        return _learn_changes(by, self.run("give_up", *by.fence, *given_up))

    def stick(
        self,
        by: Activated,
        *,
        state: bytes = b"",
        seen: int = ALL,
        reason: bytes = REASON,
        error: bytes = b"",
    ) -> Any:
        return self.run("stick", *by.fence, state, seen, reason, error)

    def pause(self, by: Activated, *, seen: int = ALL) -> Any:
        """Leave an execution paused that has failed."""
        return self.stick(by, seen=seen, reason=PAUSED, error=ERROR)

    def finish(
        self, by: Activated, status: str = "completed", value: bytes = b"\x01", *, seen: int = ALL
    ) -> Any:
        return self.run("finish", *by.fence, seen, status, value, b"\x81\xa6status\x01", "")

    def continue_as_new(
        self,
        by: Activated,
        input: bytes = b"next",
        *,
        origin: bytes = b"\x80",
        state: bytes = b"",
        seen: int = ALL,
        events: Sequence[Arg] = (),
    ) -> Any:
        """Begin the next run with an empty journal."""
        return self.run("continue_as_new", *by.fence, seen, input, origin, state, *events)

    def next_millisecond(self) -> None:
        """Wait for the next millisecond of the server's clock: wait records opened under one key in several
        runs are told apart by their time."""

        def now() -> tuple[int, int]:
            seconds, micros = self.connection.do("TIME")
            return int(seconds), int(micros) // 1000

        before = now()
        while now() == before:
            pass

    def auto_retry(self, by: Activated, times: int = 3, delay: int = 0, error: bytes = b"err") -> Any:
        self.next_millisecond()
        return self.run("auto_retry", *by.fence, error, times, delay)

    def retry(
        self,
        execution_id: str,
        run: int = 1,
        created: Arg = "",
        *,
        skip: Sequence[Arg] = (),
        by: Arg = "",
        reason: Arg = "",
        only_stuck: bool = False,
    ) -> Any:
        self.next_millisecond()
        return self.run("retry", execution_id, run, created, by, reason, int(only_stuck), *skip)

    def fork(
        self,
        *,
        records: Mapping[str, bytes],
        copied: Sequence[tuple[Arg, ...]] = (),
        execution_id: str | None = None,
        **options: Any,
    ) -> str:
        """Start an execution that goes on from these records; `options` are those of creation.lua."""
        name = execution_id or new_id()
        flat = [part for pair in records.items() for part in pair]
        given = packed(options) if options else b""
        event = packed({"workflow_id": "wf", "execution_id": name})
        assert self.run("fork", name, "wf", b"in", RETENTION, given, event, packed(copied), *flat) == 1
        return name

    def publish(
        self, topic: Arg, kind: Arg = "e", data: bytes = b"\x01", *, of: Arg = "", once: str = ""
    ) -> Any:
        return self.run("publish", topic, of, RETENTION, kind, data, once)

    def answer(
        self,
        execution_id: str,
        key: Arg,
        answer: bytes = b"\xc3",
        digest: str = "d1",
        early: bool = False,
        *,
        by: str = "ann",
        opening: str = "",
        approves: bool = False,
        groups: bytes = b"",
        api_key: str = "",
    ) -> Any:
        asked = (execution_id, key, answer, digest, by, "client", int(early), opening, int(approves), groups)
        return self.run("answer", *asked, *((by, api_key) if api_key else ()))

    def cancel(self, execution_id: str, run: int = 1, by: str = "bob", *created: Arg) -> Any:
        return self.run("cancel", execution_id, run, by, *created)

    def fire(self, limit: int = 100, worker: str = "leader") -> Any:
        """Timers fired, executions forgotten, ms to the next timer."""
        return self.run("fire_timers", worker, 60_000, limit, 0)[:3]

    def requeue(
        self,
        consumer: str,
        *entries: bytes,
        lost: bool = False,
        lease: str | int = "",
        most: int = 5,
        queue: str = "default",
        pausing: Mapping[str, bool] | None = None,
    ) -> Any:
        """Entries requeued, failed and dropped; None if the lease was renewed. Without `pausing`, executions
        that are lost too often fail."""
        fails = {text(name): False for name in self.state.workflows} if lost else {}
        known = packed(fails if pausing is None else pausing)
        lease = lease if lost else "back"
        reply = self.run("requeue_entries", queue, consumer, lease, most, known, *entries)
        return reply and reply[:3]

    def repair(self, rows: int = 100) -> list[tuple[str, str]]:
        """Look through the whole partition for half a change, as the reaper does; returns what was wrong."""
        state = self.state
        found: list[tuple[str, str]] = []
        tables: list[tuple[str, bytes]] = [("queue", name) for name in state.listed_queues]
        tables += [(status, name) for status in LIVE for name in (*state.workflows, b"")]
        for kind, name in [*tables, ("suspensions", b"")]:
            cursor = FIRST
            while True:
                cursor, _, flat = self.run("repair", kind, name, cursor, rows)
                found += [
                    (one.decode(), what.decode()) for one, what in zip(flat[::2], flat[1::2], strict=True)
                ]
                if cursor == FIRST:
                    break
        return found

    def parked(self, key: str = "ok", timeout: int = 0, **options: Any) -> str:
        """The id of an execution that waits for a person at `key`."""
        by = self.start(**options)
        self.suspend(by, key, timeout)
        assert self.park(by, key) == 0
        return by.id

    def stuck(self, key: str = "ok", timeout: int = 0, **options: Any) -> str:
        """The id of a stuck execution, whose suspension `key` is open."""
        by = self.start(**options)
        self.suspend(by, key, timeout)
        assert self.stick(by) == 0
        return by.id

    def finished(self, **options: Any) -> str:
        """The id of a completed execution."""
        by = self.start(**options)
        assert self.finish(by) == 0
        return by.id

    def retention_ends(self, execution_id: str) -> None:
        """Have an execution that has ended forgotten by the next pass of the timers; if it has expired, the
        rows it has left."""
        names = [name for (what, name), rows in self.state.index.items() if execution_id.encode() in rows]
        for name in set(names):
            self.do("ZADD", keys.INDEX.encode() + b"ended:" + name, 1, execution_id)
            self.do("ZADD", keys.WORKFLOWS, 0, name)

    def listed(
        self,
        *statuses: str,
        before: tuple[Arg, Arg] | None = None,
        limit: int = 100,
        workflow: Arg = "",
        roots: Sequence[str] = (),
        rows: int = 2000,
    ) -> tuple[tuple[bytes, bytes] | None, list[list[Any]]]:
        """A page of executions, and where the next one begins."""
        state = self.state
        names = [_bytes(one) for one in ([workflow] if workflow else roots)] or sorted(
            {*state.workflows} - {b""}
        )
        names, queues = [*names, b""], sorted(state.listed_queues)
        filters = (limit, workflow, packed(sorted(roots)) if roots else b"", rows)
        at, one, found = self.run(
            *("list_executions", *(before or ("+inf", b""))),
            *filters,
            len(statuses),
            len(names),
            *statuses,
            *names,
            *queues,
        )
        return ((at, one) if at else None), found

    def status(self, execution_id: str, most_waits: int = 10) -> Condition:
        """What an execution is doing."""
        with self.unchanged():
            (row,) = self.run("read_statuses", most_waits, execution_id)
        return Condition.from_row(row)

    def make_due(self, member: Arg) -> None:
        """Make a timer due."""
        assert self.do("ZSCORE", keys.TIMERS, member) is not None
        self.do("ZADD", keys.TIMERS, 1, member)

    # --- inspecting ---------------------------------------------------------------------

    @property
    def state(self) -> Partition:
        """The whole state; an empty `Partition` where there is none."""
        found = {partition.prefix: partition for partition in read(self.connection, self.namespace)}
        return found.get(self.prefix, Partition(self.prefix))

    def execution(self, execution_id: str) -> dict[str, bytes]:
        return {k.decode(): v for k, v in self.state.executions[execution_id.encode()].items()}

    def record(self, execution_id: str, key: str | bytes) -> list[Any]:
        name = key if isinstance(key, bytes) else key.encode()
        record: list[Any] = msgpack.unpackb(
            self.state.journals[execution_id.encode()][name], raw=True, strict_map_key=False
        )
        return record

    def events(self, topic: str | bytes) -> list[bytes]:
        """The types of a topic's events, as somebody sees them who begins to follow it now."""
        name = topic if isinstance(topic, bytes) else topic.encode()
        if name in self.state.executions:
            self.run("follow", name, 60_000)
        return [kind for _, flat in self.state.topics.get(name, []) for kind in flat[::2]]

    def snapshot(self) -> Snapshot:
        """Every key as stored, with its expiry time: equal only if nothing was written."""
        names = self.connection.names(self.namespace)
        commands = [(command, name) for name in names for command in ("DUMP", "PEXPIRETIME")]
        replies = self.connection.together(commands)
        return dict(zip(names, zip(replies[::2], replies[1::2], strict=True), strict=True))

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the store to a snapshot."""
        gone = [("DEL", name) for name in self.connection.names(self.namespace)]
        back = [
            ("RESTORE", name, max(0, expires), dump, "ABSTTL") for name, (dump, expires) in snapshot.items()
        ]
        for reply in self.connection.together([*gone, *back]):
            assert not isinstance(reply, Exception), reply

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Assert that the block writes nothing."""
        before = self.snapshot()
        yield
        after = self.snapshot()
        assert before == after, {name for name in before | after if before.get(name) != after.get(name)}

    def check(self) -> None:
        """Assert that the invariants hold."""
        found = violations(self.namespace, self.connection)
        assert not found, "\n".join(found)

    def now(self) -> int:
        """The server's time in ms."""
        seconds, micros = self.connection.do("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def branch(race: str, name: str, *keys: str) -> Race:
    """A wait that is a whole branch of a race and so decides it. `keys` are the steps that the branch has
    started."""
    return race.encode(), packed([[race, name, *keys]])


def packed(value: Any) -> bytes:
    """A value as the scripts read it."""
    found: bytes = msgpack.packb(value, use_bin_type=False)
    return found


def subscriber(by: Activated, key: str, kind: str = "w") -> str:
    """An execution's subscriber name: kind `w` for a topic of its own partition, `f` for another one's."""
    return f"{kind}{by.entry.decode()} {by.id} {key}"


def _learn_changes(by: Activated, reply: Any) -> Any:
    """Pass the journal's count of changes on to the activation."""
    changes = reply if isinstance(reply, int) else reply[0]
    if isinstance(changes, int):  # otherwise nothing was written
        by.known = max(by.known, changes)
    return reply


class Subscriber:
    """Receives what the scripts send to one reply channel."""

    def __init__(self, url: str, prefix: str, name: str) -> None:
        self.connection = RawConnection(url)
        self.connection.do("SSUBSCRIBE", prefix + keys.REPLY + name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def received(self, count: int) -> Sequence[list[Any]]:
        """Exactly `count` notices; asserts that no further one arrives before the reply to a PING."""
        pushes = [self.connection.receive() for _ in range(count)]
        pong = self.connection.do("PING")
        assert pong == [b"pong", b""], f"unexpected notice: {pong}"
        assert all(push[0] == b"smessage" for push in pushes)
        return [msgpack.unpackb(push[2], raw=True) for push in pushes]


def _bytes(name: Arg) -> bytes:
    return name if isinstance(name, bytes) else str(name).encode()
