"""Lifecycle events: the start of an execution, and the start and finish of its steps.

A start is not worth its own call: it is emitted with the next write, usually the finish. Only a step or an
execution that lasts longer than `NOTICE_SECONDS` has its start emitted at once. (The script that ends an
execution emits its finish; the one that opens a suspension emits that.)

What the journal says itself, the start of an execution and its steps that succeed, is encoded by the scripts,
and only for an execution that has a stream (see scripts/lib/stream.lua). Any other event is two items of a
script's arguments: its type, followed by NUL and the execution's id where that is not the root, as all
executions of a tree share the root's stream; and its data (codec).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.state.fencing import NotedStep
from polos_redis.values import codec
from polos_redis.values.text import raw

if TYPE_CHECKING:
    from polos_redis.tracing.spans import Span

NOTICE_SECONDS = 0.02

_WORKFLOW_START = b"workflow_start"
_STEP_START = b"step_start"
_STEP_FINISH = b"step_finish"


class StepAttempt:
    """An attempt at a step, whose function runs now: since when, and whether its start was emitted. After
    `timed_out_at`, the step only waits for the attempt's thread to end. It owns the tasks that the function
    starts: they are guarded, but belong to no activation."""

    __slots__ = ("attempt", "code", "emitted", "key", "since", "span", "timed_out_at")

    is_step = True

    def __init__(self, code: CodeTasks, key: str, attempt: int, since: float) -> None:
        self.code = code
        self.key = key
        self.attempt = attempt
        self.since = since
        self.emitted = False
        self.timed_out_at: float | None = None
        self.span: Span | None = None

    def adopt(self, task: asyncio.Task[Any]) -> None:
        pass

    def start_span(self, activation: Span) -> None:
        """Start the span of this attempt, inside that of its activation."""
        attributes: dict[str, str | int] = {
            "polos.workflow.id": self.code.workflow_id,
            "polos.execution.id": self.code.execution_id,
            "polos.step.key": self.key,
            "polos.step.attempt": self.attempt,
        }
        self.span = activation.child(f"step {self.key}", attributes)

    def end_span(self, status: str = "", failure: BaseException | None = None) -> None:
        """End the span of this attempt if it has one, with how the attempt ended unless it succeeded."""
        span = self.span
        if span is not None:
            if status:
                span.note({"polos.step.status": status})
            if failure is not None:
                span.fail(failure)
            span.end()

    @property
    def facts(self) -> dict[str, Any]:
        """The attempt, as log records name it, and its span if it is traced."""
        facts = {**self.code.facts, "step": self.key, "attempt": self.attempt}
        return facts if self.span is None else facts | self.span.ids

    def log_facts(self) -> dict[str, Any]:
        """Returns what a log record of the step's function has to say."""
        return self.facts if self.span is None else self.facts | self.span.active_ids


class LifecycleEvents:
    """The events of one activation: which starts were emitted, and what the journal does not say, encoded.

    Each method returns what the next write has to emit, and marks it emitted. `start_emitted`: whether the
    execution's start was, by this activation or an earlier one. `running` has the steps whose functions run.
    """

    __slots__ = (
        *("_execution_id", "_mark", "_unnoted", "_workflow_id"),
        *("running", "start_emitted", "started_at"),
    )

    def __init__(self, workflow_id: str, execution_id: str) -> None:
        self._workflow_id = workflow_id
        self._execution_id = execution_id
        self._mark = b"\0" + execution_id.encode() if "." in execution_id else b""
        self._unnoted = False  # whether an attempt has timed out since the running ones were noted
        self.started_at = 0.0
        self.start_emitted = False
        self.running: dict[str, StepAttempt] = {}

    def first(self) -> list[bytes]:
        """Returns the execution's start, unless it was emitted."""
        if self.start_emitted:
            return []
        self.start_emitted = True
        data = codec.encode({"workflow_id": self._workflow_id, "execution_id": self._execution_id})
        return [_WORKFLOW_START + self._mark, data]

    def custom(self, event_type: str, data: bytes) -> list[bytes]:
        """Returns an event of a user's type."""
        return [*self.first(), event_type.encode() + self._mark, data]

    def starts(self, key: str) -> bytes:
        """Returns which starts are emitted with the success of a step, as write_step takes it."""
        step = self.running[key]
        if not step.emitted:
            step.emitted = True  # `overdue` must not repeat it
            starts = b"s"
        else:
            starts = b""
        if not self.start_emitted:
            self.start_emitted = True
            starts = b"w" + starts
        return starts

    def step_finish(self, key: str, attempt: int, status: str, error: str | None = None) -> list[bytes]:
        """Returns the finish of a step's attempt that did not succeed, after its start unless that was
        emitted."""
        events = self.first()
        step = self.running.get(key)
        if step is not None and not step.emitted:
            events += (_STEP_START + self._mark, codec.encode({"step_key": key, "attempt": attempt}))
            step.emitted = True
        data: dict[str, Any] = {"step_key": key, "attempt": attempt, "status": status}
        if error is not None:
            data["error"] = error
        events += (_STEP_FINISH + self._mark, codec.encode(data))
        return events

    def timed_out(self, step: StepAttempt, now: float) -> None:
        """Note that an attempt has timed out, and its step waits for the thread to end."""
        step.timed_out_at = now
        self._unnoted = True

    def overdue(self, now: float) -> tuple[bool, list[NotedStep]] | None:
        """Returns the starts to emit at once, when anything is older than `NOTICE_SECONDS`: whether the
        execution's is among them, and the steps that run. None if all is noted as it is."""
        due = now - NOTICE_SECONDS
        steps = [
            NotedStep(
                raw(key),
                step.attempt,
                int((now - step.since) * 1000),
                step.emitted,
                None if step.timed_out_at is None else int((now - step.timed_out_at) * 1000),
            )
            for key, step in self.running.items()
            if step.emitted or step.since < due
        ]
        first = not self.start_emitted and (self.started_at < due or bool(steps))
        if not first and not self._unnoted and all(step.emitted for step in steps):
            return None
        self._unnoted = False
        self.start_emitted = True
        for step in self.running.values():
            if step.since < due:
                step.emitted = True
        return first, steps
