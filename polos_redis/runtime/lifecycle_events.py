"""Lifecycle events: the start of an execution, and the start and finish of its steps.

A start is not worth its own call: it travels with the next write, usually that of the finish. Only a step or
an execution that lasts longer than `NOTICE_SECONDS` has its start emitted at once. (The script that ends an
execution emits its finish; the one that opens a suspension emits that.)

An event is two items of a script's arguments: its type, followed by NUL and the execution's id where that is
not the root, as all executions of a tree share the root's stream; and its data (codec).
"""

from __future__ import annotations

from typing import Any

from polos_redis.values import codec

NOTICE_SECONDS = 0.02

_WORKFLOW_START = b"workflow_start"
_STEP_START = b"step_start"
_STEP_FINISH = b"step_finish"


class LifecycleEvents:
    """The events of one activation: which starts have been emitted, and the encoding of all.

    Each method returns the events that the next write has to carry, and counts them as emitted.
    `start_emitted`: whether the execution's start was emitted, by this activation or an earlier one.
    `running`: the steps whose function runs now, with the time it started (0 once that was emitted) and the
    attempt.
    """

    __slots__ = ("_execution_id", "_mark", "_workflow_id", "running", "start_emitted", "started_at")

    def __init__(self, workflow_id: str, execution_id: str) -> None:
        self._workflow_id = workflow_id
        self._execution_id = execution_id
        self._mark = b"\0" + execution_id.encode() if "." in execution_id else b""
        self.started_at = 0.0
        self.start_emitted = False
        self.running: dict[str, tuple[float, int]] = {}

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

    def step_finish(self, key: str, attempt: int, status: str, error: str | None = None) -> list[bytes]:
        """Returns the finish of a step's attempt, after its start unless that was emitted."""
        events = self.first()
        since, _ = self.running.get(key, (1.0, 0))
        if since:
            events += self._step_start(key, attempt)
            if key in self.running:
                self.running[key] = (0.0, attempt)  # `overdue` must not repeat it while this is on its way
        data: dict[str, Any] = {"step_key": key, "attempt": attempt, "status": status}
        if error is not None:
            data["error"] = error
        events += (_STEP_FINISH + self._mark, codec.encode(data))
        return events

    def overdue(self, now: float) -> list[bytes]:
        """Returns the starts to emit at once: of everything older than `NOTICE_SECONDS`."""
        events: list[bytes] = []
        if not self.start_emitted and now - self.started_at > NOTICE_SECONDS:
            events += self.first()
        for key, (since, attempt) in self.running.items():
            if since and now - since > NOTICE_SECONDS:
                self.running[key] = (0.0, attempt)
                events += self.first()
                events += self._step_start(key, attempt)
        return events

    def _step_start(self, key: str, attempt: int) -> list[bytes]:
        return [_STEP_START + self._mark, codec.encode({"step_key": key, "attempt": attempt})]
