"""The records of a journal: what is stored under a step key.

A record is one msgpack array that begins with the format version, a kind and a status. Values inside it
are opaque bytes of the codec, so a script can change a record without understanding what users store.

step         [1, "step", status, attempt, took ms, value or error, (state,) finished ms]
             status: ok | failed | retry (may run again) | backoff (waits for its durable retry delay) |
             abandoned (the workflow's code cancelled the call)
             state: the fields of ctx.state that it has changed, where it has
suspension   [1, "suspend", status, opened ms, deadline ms or 0, shown, answer, digest, by, channel,
             decided ms, terms, decisions, race, digest of what is shown, retention of its audit in ms, run]
             status: open | answered | expired | closed; race: the step key of the race it decides, or "";
             answer: before it is decided, what holds when nobody answers, or ""; terms: see terms.py;
             decisions: a packed list of [answer, digest, by, channel, ms, "1" (approves) or "0"], or ""
wait         [1, "wait", status, opened ms, due ms or 0, topic ("": a delay), subscriber to the topic,
             event id, event type, data, decided ms, race]
             status: open | over | event | expired | closed
child        [1, "child", status, opened ms, children, results to come, children begun, decided ms, race]
             status: started (nobody waits) | open | done | closed
race         [1, "race", status, opened ms, winner, decided ms, [step key, branch, ...]]
             status: open | won; the waits that were opened in its branches, and what else was begun in them
result       of a child that is waited for, under b"\xff" and the child's hash: [status, output or error or
             who, step key that waits for it]
error        msgpack [type name, message, traceback text]
"""

from __future__ import annotations

import hashlib
import traceback
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from polos_redis.errors import UnreadableValueError

VERSION = 1
COUNT = b""  # the journal's field that counts its changes
UNTIMED = b"\0"  # msgpack's 0: completes a step's record whose time only the server knows

# No bin type: the scripts' cmsgpack can't read it, and they do read these records.
_pack = msgpack.Packer(use_bin_type=False, unicode_errors="replace").pack
_ERROR_TEXT_LIMIT = 16_384


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that has run. `value` is codec bytes, or an error's bytes when it did not succeed; `state` the
    fields of the workflow's state that it has changed (codec), empty for none."""

    status: str
    attempt: int
    took_ms: float
    value: bytes
    state: bytes
    finished_ms: int


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """What one person has decided, where several have to. `answer` is codec bytes."""

    answer: bytes
    by: str
    channel: str
    at_ms: int


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

    @property
    def seen(self) -> str:
        """What tells this opening of the suspension, with what it shows and asks for, from any other: what
        an answer was checked against. As in answer.lua."""
        what = hashlib.sha1(self.policy + self.shown_digest, usedforsecurity=False).hexdigest()
        return f"{self.opened_ms}:{what}"


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


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """A step that begins children; `begun` of them so far, `left` have not ended yet."""

    status: str
    opened_ms: int
    children: int
    left: int
    started: int
    decided_ms: int
    race: bytes = b""


@dataclass(frozen=True, slots=True)
class RaceRecord:
    """A race of several branches; `members` is what was begun in them: step key -> branch."""

    status: str
    opened_ms: int
    winner: str
    decided_ms: int
    members: dict[str, str]


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """How a child ended: its status and its output (codec), error, or who cancelled it."""

    status: str
    value: bytes


Record = StepRecord | SuspensionRecord | WaitRecord | ChildRecord | RaceRecord


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An exception as it is stored: its type's name, its text, its traceback."""

    type: str
    message: str
    traceback: str = ""


def step_record(status: str, attempt: int, took_ms: float, value: bytes, state: bytes = b"") -> bytes:
    """A step's record without its last item, the time, which the script appends (or `UNTIMED`)."""
    fields = (VERSION, "step", status, attempt, took_ms, value, *((state,) if state else ()))
    packed: bytes = _pack((*fields, 0))
    return packed[: -len(UNTIMED)]


def result_name(child_id: str) -> bytes:
    """The journal's field for a child's result."""
    return b"\xff" + child_id.rpartition(".")[2].encode()


def is_result(name: bytes) -> bool:
    """Whether a field of the journal is a child's result, not a step key."""
    return name.startswith(b"\xff")


def parse_result(raw: bytes) -> ResultRecord:
    """Read a child's result."""
    try:
        status, value = msgpack.unpackb(raw, raw=True)[:2]
        return ResultRecord(status.decode(), value)
    except Exception as error:
        raise UnreadableValueError(f"a child's result in the journal is damaged: {error}") from None


def parse(raw: bytes) -> Record:
    """Read a record. Raises `UnreadableValueError` when it is damaged or of a newer format."""
    try:
        record: list[Any] = msgpack.unpackb(raw, raw=True, strict_map_key=False)
        version, kind, status = record[0], record[1], record[2].decode()
        if version == VERSION and kind == b"step":
            state = record[6] if len(record) > 7 else b""
            return StepRecord(status, record[3], record[4], record[5], state, record[-1])
        if version == VERSION and kind == b"suspend":
            by, channel = (part.decode("utf-8", "replace") for part in (record[8], record[9]))
            return SuspensionRecord(
                status,
                int(record[3]),
                int(record[4]),
                record[5],
                record[6],
                record[7],
                by,
                channel,
                int(record[10]),
                record[11],
                _decisions(record[12]),
                _race(record, 13),
                record[14] if len(record) > 14 else b"",
                int(record[16]) if len(record) > 16 else 1,
            )
        if version == VERSION and kind == b"wait":
            return WaitRecord(
                status,
                int(record[3]),
                int(record[4]),
                _text(record[5]),
                record[7],
                _text(record[8]),
                record[9],
                int(record[10]),
                _race(record, 11),
            )
        if version == VERSION and kind == b"child":
            opened, children, left, started, decided = (int(number) for number in record[3:8])
            return ChildRecord(status, opened, children, left, started, decided, _race(record, 8))
        if version == VERSION and kind == b"race":
            members = [_text(part) for part in record[6] or ()]  # an empty Lua table may arrive as a map
            pairs = dict(zip(members[::2], members[1::2], strict=True))
            return RaceRecord(status, int(record[3]), _text(record[4]), int(record[5]), pairs)
    except Exception as error:
        raise UnreadableValueError(f"a journal record is damaged: {error}") from None
    raise UnreadableValueError(
        f"a journal record is of version {version!r} and kind {kind!r}, which this release can't read: "
        "deploy the release that wrote it"
    )


def _decisions(packed: bytes) -> tuple[DecisionRecord, ...]:
    made = msgpack.unpackb(packed, raw=True) if packed else ()
    return tuple(
        DecisionRecord(one[0], one[2].decode("utf-8", "replace"), one[3].decode(), int(one[4]))
        for one in made
    )


def _race(record: list[Any], position: int) -> bytes:
    race: bytes = record[position] if len(record) > position else b""  # earlier releases knew of none
    return race


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")


_WORDS = {
    StepRecord: "step",
    SuspensionRecord: "suspension",
    WaitRecord: "wait",
    ChildRecord: "child",
    RaceRecord: "race",
}


def word_for(kind: type) -> str:
    """The word for a kind of record, for messages."""
    return _WORDS[kind]


_OPEN = ("open", "backoff")


def is_open(record: bytes) -> bool:
    """Whether a wait's record is still undecided."""
    return parse(record).status in _OPEN


def may_become(known: bytes, now: bytes) -> bool:
    """Whether `now` is a legitimate successor of a record that an activation knows."""
    before, after = parse(known), parse(now)
    if isinstance(before, ChildRecord) and before.status == "started":
        return isinstance(after, ChildRecord) and before.opened_ms == after.opened_ms
    if isinstance(before, RaceRecord) and before.status == "won":
        return isinstance(after, RaceRecord) and before.winner == after.winner
    if not isinstance(before, StepRecord):
        return type(after) is type(before) and before.status == "open" and before.opened_ms == after.opened_ms
    if not isinstance(after, StepRecord):
        return False
    if before.finished_ms == 0 and before == replace(after, finished_ms=0):
        return True  # as this activation sent it, without the server's time
    # only the owner writes a step, so another change is a write of our own whose reply was lost, or its timer
    return before.status in ("retry", "backoff")


def text_of(error: BaseException) -> str:
    """An exception's text, whatever its __str__ does; bounded."""
    try:
        text = str(error)
    except Exception as broken:
        text = f"<its text can't be read: {type(broken).__name__}>"
    return text if len(text) <= _ERROR_TEXT_LIMIT else text[:_ERROR_TEXT_LIMIT] + " ..."


def error_record(error: BaseException, *, with_traceback: bool = True) -> bytes:
    """Store an exception: [type, message, traceback]."""
    trace = ""
    if with_traceback:
        try:
            trace = "".join(traceback.format_exception(error))
        except Exception:
            trace = f"<the traceback of {type(error).__name__} can't be formatted>"
        if len(trace) > 2 * _ERROR_TEXT_LIMIT:
            trace = trace[:_ERROR_TEXT_LIMIT] + "\n ... \n" + trace[-_ERROR_TEXT_LIMIT:]
    packed: bytes = _pack((type(error).__name__, text_of(error), trace))
    return packed


def parse_error(raw: bytes) -> ErrorRecord:
    """Read a stored exception; a damaged one is told as such, never raised."""
    try:
        return ErrorRecord(*msgpack.unpackb(raw, raw=False, unicode_errors="replace")[:3])
    except Exception:
        return ErrorRecord("UnreadableValueError", "the stored error is damaged")
