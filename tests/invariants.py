"""What must hold of the state in Redis whatever has happened: the invariants of docs/architecture.md.

`check` is called after every test that used a server. It reads nothing but the namespace's keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgpack

from polos_redis import keys
from tests.state import Partition, RawConnection, is_open, order, read, record_of, records, show, split

UNFINISHED = (b"queued", b"waiting")
FINISHED = (b"completed", b"failed", b"cancelled")

PERMANENT = (
    *(keys.QUEUE, keys.INDEX, keys.TIMERS, keys.SUSPENSIONS, keys.EXPIRY),
    *(keys.WORKFLOWS, keys.WORKERS, keys.SERVES, keys.META),
)


def check(url: str, namespace: str) -> None:
    """Raise AssertionError, saying what is wrong, unless every invariant holds in the namespace.

    A complaint counts when a second look finds it too: the keys are listed and read in two steps, and
    something may still have been writing.
    """
    with RawConnection(url) as connection:
        found = complaints(connection, namespace)
        if found:
            again = set(complaints(connection, namespace))
            found = [one for one in found if one in again]
    assert not found, f"{len(found)} broken invariants in {namespace!r}:\n  " + "\n  ".join(found[:20])


def complaints(connection: RawConnection, namespace: str) -> list[str]:
    """What is wrong in a namespace, one sentence each."""
    return [text for partition in read(connection, namespace) for text in Checked(partition).complaints()]


class Checked:
    """One partition under examination."""

    def __init__(self, state: Partition) -> None:
        self.state = state

    def complaints(self) -> Iterator[str]:
        yield from (f"{self.state.prefix}{text}" for text in self.state.unknown)
        yield from self._keys()
        expected = _Expected()
        for id, fields in self.state.executions.items():
            yield from self._execution(id, fields, expected)
        yield from _difference("timers", self.state.timers, expected.timers)
        yield from _difference("suspensions", self.state.suspensions, expected.suspensions)
        yield from self._expiry()
        yield from self._index()
        yield from self._queues()

    # --- keys ---------------------------------------------------------------------------

    def _keys(self) -> Iterator[str]:
        """Every key has a TTL, or is permanent, or belongs to an execution that goes on."""
        for name, ttl in self.state.ttl.items():
            kind, rest = split(name)
            if kind in PERMANENT:
                if ttl != -1:
                    yield f"{name} has a TTL ({ttl} ms) but is permanent"
                continue
            owner = self._owner(kind, rest)
            status = self.state.executions.get(owner, {}).get(b"status") if owner is not None else None
            if ttl == -1 and status not in UNFINISHED:
                whose = "no execution" if status is None else f"execution {show(owner)} ({show(status)})"
                yield f"{name} has no TTL and belongs to {whose}"
            elif ttl != -1 and status in UNFINISHED and self._lasts(kind, rest, owner or b""):
                yield f"{name} has a TTL ({ttl} ms) but its execution is {show(status)}"

    def _owner(self, kind: str, rest: bytes) -> bytes | None:
        """The execution a key belongs to; None for a free topic and the pump."""
        if kind in (keys.EXEC, keys.JOURNAL, keys.EARLY):
            return rest
        if kind == keys.TOPIC:
            last = rest.rpartition(b"/")[2]
            return last if last in self.state.executions else None
        return None

    def _lasts(self, kind: str, rest: bytes, id: bytes) -> bool:
        """Whether a key must last as long as its execution: all but topics that only users write to."""
        if kind != keys.TOPIC:
            return True
        return rest == id.partition(b".")[0] or rest.rpartition(b"/")[0] in self._suspended(id)

    def _suspended(self, id: bytes) -> set[bytes]:
        found = ((key, record_of(packed)) for key, packed in self.state.journals.get(id, {}).items() if key)
        return {key for key, record in found if record and record[1] == b"suspend"}

    # --- executions ---------------------------------------------------------------------

    def _execution(self, id: bytes, fields: dict[bytes, bytes], expected: _Expected) -> Iterator[str]:
        who, status = f"execution {show(id)}", fields.get(b"status")
        missing = {b"workflow", b"status", b"run", b"input", b"created", b"retention"} - set(fields)
        if missing:
            yield f"{who} has no {', '.join(show(name) for name in sorted(missing))}"
            return
        entry, owner = fields.get(b"entry"), fields.get(b"owner")
        journal = self.state.journals.get(id, {})
        waits = {key: record for key, record in records(journal) if is_open(record)}
        yield from self._journal(who, journal, waits, fields)

        if status == b"queued":
            if entry is None:
                expected.timers[b"p" + id] = None
                if owner is not None:
                    yield f"{who} is queued with an owner but no entry"
            else:
                yield from self._entry(who, id, entry, fields)
        elif status == b"waiting":
            for name in (b"entry", b"owner"):
                if name in fields:
                    yield f"{who} is waiting but has an {show(name)}: {show(fields[name])}"
            if not waits:
                yield f"{who} is waiting for nothing: its journal has no open wait"
        elif status in FINISHED:
            yield from self._finished(who, id, fields, waits)
        else:
            yield f"{who} has the status {show(status)}"

        for key, record in waits.items():
            if record[1] == b"suspend":
                expected.suspensions[id + b" " + key] = None
                if record[4]:
                    expected.timers[b"s" + id + b" " + key] = record[4]
            else:
                expected.timers[b"b" + id + b" " + key] = None

    def _journal(
        self, who: str, journal: dict[bytes, bytes], waits: dict[bytes, Any], fields: dict[bytes, bytes]
    ) -> Iterator[str]:
        count, records = int(journal.get(b"", b"0")), len(journal.keys() - {b""})
        if count < records:
            yield f"{who} counts {count} changes of its journal, which has {records} records"
        noted = set(msgpack.unpackb(fields[b"waits"], raw=True)) if b"waits" in fields else set()
        for key in waits.keys() - noted:
            yield f"{who} has not noted its wait {show(key)}: its end would not close it"

    def _entry(self, who: str, id: bytes, entry: bytes, fields: dict[bytes, bytes]) -> Iterator[str]:
        name = fields.get(b"queue", keys.DEFAULT_QUEUE.encode())
        queue = self.state.queues.get(name)
        found = queue.entries.get(entry) if queue is not None else None
        if found is None or queue is None:
            yield f"{who} is queued as entry {show(entry)}, which is not in queue {show(name)}"
        elif found.get(b"id") != id or found.get(b"workflow") != fields[b"workflow"]:
            yield f"{who} is queued as entry {show(entry)}, which is for {show(found.get(b'id'))}"
        elif entry not in queue.pending and order(entry) <= queue.delivered:
            yield f"{who} is lost: its entry {show(entry)} was delivered and is pending for nobody"

    def _finished(
        self, who: str, id: bytes, fields: dict[bytes, bytes], waits: dict[bytes, Any]
    ) -> Iterator[str]:
        status = show(fields[b"status"])
        for name in (b"entry", b"owner", b"notify", b"attempts", b"progress"):
            if name in fields:
                yield f"{who} is {status} but has {show(name)}: {show(fields[name])}"
        for key in waits:
            yield f"{who} is {status} but its wait {show(key)} is open"
        if id in self.state.early:
            yield f"{who} is {status} but still keeps early answers"
        if b"finished" not in fields:
            yield f"{who} is {status} but has no finish time"
            return
        due = int(fields[b"finished"]) + int(fields[b"retention"])
        if id not in self.state.expiry and due > self.state.now:
            yield f"{who} is {status} but has no row in expiry"
        elif id in self.state.expiry and self.state.expiry[id] != due:
            yield f"{who} is {status} until {due} but its row in expiry says {self.state.expiry[id]:.0f}"

    # --- what lies beside them ----------------------------------------------------------

    def _expiry(self) -> Iterator[str]:
        for id, due in self.state.expiry.items():
            status = self.state.executions.get(id, {}).get(b"status")
            if status in UNFINISHED:
                yield f"execution {show(id)} is {show(status)} but has a row in expiry"
            elif status is None and due > self.state.now:
                yield f"expiry has a row for {show(id)}, which is gone before its time"

    def _index(self) -> Iterator[str]:
        """Every execution stands in one index, that of its status and workflow, by its creation time."""
        for (status, workflow), rows in self.state.index.items():
            for id, score in rows.items():
                where = f"index {show(status)}:{show(workflow)}"
                fields = self.state.executions.get(id)
                if fields is None:
                    if id not in self.state.expiry:
                        yield f"{where} has a row for {show(id)}, which does not exist"
                elif (fields.get(b"status"), fields.get(b"workflow")) != (status, workflow):
                    if id not in self.state.expiry or fields.get(b"status") in FINISHED:
                        yield f"{where} has a row for {show(id)}, which is {show(fields.get(b'status'))}"
                elif score != int(fields.get(b"created", b"0")):
                    yield f"{where} has {show(id)} at {score:.0f}, created {show(fields.get(b'created'))}"
        for id, fields in self.state.executions.items():
            place = (fields.get(b"status", b""), fields.get(b"workflow", b""))
            if id not in self.state.index.get(place, {}):
                yield f"execution {show(id)} has no row in index {show(place[0])}:{show(place[1])}"
            if place[1] not in self.state.workflows:
                yield f"workflow {show(place[1])} of execution {show(id)} is not among the workflows"

    def _queues(self) -> Iterator[str]:
        """Every entry is the live one of a queued execution: all scripts change the two together."""
        for name, queue in self.state.queues.items():
            for entry, fields in queue.entries.items():
                id = fields.get(b"id", b"")
                execution = self.state.executions.get(id, {})
                if execution.get(b"status") != b"queued" or execution.get(b"entry") != entry:
                    stands = f"is {show(execution.get(b'status'))} as {show(execution.get(b'entry'))}"
                    yield f"queue {show(name)} has a stale entry {show(entry)} of {show(id)}, which {stands}"
            for entry in queue.pending.keys() - queue.entries.keys():
                yield f"queue {show(name)} has entry {show(entry)} pending that was deleted"


@dataclass(frozen=True, slots=True)
class _Expected:
    """The rows that the executions' journals call for; None where the score is free."""

    timers: dict[bytes, int | None] = field(default_factory=dict)
    suspensions: dict[bytes, int | None] = field(default_factory=dict)


def _difference(where: str, rows: dict[bytes, float], expected: dict[bytes, int | None]) -> Iterator[str]:
    for member in expected.keys() - rows.keys():
        yield f"{where} has no row {show(member)}"
    for member in rows.keys() - expected.keys():
        yield f"{where} has a row {show(member)} that nothing waits for"
    for member, score in expected.items():
        if score is not None and rows.get(member, score) != score:
            yield f"{where} has {show(member)} at {rows[member]:.0f}, not {score}"
