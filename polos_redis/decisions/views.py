"""Views of suspensions, for people and programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import msgpack

from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.results import Decision, Suspension, SuspensionMark, SuspensionStatus
from polos_redis.state import keys
from polos_redis.state.journal import DecisionRecord, Mark, SuspensionRecord
from polos_redis.values.plain import readable
from polos_redis.values.text import text
from polos_redis.values.times import iso, to_iso

Read = Callable[[bytes | None], Any]  # a stored value as plain JSON, or as what becomes that later


def suspension_view(
    execution_id: str,
    workflow_id: str,
    step_key: str,
    record: SuspensionRecord,
    read: Read = readable,
    *,
    unreached: bool = False,
) -> Suspension:
    """Returns a suspension: what it shows, its times, its answer policy and its decisions. `read` makes plain
    JSON of stored values; `unreached`: it is among the open suspensions of its execution that the code no
    longer reaches."""
    answered = record.status == "answered"
    policy = AnswerPolicy.unpack(record.policy)
    default = record.status in ("open", "expired") and record.answer
    return Suspension(
        execution_id=execution_id,
        workflow_id=workflow_id,
        step_key=step_key,
        topic=keys.suspension_topic(step_key, execution_id),
        status=cast("SuspensionStatus", record.status),
        run=record.run,
        data=read(record.shown),
        digest=record.shown_digest.hex() or None,
        opened_at=to_iso(record.opened_ms),
        expires_at=iso(record.deadline_ms),
        answer=read(record.answer) if answered else None,
        resumed_by=(record.by or None) if answered else None,
        channel=record.channel if answered else None,
        decided_at=iso(record.decided_ms),
        schema=policy.schema,
        reject_schema=policy.reject_schema,
        form=read(record.form),
        approvers=list(policy.approvers),
        required=policy.required,
        rejections=policy.rejections,
        allow_self=policy.allow_self,
        on_timeout={"data": read(record.answer)} if default else None,
        decisions=[_decision(one, read) for one in record.decisions],
        unreached=record.status == "open" and unreached,
        mark=None if record.mark is None else _mark(record.mark),
    )


def step_keys(packed: bytes | None) -> list[str]:
    """Returns a stored list of step keys; empty for None."""
    return [] if packed is None else [text(name) for name in msgpack.unpackb(packed, raw=True)]


def _mark(mark: Mark) -> SuspensionMark:
    return SuspensionMark(
        kind=cast("Literal['left', 'optional', 'skipped']", mark.kind),
        at=to_iso(mark.at_ms),
        by=mark.by or None,
        reason=mark.reason or None,
    )


def _decision(record: DecisionRecord, read: Read) -> Decision:
    return Decision(
        data=read(record.answer),
        by=record.by or None,
        at=to_iso(record.at_ms),
        channel=record.channel,
    )
