"""The progress that the steps of one activation report, see `ctx.step.heartbeat`.

Any thread may report. The last report of a step is kept for its next attempt; the worker's tick writes what
is new, at most once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from polos_redis.runtime.lifecycle_events import StepAttempt
from polos_redis.values.text import raw

MOST_BYTES = 16_384  # of one report
MOST_STEPS = 100  # whose reports are written at once
WRITE_SECONDS = 1.0


class Report(NamedTuple):
    """What an attempt at a step has reported, encoded."""

    step: StepAttempt
    value: bytes

    def row(self) -> tuple[bytes, int, bytes]:
        """Returns step key, attempt and value, as note_progress.lua takes them."""
        return raw(self.step.key), self.step.attempt, self.value


class Progress:
    """The last report of each step, and which reports are not written yet."""

    __slots__ = ("_latest", "_lock", "_unwritten", "_written_at")

    def __init__(self, latest: Mapping[str, tuple[int, bytes]] | None = None) -> None:
        self._lock = threading.Lock()
        self._latest = dict(latest or {})
        self._unwritten: dict[str, Report] = {}
        self._written_at = float("-inf")

    def latest(self, key: str) -> bytes:
        """Returns the last report of a step, empty for none."""
        return self._latest.get(key, (0, b""))[1]

    def restore(self, key: str, attempt: int, value: bytes) -> None:
        """Take over the last report of an attempt that has ended, unless a later attempt has reported."""
        with self._lock:
            if self._latest.get(key, (0, b""))[0] <= attempt:
                self._latest[key] = attempt, value

    def report(self, step: StepAttempt, value: bytes) -> None:
        """Take a report. Any thread may call it."""
        with self._lock:
            self._latest[step.key] = step.attempt, value
            self._unwritten[step.key] = Report(step, value)

    def due(self, now: float, running: Mapping[str, StepAttempt]) -> list[Report]:
        """Returns the reports to write now, and considers them written. Those of attempts that have ended are
        dropped; others wait until the start of their step was emitted."""
        if not self._unwritten or now - self._written_at < WRITE_SECONDS:
            return []
        found: list[Report] = []
        with self._lock:
            for key, report in list(self._unwritten.items()):
                if running.get(key) is not report.step:
                    del self._unwritten[key]
                elif report.step.emitted and len(found) < MOST_STEPS:
                    del self._unwritten[key]
                    found.append(report)
        if found:
            self._written_at = now
        return found

    def write_again(self, reports: Iterable[Report]) -> None:
        """Take back reports whose write has failed, where there are no newer ones."""
        with self._lock:
            for report in reports:
                self._unwritten.setdefault(report.step.key, report)
