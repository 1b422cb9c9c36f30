"""What must hold of the state in Redis whatever has happened: the invariants of docs/architecture.md.

`check` runs after every test that used a server. It reads nothing but the namespace's keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgpack

from polos_redis.state import keys
from polos_redis.state.journal import is_result
from polos_redis.state.timers import NEVER_MS
from polos_redis.values.versioned import VERSION
from tests.invariants.relation_invariants import RelationInvariants
from tests.invariants.state import (
    FINISHED,
    UNFINISHED,
    Namespace,
    Partition,
    RawConnection,
    is_open,
    masters,
    order,
    race_of,
    raw,
    read,
    record_of,
    records,
    relations_of,
    show,
    split,
)

# Keys that never have a TTL: they belong to the partition, or hold only rows of unfinished executions.
PERMANENT = (
    *(keys.QUEUE, keys.INDEX, keys.TIMERS, keys.SUSPENSIONS, keys.ERRANDS, keys.ERRAND_FAILURES),
    *(keys.WORKFLOWS, keys.VERSIONS, keys.WORKERS, keys.SERVES, keys.META, keys.QUEUES, keys.LIMITS),
    *(keys.RESERVED, keys.SKIPPED, keys.EXPIRING),
    *(keys.DEFINITIONS, keys.SCHEDULES, keys.KEYS),
    *(keys.CHILDREN, keys.SUBS, keys.SLOTS, keys.WAITERS),
)

# Fields of an execution that only a queued one has.
OF_ACTIVATIONS = (b"entry", b"owner", b"attempts", b"progress", b"answers")


def check(url: str, namespace: str) -> None:
    """Raise AssertionError with the violations unless every invariant holds in the namespace.

    A violation counts only if a second pass finds it too: keys are listed and read in two steps, and
    something may still have been writing.
    """
    with ExitStack() as stack:
        connections = [stack.enter_context(RawConnection(server)) for server in masters(url)]
        found = violations(namespace, *connections)
        if found:
            second_pass = set(violations(namespace, *connections))
            found = [one for one in found if one in second_pass]
    assert not found, f"{len(found)} broken invariants in {namespace!r}:\n  " + "\n  ".join(found[:20])


def violations(namespace: str, *connections: RawConnection) -> list[str]:
    """The violations in a namespace spread over these servers, one sentence each."""
    partitions = [partition for connection in connections for partition in read(connection, namespace)]
    relations = RelationInvariants(Namespace(partitions))
    used = Counter(partition.prefix for partition in partitions if partition.ttl.keys() != {keys.META})
    found = [f"{prefix}: on {servers} servers" for prefix, servers in used.items() if servers > 1]
    found += [
        text for partition in partitions for text in PartitionInvariants(partition, relations).violations()
    ]
    return [*found, *relations.violations()]


class PartitionInvariants:
    """The invariants within one partition; those across partitions are in relation_invariants.py."""

    def __init__(self, state: Partition, relations: RelationInvariants) -> None:
        self.state = state
        self.relation_invariants = relations

    def violations(self) -> Iterator[str]:
        yield from (f"{self.state.prefix}{text}" for text in self.state.unknown)
        yield from self._keys()
        yield from self._versions()
        expected = _Expected()
        for execution_id, fields in self.state.executions.items():
            yield from self._execution(execution_id, fields, expected)
        timers = {m: due for m, due in self.state.timers.items() if m not in expected.allowed}
        yield from _difference("timers", timers, expected.timers)
        yield from _difference("suspensions", self.state.suspensions, expected.suspensions)
        yield from self._ended()
        yield from self._index()
        yield from self._queues()
        yield from self._unserved()

    # --- keys ---------------------------------------------------------------------------

    def _keys(self) -> Iterator[str]:
        """Every key has a TTL, or is permanent, or belongs to an unfinished execution."""
        active_roots = {
            execution_id.partition(b".")[0]
            for execution_id, fields in self.state.executions.items()
            if fields.get(b"status") in UNFINISHED
        }
        for key, ttl in self.state.ttl.items():
            kind, rest = split(key)
            name = show(raw(key))
            if kind in PERMANENT:
                if ttl != -1:
                    yield f"{name} has a TTL but is permanent"
                continue
            owner = self._owner(kind, rest)
            status = self.state.executions.get(owner, {}).get(b"status") if owner is not None else None
            shared = (keys.TOPIC, keys.BELOW, keys.DESCENDANTS)
            if status not in UNFINISHED and kind in shared and rest in active_roots:
                continue  # a child outlives its root: its end gives them a TTL
            if ttl == -1 and status not in UNFINISHED:
                whose = "no execution" if status is None else f"execution {show(owner)} ({show(status)})"
                yield f"{name} has no TTL and belongs to {whose}"
            elif ttl != -1 and status in UNFINISHED and self._lasts(kind, rest, owner or b""):
                yield f"{name} has a TTL but its execution is {show(status)}"

    def _versions(self) -> Iterator[str]:
        """Every stored tuple begins with the version of its format."""
        for what, packed in self._tuples():
            try:
                stored = msgpack.unpackb(packed, raw=True, strict_map_key=False)
            except ValueError:  # damaged by a test
                continue
            if isinstance(stored, list) and stored[:1] != [VERSION]:
                yield f"{what} begins with {stored[:1]}, not with version {VERSION}"

    def _tuples(self) -> Iterator[tuple[str, bytes]]:
        """The stored tuples, and what each is."""
        state = self.state
        for execution_id, journal in state.journals.items():
            for key, packed in journal.items():
                if key:
                    yield f"the record {show(key)} of execution {show(execution_id)}", packed
        for execution_id, answers in state.early.items():
            for key, packed in answers.items():
                yield f"the early answer {show(key)} of execution {show(execution_id)}", packed
        for root, entries in state.audit.items():
            yield from ((f"an audit entry of {show(root)}", packed) for packed in entries)
        for execution_id, fields in state.executions.items():
            for name in (b"error", b"held_back"):
                if name in fields:
                    yield f"{show(name)} of execution {show(execution_id)}", fields[name]
            for name in (b"running", b"heartbeats"):
                for row in msgpack.unpackb(fields.get(name, b"\x90"), raw=True):
                    yield f"a row of {show(name)} of execution {show(execution_id)}", msgpack.packb(row)
        for errand, packed in state.errand_failures.items():
            yield f"the failure of errand {show(errand)}", packed

    def _owner(self, kind: str, rest: bytes) -> bytes | None:
        """The execution a key belongs to; None for a free topic, an event's name and the timer leader."""
        if kind in (keys.EXEC, keys.JOURNAL, keys.EARLY, keys.BELOW, keys.DESCENDANTS):
            return rest
        if kind == keys.TOPIC:
            last = rest.rpartition(b"/")[2]
            return last if last in self.state.executions else None
        return None

    def _lasts(self, kind: str, rest: bytes, execution_id: bytes) -> bool:
        """Whether a key must last as long as its execution: all but topics that only users write to."""
        if kind != keys.TOPIC:
            return True
        journal = self.state.journals.get(execution_id, {})
        record = record_of(journal.get(rest.rpartition(b"/")[0] or b"-", b""))
        of_wait = record is not None and record[1] == b"suspend"
        return of_wait or rest == execution_id.partition(b".")[0]

    # --- executions ---------------------------------------------------------------------

    def _execution(
        self, execution_id: bytes, fields: dict[bytes, bytes], expected: _Expected
    ) -> Iterator[str]:
        who, status = f"execution {show(execution_id)}", fields.get(b"status")
        missing = {b"workflow", b"status", b"run", b"input", b"created", b"retention"} - set(fields)
        if missing:
            yield f"{who} has no {', '.join(show(name) for name in sorted(missing))}"
            return
        entry, owner = fields.get(b"entry"), fields.get(b"owner")
        journal = self.state.journals.get(execution_id, {})
        waits = {key: record for key, record in records(journal) if is_open(record)}
        yield from self._journal(execution_id, journal, waits, fields)

        if status == b"queued":
            if entry is None:
                if self.relation_invariants.starts_by_timer(self.state, execution_id, fields):
                    expected.timers[b"p" + execution_id] = None
                if owner is not None:
                    yield f"{who} is queued with an owner but no entry"
            else:
                yield from self._entry(who, execution_id, entry, fields)
        elif status in (b"waiting", b"stuck"):
            for name in (*OF_ACTIVATIONS, b"held_back"):
                if name in fields:
                    yield f"{who} is {show(status)} but has {show(name)}: {show(fields[name])}"
            if status == b"waiting" and not waits:
                yield f"{who} is waiting for nothing: its journal has no open wait"
        elif status in FINISHED:
            yield from self._finished(who, execution_id, fields, waits)
        else:
            yield f"{who} has the status {show(status)}"
        if b"continuing" in fields:
            yield f"{who} has begun to continue as new, and nothing ends that"
        if int(fields.get(b"since", b"1")) > int(fields[b"run"]):
            yield f"{who} has run {show(fields[b'run'])}, and its journal begins with a later one"
        if status not in FINISHED and (status == b"stuck") != (b"stuck" in fields):
            yield f"{who} is {show(status)} but its reason for being stuck is {show(fields.get(b'stuck'))}"
        if status in UNFINISHED:
            for name in (b"finished", b"output", b"error", b"cancelled_by"):
                if name in fields:
                    yield f"{who} is {show(status)} but has {show(name)}: {show(fields[name])}"

        self._timers(execution_id, fields, waits, expected)

    def _timers(
        self, execution_id: bytes, fields: dict[bytes, bytes], waits: dict[bytes, Any], expected: _Expected
    ) -> None:
        """The timers and inbox rows that an execution requires."""
        relations = relations_of(fields)
        if relations.deadline is not None and fields[b"status"] in UNFINISHED:
            expected.timers[b"t" + execution_id] = relations.deadline
        if self.relation_invariants.may_end_its_children(fields):
            expected.allowed.add(b"c" + execution_id)
        for key, record in waits.items():
            member, due = execution_id + b" " + key, record[4]
            if record[1] == b"suspend":
                expected.suspensions[member] = None
                if due:
                    expected.timers[b"s" + member] = due
            elif record[1] == b"wait":
                if due:
                    expected.timers[b"w" + member] = due
            elif record[1] == b"step":
                expected.timers[b"b" + member] = None

    def _journal(
        self,
        execution_id: bytes,
        journal: dict[bytes, bytes],
        waits: dict[bytes, Any],
        fields: dict[bytes, bytes],
    ) -> Iterator[str]:
        who = f"execution {show(execution_id)}"
        count = int(journal.get(b"", b"0"))
        record_keys = [key for key in journal if key and not is_result(key)]
        if count < len(record_keys):
            yield f"{who} counts {count} changes of its journal, which has {len(record_keys)} records"
        noted = set(msgpack.unpackb(fields[b"waits"], raw=True)) if b"waits" in fields else set()
        for key in waits.keys() - noted:
            yield f"{who} has not noted its wait {show(key)}: its end would not close it"
        yield from self._audit(who, execution_id, journal)
        for key in self.state.early.get(execution_id, {}).keys() & waits.keys():
            if b"y" + execution_id + b" " + key not in self.state.errands:
                yield f"{who} has an early answer for {show(key)}, which is open, but nothing gives it"
        for key in noted - waits.keys():
            record = record_of(journal.get(key, b""))
            if record is not None and record[1] != b"suspend":
                yield f"{who} still notes its wait {show(key)}, which is decided and has no topic"
        yield from self._races(who, journal)
        yield from self._stream(who, execution_id, fields)

    def _stream(self, who: str, execution_id: bytes, fields: dict[bytes, bytes]) -> Iterator[str]:
        """A root that says it has a stream has one, and no other has; a direct writer owns a root without
        one."""
        status, told = fields.get(b"status"), b"stream" in fields
        if b"." in execution_id and told:
            yield f"{who} is a child and has a stream"
        if b"." not in execution_id and status in UNFINISHED and told != (execution_id in self.state.topics):
            yield f"{who} is {'' if told else 'not '}to have a stream, and has {'none' if told else 'one'}"
        writer = self.state.writers.get(execution_id)
        if writer is not None and (status != b"queued" or told or writer != fields.get(b"owner")):
            yield f"{who} has a direct writer, {show(writer)}, and is {show(status)}"

    def _audit(self, who: str, execution_id: bytes, journal: dict[bytes, bytes]) -> Iterator[str]:
        """The audit has the outcome of every suspension once, and every one of several decisions."""
        entries = self.state.audit.get(execution_id.partition(b".")[0], [])
        audited = [msgpack.unpackb(entry, raw=True)[1:] for entry in entries]  # after the version
        for key, record in records(journal):
            if record[1] != b"suspend":
                continue
            of_it = [one for one in audited if (one[0], one[1], one[8]) == (execution_id, key, record[3])]
            of_it = [one for one in of_it if one[3] != b"set aside"]  # of an answer, not of the suspension
            skipped = [one[3] for one in of_it].count(b"skipped")
            copied = b"copied" in [one[3] for one in of_it]  # with its mark: a fork has it
            if skipped != (record[18:] != [] and record[18][0] == b"skipped") and not (
                copied and not skipped
            ):
                yield f"{who} has {show(key)} marked {record[18:]}, but skipped {skipped} times in its audit"
            if record[18:] and record[2] != b"answered":
                yield f"{who} has {show(key)} {show(record[2])}, but marked {record[18]}"
            ends = [one[3] for one in of_it if one[3] not in (b"recorded", b"skipped")]
            never_asked = record[2] == b"closed" and record[3] == record[10]  # its race was over
            expected = [] if record[2] == b"open" else [b"copied" if copied else record[2]]
            if ends != expected and not (never_asked and not ends):
                yield f"{who} has {show(key)} {show(record[2])}, but its audit says {ends}"
            made = len(msgpack.unpackb(record[12], raw=True)) if record[12] else 0
            last = int(bool(made) and record[2] == b"answered")  # the last one decided it
            noted = 0 if copied else made - last  # the one entry of a copy names everybody
            if sum(one[3] == b"recorded" for one in of_it) != noted:
                yield f"{who} has {made} decisions on {show(key)}, but its audit has another number"

    def _races(self, who: str, journal: dict[bytes, bytes]) -> Iterator[str]:
        """The race of a decided wait is decided, and a decided race has closed its other waits."""
        found = dict(records(journal))
        for key, record in found.items():
            if record[1] != b"race":
                continue
            members = list(record[6])
            for member, branch in zip(members[::2], members[1::2], strict=True):
                other = found.get(member)
                if other is None or other[1] == b"race":
                    continue
                name = f"{who} has the race {show(key)}"
                if record[2] == b"won" and branch != record[4] and is_open(other):
                    yield f"{name}, won by {show(record[4])}, but {show(member)} is open"
                if record[2] == b"open" and race_of(other) == key and other[2] not in (b"open", b"closed"):
                    yield f"{name}, which is open, but its {show(member)} is {show(other[2])}"

    def _entry(
        self, who: str, execution_id: bytes, entry: bytes, fields: dict[bytes, bytes]
    ) -> Iterator[str]:
        name = fields.get(b"queue", keys.DEFAULT_QUEUE.encode())
        queue = self.state.queues.get(name)
        found = queue.entries.get(entry) if queue is not None else None
        if found is None or queue is None:
            yield f"{who} is queued as entry {show(entry)}, which is not in queue {show(name)}"
        elif found.get(b"id") != execution_id or found.get(b"workflow") != fields[b"workflow"]:
            yield f"{who} is queued as entry {show(entry)}, which is for {show(found.get(b'id'))}"
        elif entry not in queue.pending and order(entry) <= queue.delivered:
            yield f"{who} is lost: its entry {show(entry)} was delivered and is pending for nobody"

    def _finished(
        self, who: str, execution_id: bytes, fields: dict[bytes, bytes], waits: dict[bytes, Any]
    ) -> Iterator[str]:
        status = show(fields[b"status"])
        for key in waits:
            yield f"{who} is {status} but its wait {show(key)} is open"
        if execution_id in self.state.early:
            yield f"{who} is {status} but still keeps early answers"
        for errand in self.state.errands.keys() | self.state.errand_failures.keys():
            if errand.startswith(b"y" + execution_id + b" "):
                yield f"{who} is {status} but has the errand {show(errand)}"
        if b"finished" not in fields:
            yield f"{who} is {status} but has no finish time"
            return
        due = int(fields[b"finished"]) + int(fields[b"retention"])
        name = _name(fields)
        row = self.state.index.get((b"ended", name), {}).get(execution_id)
        if row is None and due > self.state.now:
            yield f"{who} is {status} but has no row in index ended:{show(name)}"
        elif row is not None and row != due:
            yield f"{who} is {status} until {due} but its row in index ended:{show(name)} says {row:.0f}"

    # --- rows beside executions -----------------------------------------------------------

    def _ended(self) -> Iterator[str]:
        for execution_id, due in self.state.ended.items():
            status = self.state.executions.get(execution_id, {}).get(b"status")
            if status in UNFINISHED and due > self.state.now:  # else a predecessor's, not yet removed
                yield f"execution {show(execution_id)} is {show(status)} but is listed as one that has ended"
            elif status is None and due > self.state.now:
                yield f"{show(execution_id)} is listed as one that has ended, but is gone before its time"

    def _index(self) -> Iterator[str]:
        """Every execution is in exactly the indexes that it belongs to, by its creation time."""
        for (what, name), rows in self.state.index.items():
            if what in (b"ended", b"unserved"):
                continue
            where = f"index {show(what)}:{show(name)}"
            for execution_id, score in rows.items():
                fields = self.state.executions.get(execution_id)
                forgotten_later = execution_id in self.state.ended
                if fields is None:
                    if not forgotten_later:
                        yield f"{where} has a row for {show(execution_id)}, which does not exist"
                elif (what, name) not in _indexes(fields):
                    if not forgotten_later or fields.get(b"status") in FINISHED:
                        now = show(fields.get(b"status"))
                        yield f"{where} has a row for {show(execution_id)}, which is {now}"
                elif score != int(fields.get(b"created", b"0")):
                    created = show(fields.get(b"created"))
                    yield f"{where} has {show(execution_id)} at {score:.0f}, created {created}"
        for execution_id, fields in self.state.executions.items():
            for what, name in _indexes(fields):
                if execution_id not in self.state.index.get((what, name), {}):
                    where = f"{show(what)}:{show(name)}"
                    yield f"execution {show(execution_id)} has no row in index {where}"
                if what != b"version" and name not in self.state.workflows:
                    yield f"the workflow of execution {show(execution_id)}, {show(name)}, is not listed"

        of_versions = {name for (what, name), rows in self.state.index.items() if what == b"version" and rows}
        for name in of_versions ^ self.state.versions:
            yield f"the version {show(name)} has open executions or is listed, but not both"

    def _queues(self) -> Iterator[str]:
        """Every entry is the live one of a queued execution: all scripts change the two together."""
        for name, queue in self.state.queues.items():
            for entry, fields in queue.entries.items():
                execution_id = fields.get(b"id", b"")
                execution = self.state.executions.get(execution_id, {})
                if execution.get(b"status") != b"queued" or execution.get(b"entry") != entry:
                    stands = f"{show(execution.get(b'status'))} as entry {show(execution.get(b'entry'))}"
                    stale = f"stale entry {show(entry)} of {show(execution_id)}"
                    yield f"queue {show(name)} has the {stale}, which is {stands}"
            if queue.has_group != (name in self.state.listed_queues):
                yield f"queue {show(name)} is listed or has a group, but not both: no worker reads it"
            for entry in queue.pending.keys() - queue.entries.keys():
                yield f"queue {show(name)} has entry {show(entry)} pending that was deleted"
        for name in self.state.listed_queues - self.state.queues.keys():
            yield f"queue {show(name)} is listed but does not exist"

    def _unserved(self) -> Iterator[str]:
        """The executions that wait for a worker to read their reserved streams are listed by these."""
        rows = {
            (name, execution_id): created
            for (what, name), index in self.state.index.items()
            if what == b"unserved"
            for execution_id, created in index.items()
        }
        waiting = {
            (fields.get(b"queue", b""), execution_id): int(fields[b"created"])
            for execution_id, fields in self.state.executions.items()
            if self.state.timers.get(b"p" + execution_id) == NEVER_MS
        }
        for (name, execution_id), _ in rows.items() ^ waiting.items():
            yield f"execution {show(execution_id)} is unserved or listed in {show(name)}, but not both"
        reserved = {name for name in self.state.queues if b"\0" in name} | {name for name, _ in rows}
        for name in reserved - self.state.reserved:
            yield f"queue {show(name)} is reserved, but not listed as such"


def _name(fields: dict[bytes, bytes]) -> bytes:
    """The name of the indexes that an execution is in."""
    return fields.get(b"index", fields.get(b"workflow", b""))


def _indexes(fields: dict[bytes, bytes]) -> set[tuple[bytes, bytes]]:
    """The indexes by creation time that an execution is in."""
    status, name = fields.get(b"status", b""), _name(fields)
    found = {(b"all", name)}
    if status != b"completed" and not (status == b"queued" and b"entry" in fields):
        found.add((status, name))
    if b"version" in fields and status in UNFINISHED:
        found.add((b"version", fields[b"workflow"] + b"\0" + fields[b"version"]))
    return found


@dataclass(frozen=True, slots=True)
class _Expected:
    """The rows that the executions' journals require; None for any score."""

    timers: dict[bytes, int | None] = field(default_factory=dict)
    suspensions: dict[bytes, int | None] = field(default_factory=dict)
    allowed: set[bytes] = field(default_factory=set)  # timers that may or may not be present


def _difference(where: str, rows: dict[bytes, float], expected: dict[bytes, int | None]) -> Iterator[str]:
    for member in expected.keys() - rows.keys():
        yield f"{where} has no row {show(member)}"
    for member in rows.keys() - expected.keys():
        yield f"{where} has a row {show(member)} that nothing waits for"
    for member, score in expected.items():
        if score is not None and rows.get(member, score) != score:
            yield f"{where} has {show(member)} at {rows[member]:.0f}, not {score}"
