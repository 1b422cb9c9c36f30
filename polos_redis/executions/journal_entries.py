"""The entries of a journal for people and programs, collected from its pages: the newest, within bounds."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import replace
from itertools import count
from typing import Final, Generic, TypeVar, cast

from polos_redis.decisions.views import Read, suspension_view
from polos_redis.errors import StoredValueError
from polos_redis.redaction import redact_text
from polos_redis.results import (
    ExecutionChild,
    ExecutionStatus,
    ExecutionStep,
    ExecutionWait,
    Failure,
    Suspension,
    TokenUsage,
)
from polos_redis.state import journal, stored_errors
from polos_redis.state.journal import ChildRecord, StepRecord, SuspensionRecord, WaitRecord
from polos_redis.values.plain import readable
from polos_redis.values.text import text
from polos_redis.values.times import iso, to_iso

MAX_CHILDREN: Final = 1000  # listed for one step
MOST: Final = 10_000  # entries of one kind
MOST_BYTES: Final = 1 << 25  # of their records
_USAGE = b"usage"

T = TypeVar("T")


class JournalEntries:
    """The newest steps, suspensions, waits and children of a journal. Open suspensions count as newest.

    `usage` are the tokens used, as far as the journal has them: by the execution's own model calls, and by
    the agents it waited for; None without any. `changes` is the journal's count of its changes, `records` the
    number of its records.
    """

    def __init__(self, execution_id: str, workflow_id: str, since_run: int, read: Read) -> None:
        self._execution_id, self._workflow_id, self._since_run = execution_id, workflow_id, since_run
        self._read = read
        self._seen: set[bytes] = set()
        self._results: dict[bytes, str] = {}
        self._steps: _Newest[ExecutionStep] = _Newest()
        self._suspensions: _Newest[Suspension] = _Newest()
        self._waits: _Newest[ExecutionWait] = _Newest()
        self._children: _Newest[ExecutionChild] = _Newest()
        self.usage: TokenUsage | None = None
        self.changes = 0
        self.records = 0

    def add(self, name: bytes, stored: bytes) -> None:
        """Adds a field of the journal; one that was added before is ignored."""
        if name in self._seen:
            return
        self._seen.add(name)
        if name == journal.COUNT:
            self.changes = int(stored)
        elif name == journal.WRITER:
            pass
        else:
            self.records += 1
            if journal.is_result(name):
                self._add_result(name, stored)
            else:
                self._add_record(text(name), stored)

    def _add_result(self, name: bytes, stored: bytes) -> None:
        try:
            result = journal.parse_result(stored)
        except StoredValueError:
            return
        self._results[name] = result.status
        if result.status == "completed":
            self._add_usage(result.value)

    def _add_record(self, step_key: str, stored: bytes) -> None:
        size = len(stored)
        try:
            record = journal.parse(stored)
        except StoredValueError as error:
            self._steps.add(0, size, _unreadable(step_key, str(error)))
            return
        if isinstance(record, StepRecord):
            self._steps.add(record.finished_ms, size, _step(step_key, record, self._read))
            if record.status == "ok":
                self._add_usage(record.value)
        elif isinstance(record, SuspensionRecord):
            view = suspension_view(self._execution_id, self._workflow_id, step_key, record, self._read)
            self._suspensions.add(record.opened_ms, size, view, keep=record.status == "open")
        elif isinstance(record, WaitRecord):
            self._waits.add(record.opened_ms, size, _wait(step_key, record, self._read))
        elif isinstance(record, ChildRecord):
            for index in range(min(record.started, MAX_CHILDREN)):
                child_id = record.child_id(self._execution_id, step_key, index, self._since_run)
                self._children.add(record.opened_ms, 0, _child(step_key, child_id, record))

    def _add_usage(self, stored: bytes) -> None:
        if _USAGE not in stored:  # few values contain the word
            return
        value = readable(stored)
        usage = value.get("usage") if isinstance(value, dict) else None
        if not isinstance(usage, dict) or not usage.keys() >= {"input_tokens", "output_tokens"}:
            return
        before: dict[str, int] = self.usage or {}
        tokens_in, tokens_out, requests = (
            before.get(name, 0) + int(usage.get(name) or 0)
            for name in ("input_tokens", "output_tokens", "requests")
        )
        self.usage = TokenUsage(
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            requests=requests,
            total_tokens=tokens_in + tokens_out,
        )

    def steps(self) -> list[ExecutionStep]:
        """Returns the steps, oldest first."""
        return self._steps.entries()

    def suspensions(self, unreached: Collection[str] = ()) -> list[Suspension]:
        """Returns the suspensions, oldest first. `unreached` are the step keys of open ones that the code no
        longer reaches."""
        return [
            replace(one, unreached=True) if one.status == "open" and one.step_key in unreached else one
            for one in self._suspensions.entries()
        ]

    def waits(self) -> list[ExecutionWait]:
        """Returns the waits, oldest first."""
        return self._waits.entries()

    def children(self) -> list[ExecutionChild]:
        """Returns the children, oldest first, with the statuses that the journal has."""
        results = ((one, self._results.get(journal.result_name(one.id))) for one in self._children.entries())
        return [
            one if status is None else replace(one, status=cast("ExecutionStatus", status))
            for one, status in results
        ]

    def left_out(self) -> dict[str, int]:
        """Returns how many older entries are left out, by kind."""
        return {
            "steps": self._steps.left_out,
            "suspensions": self._suspensions.left_out,
            "waits": self._waits.left_out,
            "children": self._children.left_out,
        }


class _Newest(Generic[T]):
    """The newest entries of one kind: at most `MOST`, with at most `MOST_BYTES`."""

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int, int, int, T]] = []
        self._numbers = count()
        self._size = 0
        self.left_out = 0

    def add(self, time: int, size: int, entry: T, *, keep: bool = False) -> None:
        """Adds an entry of some bytes; those to `keep` are left out last."""
        heapq.heappush(self._heap, (keep, time, next(self._numbers), size, entry))
        self._size += size
        while len(self._heap) > MOST or (self._size > MOST_BYTES and len(self._heap) > 1):
            self._size -= heapq.heappop(self._heap)[3]
            self.left_out += 1

    def entries(self) -> list[T]:
        """Returns the entries, oldest first."""
        return [entry for _, _, _, _, entry in sorted(self._heap, key=lambda one: one[1:3])]


def _wait(step_key: str, record: WaitRecord, read: Read) -> ExecutionWait:
    return ExecutionWait(
        step_key=step_key,
        status=record.status,
        topic=record.topic or None,
        opened_at=to_iso(record.opened_ms),
        until=iso(record.due_ms),
        decided_at=iso(record.decided_ms),
        event=read(record.data) if record.status == "event" else None,
    )


def _child(step_key: str, child_id: str, record: ChildRecord) -> ExecutionChild:
    return ExecutionChild(
        step_key=step_key,
        id=child_id,
        workflow_id=None,
        status=None,
        waited_for=record.status != "started",
    )


def _step(step_key: str, record: StepRecord, read: Read) -> ExecutionStep:
    failed = record.status != "ok"
    given_up = record.status == "abandoned" and not record.value  # in place of an attempt that never ran
    return ExecutionStep(
        step_key=step_key,
        status=record.status,
        attempts=record.attempt - given_up,
        started_at=iso(record.finished_ms - record.took_ms),
        finished_at=iso(record.finished_ms),
        took_ms=round(record.took_ms, 3),
        value=None if failed else read(record.value),
        error=failure_view(record.value) if failed else None,
    )


def _unreadable(step_key: str, why: str) -> ExecutionStep:
    return ExecutionStep(
        step_key=step_key,
        status="unreadable",
        attempts=0,
        started_at=None,
        finished_at=None,
        took_ms=None,
        value=None,
        error=why,
    )


def failure_view(stored: bytes | None) -> Failure | None:
    """Returns a stored error, without tokens and secrets; None if there is none."""
    if not stored:
        return None
    error = stored_errors.parse_error(stored)
    return Failure(
        type=error.type,
        message=redact_text(error.message),
        traceback=redact_text(error.traceback),
        own_traceback=redact_text(error.own_traceback),
    )
