"""Answers: the one way to decide a suspension, for every client, channel and page.

Scripts decide; this module checks. answer.lua accepts an answer to a suspension with an answer policy only if
the answer names the opening it was checked against (`SuspensionRecord.opening`); otherwise it returns the
suspension as it stands, and the answer is checked against that and sent again. A caller that has just read
the suspension passes it on (`decide_stored`), which saves that round trip.

An answer is encoded once and stored as it is: an instance of the declared type arrives equal. What is checked
is its complete form, as of plain JSON.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from polos_redis.connection.connection import Connection
from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.decisions.answer_types import verdict
from polos_redis.decisions.people import check_groups, check_name
from polos_redis.decisions.suspensions import StoredSuspension, find_below
from polos_redis.errors import (
    AlreadyResumedError,
    ExecutionFinishedError,
    ExecutionNotFoundError,
    InvalidAnswerError,
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
from polos_redis.values import bounds, codec, digests
from polos_redis.values.complete_form import fields_of, is_record
from polos_redis.values.text import text
from polos_redis.values.times import to_datetime
from polos_redis.wire.durable import Durability

NO_OPENING = "?"  # matches no opening: the script returns the suspension before it decides it

Outcome = Literal["accepted", "same", "early", "recorded"]
_OUTCOMES: dict[bytes, Outcome] = {
    b"accepted": "accepted",
    b"same": "same",
    b"kept": "early",
    b"recorded": "recorded",
}


@dataclass(frozen=True, slots=True)
class Resumed:
    """Result of a resume that was not refused.

    `outcome` is "accepted" (the answer woke the workflow), "same" (this very answer had been accepted before:
    no effect), "recorded" (one of several answers it takes: `approvals` of `required` so far) or "early"
    (kept until the suspension opens). `resumed_by` and `resumed_at` are those of the answer that stands.
    """

    outcome: Outcome
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
    key_id: str = "",
    durability: Durability | None = None,
) -> Resumed:
    """Answer a suspension; see `PolosClient.resume`. `key_id` is the id of the API key it is given with."""
    keys.check_text("suspend_step_key", step_key, keys.LONGEST_STEP_KEY, empty=True)
    answer = replace(_encode(connection, data, by, groups, digest, channel), key_id=key_id)
    store = await connection.acknowledging_store(durability)
    reply = await _send(store, execution_id, step_key, answer, digest)
    if reply[0] == b"unknown":
        below = await find_below(store, execution_id, step_key)
        if below is not None:
            execution_id = below
            reply = await _send(store, execution_id, step_key, answer, digest)
        elif early and digest is None:  # a digest means the suspension was shown, so it is not early
            reply = await _keep(store, execution_id, step_key, answer)
    return await _outcome(store, execution_id, step_key, reply)


async def decide_stored(
    connection: Connection,
    suspension: StoredSuspension,
    data: Any,
    *,
    by: str | None = None,
    groups: Sequence[str] = (),
    digest: str | None = None,
    channel: str,
    durability: Durability | None = None,
) -> Resumed:
    """Answer a suspension that the caller has just read, in one round trip; as `decide`.

    If the suspension was opened again since, the answer is checked again, against the new opening.
    """
    answer = _encode(connection, data, by, groups, digest, channel)
    checked = await _checked(answer, suspension, digest)
    execution_id, step_key = suspension.execution_id, suspension.step_key
    store = await connection.acknowledging_store(durability)
    reply = await _send(store, execution_id, step_key, answer, digest, checked=checked)
    return await _outcome(store, execution_id, step_key, reply)


async def decide_early(store: Store, execution_id: str, step_key: str, answer: Answer) -> Resumed:
    """Give a suspension the answer that was kept for it; as `decide`."""
    reply = await _send(store, execution_id, step_key, answer, None)
    return await _outcome(store, execution_id, step_key, reply)


def _encode(
    connection: Connection,
    data: Any,
    by: str | None,
    groups: Sequence[str],
    digest: str | None,
    channel: str,
) -> Answer:
    """Returns the answer to send. Raises `InvalidInputError`, `NotStorableError` or `ValueTooLargeError`."""
    if by is not None and by != "":
        check_name("resumed_by", by, InvalidInputError)
    groups = check_groups("resumed_by", groups, InvalidInputError)
    keys.check_text("channel", channel)
    if digest is not None and not (isinstance(digest, str) and digest.isascii()):
        raise InvalidInputError(f"shown_digest must be the digest of a suspension, not {digest!r}")
    bounds.parts_of(data)
    value = codec.encode(data, limit=connection.max_value_bytes)
    return Answer(value, digests.stored_digest(value), by or "", groups, channel)


async def _keep(store: Store, execution_id: str, step_key: str, answer: Answer) -> list[Any]:
    """Returns the script's reply to an early answer. One whose API key is no longer valid does not stand."""
    reply = await _send(store, execution_id, step_key, answer, None, early=True)
    if len(reply) != 4:
        return reply
    *stands, held_by = reply
    if held_by in (b"", answer.key_id.encode()) or await store.api_keys.may(text(held_by), "approve"):
        return stands
    reply = await _send(store, execution_id, step_key, answer, None, early=True, invalid_key=text(held_by))
    return reply[:3] if len(reply) == 4 else reply


async def _send(
    store: Store,
    execution_id: str,
    step_key: str,
    answer: Answer,
    digest: str | None,
    *,
    checked: Answer | None = None,
    early: bool = False,
    invalid_key: str = "",
) -> list[Any]:
    """Returns the script's reply to the answer, after checking it against each opening the script returns."""
    sent = checked or (answer if digest is None else replace(answer, opening=NO_OPENING))
    while True:
        reply = await store.suspensions.answer(
            execution_id, step_key, sent, early=early, invalid_key=invalid_key
        )
        if reply[0] != b"look":
            return reply
        record = journal.parse(reply[1])
        assert isinstance(record, SuspensionRecord)
        sent = await _checked(answer, StoredSuspension(execution_id, step_key, record, reply[2]), digest)


async def _checked(answer: Answer, suspension: StoredSuspension, digest: str | None) -> Answer:
    """Returns the answer as checked against an opening of the suspension.

    Raises `ShownChangedError`, `NotApproverError` or `InvalidAnswerError` if the suspension is open. If it is
    not, the script still compares the answer with the one that stands.
    """
    execution_id, step_key, record = suspension.execution_id, suspension.step_key, suspension.record
    is_open = record.status == "open"
    if is_open and digest is not None and not hmac.compare_digest(record.shown_digest.hex(), digest.lower()):
        raise ShownChangedError(execution_id, step_key)
    answer = replace(answer, opening=record.opening)
    if not record.policy:
        return answer
    policy = AnswerPolicy.unpack(record.policy)
    try:  # an early answer may be of a type that only the process that gave it has imported
        value = codec.decode(answer.value, or_fields=policy.schema is None)
    except UnreadableValueError as error:
        raise InvalidAnswerError(execution_id, step_key, [{"field": "", "message": str(error)}]) from None
    form, is_instance = policy.form_of(value)
    if is_open:
        starters = Origin.unpack("", suspension.origin).starters
        policy.check_person(execution_id, step_key, answer.by or None, answer.groups, starters)
        check = policy.check_instance if is_instance else policy.check_answer
        await check(execution_id, step_key, form)
    answer = replace(answer, approves=verdict(form) is True)
    if is_instance or not policy.type_name or not is_record(value):
        return answer
    # An instance of another class: the workflow's process need not have imported it.
    fields = codec.encode(fields_of(value), limit=codec.UNLIMITED)  # the size of the original was checked
    return replace(answer, value=fields, digest=digests.stored_digest(fields))


async def _outcome(store: Store, execution_id: str, step_key: str, reply: list[Any]) -> Resumed:
    """Returns the result for a reply of answer.lua, or raises the error it stands for."""
    tag = reply[0]
    if tag in _OUTCOMES:
        counts = [int(number) for number in reply[3:5]] or [1, 1]
        by = text(reply[2]) or None
        return Resumed(_OUTCOMES[tag], execution_id, step_key, by, to_datetime(int(reply[1])), *counts)
    if tag == b"other":
        raise AlreadyResumedError(execution_id, step_key, text(reply[2]) or None, to_datetime(int(reply[1])))
    if tag == b"expired":
        raise SuspensionExpiredError(execution_id, step_key, to_datetime(int(reply[1])))
    if tag == b"closed":
        status = await store.statuses.word(execution_id, reply[1])
        raise ExecutionFinishedError(execution_id, status, f"suspension {step_key!r}")
    if tag == b"unknown":
        raise SuspensionNotFoundError(execution_id, step_key, [text(key) for key in reply[1:]])
    if tag == b"full":
        raise InvalidInputError(
            f"execution {execution_id} already keeps 100 early answers, which is the maximum: answer when "
            "the suspension is open"
        )
    raise ExecutionNotFoundError(execution_id)
