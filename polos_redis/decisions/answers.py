"""Answers: how one is checked and decides a suspension, whoever brings it.

The store decides in one script. A suspension that has terms is decided only by an answer that was checked
against them: the script hands out the suspension as it stands, the check is made here, and the answer goes
with what it was checked against; has the suspension been opened anew meanwhile, it is checked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from polos_redis.connection.connection import Connection
from polos_redis.decisions.answer_policy import AnswerPolicy, verdict
from polos_redis.errors import (
    AlreadyResumedError,
    AmbiguousSuspensionError,
    ExecutionFinishedError,
    ExecutionNotFoundError,
    InvalidInputError,
    ShownChangedError,
    SuspensionExpiredError,
    SuspensionNotFoundError,
    UnreadableValueError,
)
from polos_redis.state import journal, keys
from polos_redis.state.journal import SuspensionRecord
from polos_redis.state.origin import Origin
from polos_redis.state.store import Store
from polos_redis.state.suspensions import Answer
from polos_redis.values import codec, digests
from polos_redis.values.text import raw, text
from polos_redis.values.times import to_datetime

LOOK = "?"  # an opening that none has: the suspension is handed out before it is decided


@dataclass(frozen=True, slots=True)
class Resumed:
    """A resume that was taken. `outcome` is "accepted" (it woke the workflow), "same" (this very answer had
    been accepted before: no effect), "recorded" (it takes more of them: this is one of `approvals`, of
    `required`) or "early" (kept until the suspension opens). Who and when are those of the answer that
    stands."""

    outcome: Literal["accepted", "same", "early", "recorded"]
    execution_id: str
    step_key: str
    resumed_by: str | None
    resumed_at: datetime
    approvals: int = 1
    required: int = 1


async def decide(
    connection: Connection,
    execution_id: str,
    step_key: str,
    data: Any,
    *,
    by: str | None = None,
    groups: Sequence[str] = (),
    digest: str | None = None,
    early: bool = False,
    channel: str,
) -> Resumed:
    """Give an answer; see `PolosClient.resume`."""
    _check(step_key, by, groups, digest)
    answer = Answer(
        codec.encode(data, limit=connection.max_value_bytes),
        digests.canonical_digest(data),
        by or "",
        groups,
        channel,
        seen="" if digest is None else LOOK,
    )
    store = await connection.store()
    reply = await _give(store, execution_id, step_key, answer, digest)
    if reply[0] == b"unknown":
        below = await find_below(store, execution_id, step_key)
        if below is not None:
            execution_id = below
            reply = await _give(store, execution_id, step_key, answer, digest)
        elif early and digest is None:  # who has been shown something answers that
            reply = await _give(store, execution_id, step_key, answer, digest, early=True)
    return _told(execution_id, step_key, reply)


async def take(store: Store, execution_id: str, step_key: str, answer: Answer) -> Resumed:
    """Give an answer that was kept until its suspension opened; as `decide`."""
    return _told(execution_id, step_key, await _give(store, execution_id, step_key, answer, None))


async def _give(
    store: Store, execution_id: str, step_key: str, answer: Answer, digest: str | None, early: bool = False
) -> list[Any]:
    """The reply of the store to an answer that was checked, where it has to be."""
    given = answer
    while True:
        reply = await store.suspensions.answer(execution_id, step_key, answer, early=early)
        if reply[0] != b"look":
            return reply
        record = journal.parse(reply[1])
        assert isinstance(record, SuspensionRecord)
        policy, plain = AnswerPolicy.unpack(record.policy), codec.to_plain(given.value)
        if record.status == "open":
            if digest is not None and not hmac.compare_digest(record.shown_digest.hex(), digest.lower()):
                raise ShownChangedError(execution_id, step_key)
            if record.policy:
                starters = Origin.unpack("", reply[2]).starters
                policy.check_person(execution_id, step_key, answer.by or None, answer.groups, starters)
                policy.check_answer(execution_id, step_key, plain)
        answer = replace(given, seen=record.seen, approves=verdict(plain) is True)
        if policy.schema is not None:  # whatever type it was given as
            value = codec.encode(plain, limit=codec.UNLIMITED)  # the size of what was given has been checked
            answer = replace(answer, value=value, digest=digests.canonical_digest(plain))


def _check(step_key: str, by: str | None, groups: Sequence[str], digest: str | None) -> None:
    if not isinstance(step_key, str):
        raise InvalidInputError(f"suspend_step_key is the step key as a text, not {step_key!r}")
    if by is not None and not isinstance(by, str):
        raise InvalidInputError(f"resumed_by is a name as a text, or None, not {by!r}")
    if isinstance(groups, str) or not all(isinstance(group, str) and group for group in groups):
        raise InvalidInputError(f"groups is a list of the names of groups, not {groups!r}")
    if digest is not None and not (isinstance(digest, str) and digest.isascii()):
        raise InvalidInputError(f"shown_digest is the digest of a suspension as a text, not {digest!r}")


def _told(execution_id: str, step_key: str, reply: list[Any]) -> Resumed:
    """What a reply of answer.lua means."""
    tag = reply[0]
    outcomes: dict[bytes, Literal["accepted", "same", "early", "recorded"]] = {
        b"accepted": "accepted",
        b"same": "same",
        b"kept": "early",
        b"recorded": "recorded",
    }
    if tag in outcomes:
        counts = [int(number) for number in reply[3:5]] or [1, 1]
        by = text(reply[2]) or None
        return Resumed(outcomes[tag], execution_id, step_key, by, to_datetime(int(reply[1])), *counts)
    if tag == b"other":
        raise AlreadyResumedError(execution_id, step_key, text(reply[2]) or None, to_datetime(int(reply[1])))
    if tag == b"expired":
        raise SuspensionExpiredError(execution_id, step_key, to_datetime(int(reply[1])))
    if tag == b"closed":
        raise ExecutionFinishedError(execution_id, text(reply[1]), f"suspension {step_key!r}")
    if tag == b"unknown":
        raise SuspensionNotFoundError(execution_id, step_key, [text(key) for key in reply[1:]])
    if tag == b"full":
        raise InvalidInputError(
            f"execution {execution_id} has a hundred answers that came early, and keeps no more: answer when "
            "the suspension is open"
        )
    raise ExecutionNotFoundError(execution_id)


async def find_below(store: Store, root_id: str, step_key: str) -> str | None:
    """The descendant that has a suspension of this key: the open one, else the last that was decided. It
    is then answered by its own id, so that a repeated call can't decide another one; an open one that
    comes after others is refused, as this may repeat a call that was meant for one of those."""
    if keys.root_of(root_id) != root_id:
        return None
    names = [(one, key) for one, key in await store.suspensions.below(root_id) if key == step_key]
    found = await read_suspensions(store, names)
    waiting = [one for one, _, record in found if record.status == "open"]
    if waiting and len(found) > 1:
        raise AmbiguousSuspensionError(root_id, [f"{step_key} of {one}" for one in sorted(waiting)])
    if waiting:
        return waiting[0]
    decided = sorted(found, key=lambda row: row[2].decided_ms)
    return decided[-1][0] if decided else None


async def read_suspensions(
    store: Store, names: list[tuple[str, str]]
) -> list[tuple[str, str, SuspensionRecord]]:
    """The suspensions of these execution ids and step keys, as far as they can be read."""
    stored = await asyncio.gather(*(store.executions.read_records(one, [raw(key)]) for one, key in names))
    found = []
    for name, (packed,) in zip(names, stored, strict=True):
        with contextlib.suppress(UnreadableValueError):  # `get_execution` of that one tells of it
            record = None if packed is None else journal.parse(packed)
            if isinstance(record, SuspensionRecord):
                found.append((*name, record))
    return found
