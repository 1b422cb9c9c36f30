"""Views: an execution as plain JSON values, for people and programs."""

from __future__ import annotations

from typing import Any

import msgpack

from polos_redis.decisions.views import Read, step_keys
from polos_redis.errors import StoredValueError
from polos_redis.executions.journal_entries import JournalEntries, error_view
from polos_redis.redaction import redact_text
from polos_redis.state import keys
from polos_redis.state.origin import Origin
from polos_redis.state.stuck import StuckReason
from polos_redis.values.text import text
from polos_redis.values.times import iso, to_datetime_us

# Fields of an execution that mean nothing after its end, though they stay until its next run.
_OF_LIVE = frozenset(("attempts", "held_back", "stuck", "unreached_waits"))


def describe(
    execution_id: str, fields: dict[str, bytes], entries: JournalEntries, read: Read
) -> dict[str, Any]:
    """The full view of one execution: the fields of its hash, and its journal by kind of record. `read` makes
    plain JSON of stored values."""

    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    if fields["status"] in (b"completed", b"failed", b"cancelled"):
        fields = {name: value for name, value in fields.items() if name not in _OF_LIVE}
    created = number("created")
    journaled = entries.view(step_keys(fields.get("unreached_waits")))
    return {
        "id": execution_id,
        "workflow_id": text(fields["workflow"]),
        "status": text(fields["status"]),
        "input": read(fields.get("input")),
        "result": read(fields.get("output")),
        "error": error_view(fields.get("error")),
        "last_error": error_view(fields.get("last_error")),
        "cancelled_by": text(fields.get("cancelled_by")) or None,
        "created_at": iso(created / 1000 if created else None),
        "started_at": iso(number("started")),
        "finished_at": iso(number("finished")),
        "starts_at": None,
        "running_steps": [],
        "unserved": False,
        "run": number("run"),
        "version": text(fields.get("version")) or None,
        "root_execution_id": keys.root_of(execution_id),
        **_origin(text(fields["workflow"]), fields.get("origin")),
        "queue": text(fields.get("queue", b"")) or keys.DEFAULT_QUEUE,
        "state": read(fields.get("state")),
        "usage": entries.usage,
        "lost_deliveries": number("attempts") or 0,
        "held_back": _held_back(fields, entries.changes),
        "unreached_steps": step_keys(fields.get("unreached")),
        "stuck": _stuck(fields.get("stuck"), journaled["suspensions"]),
        **journaled,
    }


def _stuck(packed: bytes | None, suspensions: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Why an execution is stuck, with the decisions that its code passes over; None if it is not."""
    if packed is None:
        return None
    reason = StuckReason.parse(packed)
    answered = {one["step_key"]: one for one in suspensions if one["status"] == "answered"}

    def passed_over(key: str) -> dict[str, Any]:
        found = answered.get(key, {})
        return {
            "step_key": key,
            "data": found.get("answer"),
            "by": found.get("resumed_by"),
            "at": found.get("decided_at"),
            "channel": found.get("channel"),
        }

    return {
        "kind": reason.kind,
        "message": redact_text(reason.message),
        "where": reason.at or None,
        "keys": [passed_over(key) for key in reason.keys],
    }


def _held_back(fields: dict[str, bytes], changes: int) -> dict[str, Any] | None:
    """Why a queued execution goes back to its queue again and again; None once its journal has progressed."""
    if "held_back" not in fields:
        return None
    times, progress, reason = msgpack.unpackb(fields["held_back"], raw=True)
    if int(progress) != changes:
        return None
    return {"times": int(times), "reason": text(reason)}


def suspended_execution(
    execution_id: str,
    workflow: bytes | None,
    status: bytes | None,
    origin: bytes | None,
    created_us: bytes | None,
) -> dict[str, Any]:
    """The facts about a suspension's execution: its workflow, root, people, status and time of creation, to
    the microsecond."""
    relations = _origin(text(workflow), origin)
    return {
        "workflow_id": text(workflow),
        "root_workflow_id": relations["root_workflow_id"],
        "root_execution_id": keys.root_of(execution_id),
        "user_id": relations["user_id"],
        "started_by": relations["started_by"],
        "execution_status": text(status),
        "execution_created_at": to_datetime_us(int(created_us or 0)).isoformat(timespec="microseconds"),
    }


def _origin(workflow_id: str, packed: bytes | None) -> dict[str, Any]:
    try:
        origin = Origin.unpack(workflow_id, packed)
    except (StoredValueError, TypeError):
        origin = Origin(workflow_id)
    return {
        "root_workflow_id": origin.root_workflow_id,
        "parent_execution_id": origin.parent_execution_id,
        "session_id": origin.session_id,
        "user_id": origin.user_id,
        "started_by": origin.started_by,
    }
