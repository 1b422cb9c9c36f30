"""Journal records: what is stored under a step key.

A record is one msgpack array that begins with the format version, a kind and a status. Values in it are
opaque codec bytes, so a script can change a record without understanding what users store. Each class below
reads its own array with `from_array`; `parse` finds the class.

step         [1, "step", status, attempt, took ms, value or error, (state, (branches,)) finished ms]
             status: ok | failed | retry (may run again) | backoff (waits for its durable retry delay) |
             abandoned (the workflow's code cancelled the call)
             state: the fields of ctx.state that it changed, if any, and of one that may run again its
             progress, see `ctx.step.heartbeat`; branches: those of races it ran in, if
             any, from the inside: a packed list of race, branch, race, branch, ...
suspension   [1, "suspend", status, opened ms, deadline ms or 0, shown, answer, digest, by, channel,
             decided ms, policy, decisions, race, digest of what is shown, retention of its audit in ms, run
             (, form (, [mark, marked ms, by, reason]))]
             status: open | answered | expired | closed; race: the step key of the race it decides, or "";
             answer: until it is decided, the answer after the deadline, or ""; policy: see answer_policy.py;
             decisions: a packed list of [answer, digest, by, channel, ms, "1" (approves) or "0"], or "";
             mark: left | optional | skipped: why code need not reach the answer, see `mark` in resolve.lua
wait         [1, "wait", status, opened ms, due ms or 0, topic ("": a delay), subscriber to the topic,
             event id, event type, data, decided ms, race]
             status: open | over | event | expired | closed
child        [1, "child", status, opened ms, children, results to come, children started, decided ms, race
             (, of)]
             status: started (nobody waits) | open | done | closed; of: the execution whose children they are,
             in the journal of a fork that did not start them itself
race         [1, "race", status, opened ms, winner, decided ms, [step key, branch, ...]]
             status: open | won; the list has the waits opened and the steps started in its branches
result       of a child that is waited for, under b"\xff" and the child's hash: [1, status, output or error or
             canceller, step key that waits for it, when it began to wait, ms]

stored_errors.py has the format of errors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from polos_redis.errors import UnreadableValueError
from polos_redis.state import keys
from polos_redis.values.text import raw, text
from polos_redis.values.versioned import items_of

VERSION = 1
COUNT = b""  # the journal's field that counts its changes
WRITER = b"\xfe"  # the journal's field that names its direct writer, see write_step.lua
UNTIMED = b"\0"  # msgpack's 0: completes a step's record whose time only the server knows

# No bin type: the scripts' cmsgpack can't read it, and they do read these records.
_pack = msgpack.Packer(use_bin_type=False).pack


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that has run. `value` is codec bytes, or a stored error if the step failed; `state` holds the
    fields of the workflow's state that it changed (codec), empty for none; `branches` maps the races that it
    ran in to their branches."""

    status: str
    attempt: int
    took_ms: float
    value: bytes
    state: bytes
    finished_ms: int
    branches: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def from_array(cls, array: list[Any]) -> StepRecord:
        if len(array) == 7:  # the usual one, without state
            _, _, status, attempt, took_ms, value, finished_ms = array
            return cls(status.decode(), attempt, took_ms, value, b"", int(finished_ms))
        _, _, status, attempt, took_ms, value, state, *more, finished_ms = array
        flat = msgpack.unpackb(more[0], raw=True) if more else ()
        branches = tuple(zip(flat[::2], flat[1::2], strict=True))
        return cls(status.decode(), attempt, took_ms, value, state, int(finished_ms), branches)


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """The decision of one of several people. `answer` is codec bytes."""

    answer: bytes
    by: str
    channel: str
    at_ms: int

    @classmethod
    def from_array(cls, array: list[Any]) -> DecisionRecord:
        answer, _, by, channel, at_ms, *_ = array
        return cls(answer, by.decode("utf-8", "replace"), channel.decode(), int(at_ms))


@dataclass(frozen=True, slots=True)
class Mark:
    """Why the workflow's code need not reach an accepted answer: `kind` is "left" (it cancelled the task that
    waited for it), "optional" (asked for after what a retry has dropped) or "skipped" (`by` somebody)."""

    kind: str
    at_ms: int
    by: str
    reason: str

    @classmethod
    def from_array(cls, array: list[Any]) -> Mark:
        kind, at_ms, by, reason, *_ = array
        return cls(text(kind), int(at_ms), text(by), text(reason))


@dataclass(frozen=True, slots=True)
class SuspensionRecord:
    """A wait for a person. `shown` and `answer` are codec bytes; `deadline_ms` 0 means none."""

    status: str
    opened_ms: int
    deadline_ms: int
    shown: bytes
    answer: bytes
    digest: bytes
    by: str
    channel: str
    decided_ms: int
    policy: bytes = b""
    decisions: tuple[DecisionRecord, ...] = ()
    race: bytes = b""
    shown_digest: bytes = b""
    run: int = 1
    form: bytes = b""  # codec
    mark: Mark | None = None

    @classmethod
    def from_array(cls, array: list[Any]) -> SuspensionRecord:
        if len(array) < 17:
            array += _NEWER_OF_SUSPENSION[len(array) - 17 :]
        _, _, status, opened, deadline, shown, answer, digest, by, channel, decided = array[:11]
        policy, decisions, race, shown_digest, _, run = array[11:17]
        return cls(
            status.decode(),
            int(opened),
            int(deadline),
            shown,
            answer,
            digest,
            by.decode("utf-8", "replace"),
            channel.decode("utf-8", "replace"),
            int(decided),
            policy,
            tuple(map(DecisionRecord.from_array, msgpack.unpackb(decisions, raw=True))) if decisions else (),
            race,
            shown_digest,
            int(run),
            array[17] if len(array) > 17 else b"",
            Mark.from_array(array[18]) if len(array) > 18 else None,
        )

    @property
    def opening(self) -> str:
        """The identity of this opening of the suspension: its time, its policy and what it shows. An answer
        names the opening it was checked against. Computed as in answer.lua."""
        content = hashlib.sha1(self.policy + self.shown_digest, usedforsecurity=False).hexdigest()
        return f"{self.opened_ms}:{content}"


# defaults for records of earlier releases: race, digest of what is shown, retention of the audit, run
_NEWER_OF_SUSPENSION: tuple[Any, ...] = (b"", b"", 0, 1)


@dataclass(frozen=True, slots=True)
class WaitRecord:
    """A wait for a time, or for an event of `topic`. `data` is codec bytes; `due_ms` 0 means no timeout."""

    status: str
    opened_ms: int
    due_ms: int
    topic: str
    event_id: bytes
    event_type: str
    data: bytes
    decided_ms: int
    race: bytes = b""

    @classmethod
    def from_array(cls, array: list[Any]) -> WaitRecord:
        _, _, status, opened, due, topic, _, event, event_type, data, decided, *race = array
        return cls(
            status.decode(),
            int(opened),
            int(due),
            text(topic),
            event,
            text(event_type),
            data,
            int(decided),
            race[0] if race else b"",
        )


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """A step that starts children: `started` have started so far, `left` have not ended yet. `of` is the
    execution whose children they are, if a fork has them from there."""

    status: str
    opened_ms: int
    children: int
    left: int
    started: int
    decided_ms: int
    race: bytes = b""
    of: str = ""

    @classmethod
    def from_array(cls, array: list[Any]) -> ChildRecord:
        _, _, status, opened, children, left, started, decided, *more = array
        return cls(
            status.decode(),
            int(opened),
            int(children),
            int(left),
            int(started),
            int(decided),
            more[0] if more else b"",
            text(more[1]) if len(more) > 1 else "",
        )

    def child_id(self, execution_id: str, step_key: str, index: int, since_run: int) -> str:
        """Returns the id of one of the children; `execution_id` has this record in its journal, which begins
        with the run `since_run`."""
        return keys.child_id(self.of or execution_id, step_key, index, since_run)


@dataclass(frozen=True, slots=True)
class RaceRecord:
    """A race of several branches; `members` maps the step keys started in them to their branch."""

    status: str
    opened_ms: int
    winner: str
    decided_ms: int
    members: dict[str, str]

    @classmethod
    def from_array(cls, array: list[Any]) -> RaceRecord:
        _, _, status, opened, winner, decided, members, *_ = array
        names = [text(name) for name in members or ()]  # an empty Lua table may arrive as a map
        return cls(
            status.decode(),
            int(opened),
            text(winner),
            int(decided),
            dict(zip(names[::2], names[1::2], strict=True)),
        )


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """The end of a child: its status and its output (codec), stored error or canceller."""

    status: str
    value: bytes


Record = StepRecord | SuspensionRecord | WaitRecord | ChildRecord | RaceRecord

_READERS: dict[bytes, Callable[[list[Any]], Record]] = {
    b"step": StepRecord.from_array,
    b"suspend": SuspensionRecord.from_array,
    b"wait": WaitRecord.from_array,
    b"child": ChildRecord.from_array,
    b"race": RaceRecord.from_array,
}


def step_record(
    status: str,
    attempt: int,
    took_ms: float,
    value: bytes,
    state: bytes = b"",
    branches: Sequence[bytes] = (),
) -> bytes:
    """Returns a step's record without its last item, the time, which the script appends (or `UNTIMED`).
    `branches` alternates races and their branches."""
    fields = (VERSION, "step", status, attempt, took_ms, value)
    if branches:
        packed: bytes = _pack((*fields, state, _pack(branches), 0))
    elif state:
        packed = _pack((*fields, state, 0))
    else:
        packed = _pack((*fields, 0))
    return packed[: -len(UNTIMED)]


def finished_at(step: bytes) -> float:
    """Returns when a step was journaled, ms, with a fraction that tells steps of one millisecond apart."""
    return float(msgpack.unpackb(step, raw=True)[-1])


def attempt_of(record: bytes) -> int:
    """Returns which attempt a step's record is of; 0 for a record of another kind or a damaged one."""
    try:
        step = parse(record)
    except UnreadableValueError:
        return 0
    return step.attempt if isinstance(step, StepRecord) else 0


def has_lost(record: bytes, journal: Mapping[bytes, bytes], reached: Container[str]) -> bool:
    """Returns whether a step's record was made in a branch that has lost its race, one of those `reached`.

    A race lists what was started in its branches, but not all of it if its worker was lost before.
    """
    try:
        step = parse(record)
        if isinstance(step, StepRecord):
            for race, branch in step.branches:
                won = parse(journal[race]) if race in journal and text(race) in reached else None
                if isinstance(won, RaceRecord) and won.status == "won" and won.winner != text(branch):
                    return True
    except UnreadableValueError:
        pass
    return False


def result_name(child_id: str) -> bytes:
    """Returns the journal's field for a child's result."""
    return b"\xff" + child_id.rpartition(".")[2].encode()


def is_step_key(name: bytes) -> bool:
    """Returns whether a field of the journal is a step key, which has a record."""
    return name not in (COUNT, WRITER) and not is_result(name)


def is_result(name: bytes) -> bool:
    """Returns whether a field of the journal is a child's result, not a step key."""
    return name.startswith(b"\xff")


def parse_result(raw: bytes) -> ResultRecord:
    """Read a child's result. Raises `UnreadableValueError` if it is damaged."""
    try:
        status, value, *_ = items_of("a child's result in the journal", msgpack.unpackb(raw, raw=True))
        return ResultRecord(status.decode(), value)
    except UnreadableValueError:
        raise
    except Exception as error:
        raise UnreadableValueError(f"a child's result in the journal is damaged: {error}") from None


def parse(raw: bytes) -> Record:
    """Read a record. Raises `UnreadableValueError` if it is damaged or of a newer format."""
    try:
        array: list[Any] = msgpack.unpackb(raw, raw=True, strict_map_key=False)
        version, kind = array[0], array[1]
        read = _READERS.get(kind) if version == VERSION else None
        if read is not None:
            return read(array)
    except Exception as error:
        raise UnreadableValueError(f"a journal record is damaged: {error}") from None
    raise UnreadableValueError(
        f"a journal record is of version {version!r} and kind {kind!r}, which this release can't read: "
        "deploy the release that wrote it"
    )


_WORDS = {
    StepRecord: "step",
    SuspensionRecord: "suspension",
    WaitRecord: "wait",
    ChildRecord: "child",
    RaceRecord: "race",
}


def word_for(kind: type) -> str:
    """Returns the word for a kind of record, for messages."""
    return _WORDS[kind]


PATCH = "patched:"  # begins the step keys of patches
_PATCH = PATCH.encode()


def is_patch(name: bytes) -> bool:
    """Returns whether a field of the journal says whether a patch is taken. Code that has dropped the patch
    need not reach it."""
    return name.startswith(_PATCH)


def need_not_be_reached(records: Mapping[bytes, bytes], reached: Container[str]) -> set[bytes]:
    """Returns the names of records that a replay may end without: what was in the branches that have lost a
    race, one of those `reached`, and answers that are marked."""
    found: set[bytes] = set()
    for name, stored in records.items():
        if not name or is_result(name):
            continue
        try:
            record = parse(stored)
        except UnreadableValueError:
            continue
        if isinstance(record, SuspensionRecord) and record.mark is not None:
            found.add(name)
        elif isinstance(record, RaceRecord) and record.status == "won" and text(name) in reached:
            found |= {raw(key) for key, branch in record.members.items() if branch != record.winner}
        elif isinstance(record, StepRecord) and has_lost(stored, records, reached):
            found.add(name)
    return found


_OPEN = ("open", "backoff")


def is_open(record: bytes) -> bool:
    """Returns whether a record is that of a wait that is not decided yet."""
    return parse(record).status in _OPEN


def is_given_up(record: bytes) -> bool:
    """Returns whether the workflow's code gave up what is recorded here before it was decided, or had run; or
    an answer that is marked, which code need not reach."""
    try:
        found = parse(record)
    except UnreadableValueError:
        return False
    return found.status in ("closed", "abandoned") or (
        isinstance(found, SuspensionRecord) and found.mark is not None
    )


_ACCEPTED = msgpack.packb(VERSION) + msgpack.packb("suspend") + msgpack.packb("answered")
_ASKED = msgpack.packb(VERSION) + msgpack.packb("suspend") + msgpack.packb("open")
_ARRAY_HEAD = 3  # bytes before it, in an array of more than 15 items; the last of them is its length
_LENGTH_WITH_MARK = 19


def is_accepted(record: bytes) -> bool:
    """Returns whether a record is that of a suspension with an accepted answer, which code must not pass
    over. Not one that expired, took its default or was closed, nor one that is marked."""
    return record.startswith(_ACCEPTED, _ARRAY_HEAD) and record[_ARRAY_HEAD - 1] < _LENGTH_WITH_MARK


def accepted(records: Mapping[bytes, bytes]) -> list[str]:
    """Returns the step keys of the accepted answers in a journal that code must not pass over."""
    return [
        text(name)
        for name, record in records.items()
        if record.startswith(_ACCEPTED, _ARRAY_HEAD) and is_accepted(record)
    ]


def asked(records: Mapping[bytes, bytes]) -> list[str]:
    """Returns the step keys of the open suspensions in a journal."""
    return [text(name) for name, record in records.items() if record.startswith(_ASKED, _ARRAY_HEAD)]


def waits_as(record: bytes, subscriber: str) -> bool:
    """Returns whether a record is that of an open wait for an event, under this subscriber's name."""
    try:
        _, kind, status, _, _, _, name, *_ = msgpack.unpackb(record, raw=True, strict_map_key=False)
        return (kind, status, name) == (b"wait", b"open", raw(subscriber))
    except Exception:  # damaged, so no event decides it
        return False


def may_become(known: bytes, now: bytes) -> bool:
    """Returns whether `now` is a legitimate successor of a record that an activation knows."""
    before, after = parse(known), parse(now)
    if isinstance(before, ChildRecord) and before.status == "started":
        return isinstance(after, ChildRecord) and before.opened_ms == after.opened_ms
    if isinstance(before, RaceRecord) and before.status == "won":
        return isinstance(after, RaceRecord) and before.winner == after.winner
    if isinstance(before, SuspensionRecord) and before.status == "answered":
        return isinstance(after, SuspensionRecord) and before == replace(after, mark=None)
    if not isinstance(before, StepRecord):
        return type(after) is type(before) and before.status == "open" and before.opened_ms == after.opened_ms
    if not isinstance(after, StepRecord):
        return False
    if before.finished_ms == 0 and before == replace(after, finished_ms=0):
        return True  # as this activation sent it, without the server's time
    # only the owner writes a step: any other change is its own write whose reply was lost, or its timer
    return before.status in ("retry", "backoff")
