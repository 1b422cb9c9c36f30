"""Views: an execution as plain JSON values, for people and programs."""

from __future__ import annotations

from typing import Any

import msgpack

from polos_redis.decisions.views import Read, suspension_view
from polos_redis.errors import StoredValueError
from polos_redis.redaction import redact_text
from polos_redis.state import journal, keys, stored_errors
from polos_redis.state.journal import ChildRecord, StepRecord, SuspensionRecord, WaitRecord
from polos_redis.state.origin import Origin
from polos_redis.values.plain import readable
from polos_redis.values.text import text
from polos_redis.values.times import iso, to_datetime_us

MAX_CHILDREN = 1000  # listed for one step
_USAGE = b"usage"


def describe(
    execution_id: str, fields: dict[str, bytes], records: dict[bytes, bytes], read: Read = readable
) -> dict[str, Any]:
    """The full view of one execution: the fields of its hash, and its journal by kind of record. `read` makes
    plain JSON of stored values."""

    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    created = number("created")
    entries = _Entries(execution_id, records, read)
    return {
        "id": execution_id,
        "workflow_id": text(fields["workflow"]),
        "status": text(fields["status"]),
        "input": read(fields.get("input")),
        "result": read(fields.get("output")),
        "error": _error(fields.get("error")),
        "last_error": _error(fields.get("last_error")),
        "cancelled_by": text(fields.get("cancelled_by")) or None,
        "created_at": iso(created / 1000 if created else None),
        "started_at": iso(number("started")),
        "finished_at": iso(number("finished")),
        "starts_at": None,
        "run": number("run"),
        "root_execution_id": keys.root_of(execution_id),
        **_origin(text(fields["workflow"]), fields.get("origin")),
        "queue": text(fields.get("queue", b"")) or keys.DEFAULT_QUEUE,
        "state": read(fields.get("state")),
        "usage": _usage(entries.values, entries.results),
        "lost_deliveries": number("attempts") or 0,
        "held_back": _held_back(fields, records),
        "unreached_steps": [text(name) for name in msgpack.unpackb(fields.get("unreached", b"\x90"))],
        "steps": entries.steps,
        "suspensions": entries.suspensions,
        "waits": entries.waits,
        "children": entries.children,
        "open_suspensions": [one for one in entries.suspensions if one["status"] == "open"],
    }


def _held_back(fields: dict[str, bytes], records: dict[bytes, bytes]) -> dict[str, Any] | None:
    """Why a queued execution goes back to its queue again and again; None once its journal has progressed."""
    if "held_back" not in fields:
        return None
    times, progress, reason = msgpack.unpackb(fields["held_back"], raw=True)
    if int(progress) != int(records.get(journal.COUNT, b"0")):
        return None
    return {"times": int(times), "reason": text(reason)}


class _Entries:
    """The records of a journal as JSON values, by kind and in order of time; the values of steps and
    children's results also as stored."""

    def __init__(self, execution_id: str, records: dict[bytes, bytes], read: Read) -> None:
        self._read = read
        self.steps: list[dict[str, Any]] = []
        self.suspensions: list[dict[str, Any]] = []
        self.waits: list[dict[str, Any]] = []
        self.children: list[dict[str, Any]] = []
        self.values: list[bytes] = []
        self.results: list[bytes] = []
        for name, stored in records.items():
            if journal.is_result(name):
                self.results.append(stored)
            elif name != journal.COUNT:
                self._add(execution_id, text(name), stored, records)
        self.steps.sort(key=lambda step: step["finished_at"] or "")
        self.suspensions.sort(key=lambda suspension: suspension["opened_at"])
        self.waits.sort(key=lambda wait: wait["opened_at"])

    def _add(self, execution_id: str, step_key: str, stored: bytes, records: dict[bytes, bytes]) -> None:
        try:
            record = journal.parse(stored)
        except StoredValueError as error:
            unreadable = {"status": "unreadable", "error": str(error), "finished_at": None}
            self.steps.append({"step_key": step_key, **unreadable})
            return
        if isinstance(record, StepRecord):
            self.steps.append(_step(step_key, record, self._read))
            if record.status == "ok":
                self.values.append(record.value)
        elif isinstance(record, SuspensionRecord):
            self.suspensions.append(suspension_view(execution_id, step_key, record, self._read))
        elif isinstance(record, WaitRecord):
            self.waits.append(_wait(step_key, record, self._read))
        elif isinstance(record, ChildRecord):
            self.children += _children(execution_id, step_key, record, records)


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


def _wait(step_key: str, record: WaitRecord, read: Read) -> dict[str, Any]:
    return {
        "step_key": step_key,
        "status": record.status,
        "topic": record.topic or None,
        "opened_at": iso(record.opened_ms),
        "until": iso(record.due_ms),
        "decided_at": iso(record.decided_ms),
        "event": read(record.data) if record.status == "event" else None,
    }


def _children(
    execution_id: str, step_key: str, record: ChildRecord, records: dict[bytes, bytes]
) -> list[dict[str, Any]]:
    """The children of a step. `status` is known here only if the parent waited for the child and it ended."""
    children = []
    for index in range(min(record.started, MAX_CHILDREN)):
        child_id = keys.child_id(execution_id, step_key, index)
        stored = records.get(journal.result_name(child_id))
        status = None if stored is None else journal.parse_result(stored).status
        children.append(
            {"step_key": step_key, "id": child_id, "status": status, "waited_for": record.status != "started"}
        )
    return children


def _step(step_key: str, record: StepRecord, read: Read) -> dict[str, Any]:
    failed = record.status != "ok"
    return {
        "step_key": step_key,
        "status": record.status,
        "attempts": record.attempt,
        "started_at": iso(record.finished_ms - record.took_ms),
        "finished_at": iso(record.finished_ms),
        "took_ms": round(record.took_ms, 3),
        "value": None if failed else read(record.value),
        "error": _error(record.value) if failed else None,
    }


def _usage(steps: list[bytes], results: list[bytes]) -> dict[str, int] | None:
    """The tokens used, as far as this journal has them: by the execution's own model calls, and by the agents
    it waited for. None if it has no usage."""
    stored = list(steps)
    for packed in results:
        try:
            result = journal.parse_result(packed)
        except StoredValueError:
            continue
        if result.status == "completed":
            stored.append(result.value)
    values = [readable(one) for one in stored if _USAGE in one]  # few others contain the word
    usages = [value["usage"] for value in values if isinstance(value, dict) and "usage" in value]
    required = {"input_tokens", "output_tokens"}
    counted = [usage for usage in usages if isinstance(usage, dict) and usage.keys() >= required]
    if not counted:
        return None
    names = ("input_tokens", "output_tokens", "requests")
    total = {name: sum(int(usage.get(name) or 0) for usage in counted) for name in names}
    return {**total, "total_tokens": total["input_tokens"] + total["output_tokens"]}


def _error(stored: bytes | None) -> dict[str, str] | None:
    if not stored:
        return None
    error = stored_errors.parse_error(stored)
    return {
        "type": error.type,
        "message": redact_text(error.message),
        "traceback": redact_text(error.traceback),
    }
