"""An execution as people and programs read it: plain JSON values only."""

from __future__ import annotations

from typing import Any

import msgpack

from polos_redis.decisions.views import suspension_view
from polos_redis.errors import StoredValueError
from polos_redis.state import journal, keys, stored_errors
from polos_redis.state.journal import ChildRecord, StepRecord, SuspensionRecord, WaitRecord
from polos_redis.state.origin import Origin
from polos_redis.values.plain import readable
from polos_redis.values.text import text
from polos_redis.values.times import iso

MOST_CHILDREN = 1000  # of one step that are listed


def describe(execution_id: str, fields: dict[str, bytes], records: dict[bytes, bytes]) -> dict[str, Any]:
    """Everything that is known of one execution."""

    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    created = number("created")
    steps, suspensions, waits, children, results = [], [], [], [], []
    for name, stored in records.items():
        if name == journal.COUNT:
            continue
        if journal.is_result(name):
            results.append(stored)
            continue
        try:
            record = journal.parse(stored)
        except StoredValueError as error:
            steps.append(
                {"step_key": text(name), "status": "unreadable", "error": str(error), "finished_at": None}
            )
            continue
        if isinstance(record, StepRecord):
            steps.append(_step(text(name), record))
        elif isinstance(record, SuspensionRecord):
            suspensions.append(suspension_view(execution_id, text(name), record))
        elif isinstance(record, WaitRecord):
            waits.append(_wait(text(name), record))
        elif isinstance(record, ChildRecord):
            children += _children(execution_id, text(name), record, records)
    steps.sort(key=lambda step: step["finished_at"] or "")
    suspensions.sort(key=lambda one: one["opened_at"])
    return {
        "id": execution_id,
        "workflow_id": text(fields["workflow"]),
        "status": text(fields["status"]),
        "input": readable(fields.get("input")),
        "result": readable(fields.get("output")),
        "error": _error(fields.get("error")),
        "last_error": _error(fields.get("last_error")),
        "cancelled_by": text(fields.get("cancelled_by")) or None,
        "created_at": iso(created / 1000 if created else None),
        "started_at": iso(number("started")),
        "finished_at": iso(number("finished")),
        "run": number("run"),
        "root_execution_id": keys.root_of(execution_id),
        **_origin(text(fields["workflow"]), fields.get("origin")),
        "queue": text(fields.get("queue", b"")) or keys.DEFAULT_QUEUE,
        "state": readable(fields.get("state")),
        "usage": _usage(steps, results),
        "lost_deliveries": number("attempts") or 0,
        "unreached_steps": [text(name) for name in msgpack.unpackb(fields.get("unreached", b"\x90"))],
        "steps": steps,
        "suspensions": suspensions,
        "waits": sorted(waits, key=lambda wait: wait["opened_at"]),
        "children": children,
        "open_suspensions": [one for one in suspensions if one["status"] == "open"],
    }


def around(
    execution_id: str, workflow: bytes | None, status: bytes | None, origin: bytes | None
) -> dict[str, Any]:
    """What there is to know of the execution that a suspension belongs to."""
    found = _origin(text(workflow), origin)
    return {
        "workflow_id": text(workflow),
        "root_workflow_id": found["root_workflow_id"],
        "root_execution_id": keys.root_of(execution_id),
        "user_id": found["user_id"],
        "started_by": found["started_by"],
        "execution_status": text(status),
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


def _wait(step_key: str, record: WaitRecord) -> dict[str, Any]:
    return {
        "step_key": step_key,
        "status": record.status,
        "topic": record.topic or None,
        "opened_at": iso(record.opened_ms),
        "until": iso(record.due_ms),
        "decided_at": iso(record.decided_ms),
        "event": readable(record.data) if record.status == "event" else None,
    }


def _children(
    execution_id: str, step_key: str, record: ChildRecord, records: dict[bytes, bytes]
) -> list[dict[str, Any]]:
    """A step's children; the status of one is known here when it was waited for and has ended."""
    found = []
    for index in range(min(record.started, MOST_CHILDREN)):
        child_id = keys.child_id(execution_id, step_key, index)
        stored = records.get(journal.result_name(child_id))
        status = None if stored is None else journal.parse_result(stored).status
        found.append(
            {"step_key": step_key, "id": child_id, "status": status, "waited_for": record.status != "started"}
        )
    return found


def _step(step_key: str, record: StepRecord) -> dict[str, Any]:
    failed = record.status != "ok"
    return {
        "step_key": step_key,
        "status": record.status,
        "attempts": record.attempt,
        "started_at": iso(record.finished_ms - record.took_ms),
        "finished_at": iso(record.finished_ms),
        "took_ms": round(record.took_ms, 3),
        "value": None if failed else readable(record.value),
        "error": _error(record.value) if failed else None,
    }


def _usage(steps: list[dict[str, Any]], results: list[bytes]) -> dict[str, int] | None:
    """What models have cost, as far as it is journaled here: by this execution's own calls, and by agents
    that it has waited for. None where no model was asked."""
    values = [step.get("value") for step in steps]
    for stored in results:
        try:
            result = journal.parse_result(stored)
        except StoredValueError:
            continue
        values.append(readable(result.value) if result.status == "completed" else None)
    used = [value["usage"] for value in values if isinstance(value, dict) and "usage" in value]
    counted = [
        one for one in used if isinstance(one, dict) and one.keys() >= {"input_tokens", "output_tokens"}
    ]
    if not counted:
        return None
    names = ("input_tokens", "output_tokens", "requests")
    total = {name: sum(int(one.get(name) or 0) for one in counted) for name in names}
    return {**total, "total_tokens": total["input_tokens"] + total["output_tokens"]}


def _error(stored: bytes | None) -> dict[str, str] | None:
    if not stored:
        return None
    error = stored_errors.parse_error(stored)
    return {"type": error.type, "message": error.message, "traceback": error.traceback}
