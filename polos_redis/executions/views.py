"""Views of executions, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from polos_redis.decisions.views import Read, step_keys
from polos_redis.errors import StoredValueError
from polos_redis.executions.journal_entries import JournalEntries, failure_view
from polos_redis.executions.statuses import status_view
from polos_redis.redaction import redact_text
from polos_redis.results import (
    EarlyAnswer,
    Execution,
    ExecutionChild,
    ExecutionStatus,
    HeldBack,
    LoopBlock,
    PassedOver,
    Stuck,
    Suspension,
    SuspensionDetails,
)
from polos_redis.state import keys
from polos_redis.state.held_back import parse_held_back
from polos_redis.state.origin import Origin
from polos_redis.state.statuses import Condition
from polos_redis.state.stuck import StuckReason
from polos_redis.values.text import text
from polos_redis.values.times import iso, to_datetime_us

# Fields of an execution that mean nothing after its end, though they stay until its next run.
_OF_LIVE = frozenset(("attempts", "held_back", "stuck", "unreached_waits"))


def describe(
    execution_id: str,
    fields: dict[str, bytes],
    entries: JournalEntries,
    read: Read,
    *,
    children: list[ExecutionChild],
    condition: Condition,
    unserved: bool,
    blocked_loop: LoopBlock | None,
    early_answers: list[EarlyAnswer],
    open_suspensions_below: list[Suspension],
) -> Execution:
    """Everything about one execution: the fields of its hash, its journal by kind of record, and what was
    read elsewhere. `read` makes plain JSON of stored values."""

    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    if fields["status"] in (b"completed", b"failed", b"cancelled"):
        fields = {name: value for name, value in fields.items() if name not in _OF_LIVE}
    created, workflow_id = number("created"), text(fields["workflow"])
    queue, version, _ = keys.parse_stream(text(fields.get("queue")))
    origin = origin_of(workflow_id, fields.get("origin"))
    suspensions = entries.suspensions(step_keys(fields.get("unreached_waits")))
    return Execution(
        id=execution_id,
        workflow_id=workflow_id,
        **status_view(condition, read),
        input=read(fields.get("input")),
        result=read(fields.get("output")),
        error=failure_view(fields.get("last_error" if condition.word == "paused" else "error")),
        last_error=failure_view(fields.get("last_error")),
        created_at=iso(created / 1000 if created else None),
        started_at=iso(number("started")),
        finished_at=iso(number("finished")),
        run=number("run"),
        continued_in=number("since"),
        version=text(fields.get("version")) or None,
        pinned=bool(version),
        root_execution_id=keys.root_of(execution_id),
        root_workflow_id=origin.root_workflow_id,
        parent_execution_id=origin.parent_execution_id,
        forked_from=origin.forked_from,
        forked_by=list(origin.forked_by),
        results_set=list(origin.results_set),
        session_id=origin.session_id,
        user_id=origin.user_id,
        started_by=origin.started_by,
        queue=queue or keys.DEFAULT_QUEUE,
        state=read(fields.get("state")),
        usage=entries.usage,
        lost_deliveries=number("attempts") or 0,
        held_back=_held_back(fields, entries.changes),
        stuck=_stuck(fields.get("stuck"), suspensions),
        records=entries.records,
        steps=entries.steps(),
        unserved=unserved,
        blocked_loop=blocked_loop,
        unreached_steps=step_keys(fields.get("unreached")),
        suspensions=suspensions,
        open_suspensions=[one for one in suspensions if one.status == "open"],
        open_suspensions_below=open_suspensions_below,
        early_answers=early_answers,
        waits=entries.waits(),
        children=children,
        left_out=entries.left_out(),
    )


def _stuck(packed: bytes | None, suspensions: Sequence[Suspension]) -> Stuck | None:
    """Why an execution is stuck, with the decisions that its code passes over; None if it is not."""
    if packed is None:
        return None
    reason = StuckReason.parse(packed)
    answered = {one.step_key: one for one in suspensions if one.status == "answered"}

    def passed_over(key: str) -> PassedOver:
        found = answered.get(key)
        if found is None:
            return PassedOver(step_key=key, data=None, by=None, at=None, channel=None)
        return PassedOver(
            step_key=key,
            data=found.answer,
            by=found.resumed_by,
            at=found.decided_at,
            channel=found.channel,
        )

    return Stuck(
        kind=reason.kind,
        message=redact_text(reason.message),
        where=reason.at or None,
        passed_over=[passed_over(key) for key in reason.keys],
    )


def _held_back(fields: dict[str, bytes], changes: int) -> HeldBack | None:
    """Why a queued execution goes back to its queue again and again; None once its journal has progressed."""
    if "held_back" not in fields:
        return None
    times, progress, reason = parse_held_back(fields["held_back"])
    return HeldBack(times=times, reason=reason) if progress == changes else None


def suspension_details(
    suspension: Suspension, status: str, origin: bytes | None, created_us: bytes | None
) -> SuspensionDetails:
    """A suspension with facts about its execution: root, people, status and time of creation."""
    relations = origin_of(suspension.workflow_id, origin)
    return SuspensionDetails(
        **suspension,
        root_workflow_id=relations.root_workflow_id,
        root_execution_id=keys.root_of(suspension.execution_id),
        user_id=relations.user_id,
        started_by=relations.started_by,
        forked_by=list(relations.forked_by),
        execution_status=cast("ExecutionStatus", status),
        execution_created_at=to_datetime_us(int(created_us or 0)).isoformat(timespec="microseconds"),
    )


def origin_of(workflow_id: str, packed: bytes | None) -> Origin:
    """Returns the origin of an execution; that of a plain one if it can't be read."""
    try:
        return Origin.unpack(workflow_id, packed)
    except (StoredValueError, TypeError):
        return Origin(workflow_id)
