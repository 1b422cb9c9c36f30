"""Worker statistics: plain counters, so that counting costs next to nothing.

The event loop writes them. Any thread may read them, but must copy the dictionaries, which grow.
`prometheus.py` exports them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sized
from typing import Protocol

STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
WAIT_SECONDS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 604_800.0)


class Durations:
    """A histogram of durations in seconds.

    `counts[i]` is the number of durations up to `bounds[i]` and above the bound before; the last count is of
    those above all bounds. `seconds` is the sum.
    """

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds


def _steps() -> Durations:
    return Durations(STEP_SECONDS)


def _waits() -> Durations:
    return Durations(WAIT_SECONDS)


class WorkerStats:
    """Counters of one worker, since it was created."""

    __slots__ = (
        "activations",
        "dropped",
        "ended",
        "loop_blocked",
        "parks",
        "paused",
        "recovered",
        "renewals_missed",
        "steps",
        "stuck",
        "unreached",
        "waits",
    )

    def __init__(self) -> None:
        self.activations = defaultdict[str, int](int)  # by workflow
        self.parks = defaultdict[str, int](int)  # by workflow
        self.dropped = defaultdict[str, int](int)  # activations that were lost or refused, by workflow
        self.ended = defaultdict[tuple[str, str], int](int)  # executions, by workflow and status
        self.steps = defaultdict[tuple[str, str], Durations](_steps)  # attempts, by workflow and status
        self.stuck = defaultdict[str, int](int)  # executions that became stuck, by workflow
        self.paused = defaultdict[str, int](int)  # executions that have failed and were paused, by workflow
        self.unreached = defaultdict[str, int](int)  # journaled steps not reached until the end, by workflow
        self.waits = defaultdict[str, Durations](_waits)  # by kind
        self.recovered = defaultdict[str, int](int)  # entries of lost workers, by outcome
        self.renewals_missed = 0
        self.loop_blocked = 0  # how often the event loop was blocked for too long


class ObservedWorker(Protocol):
    """The attributes of a worker that its metrics read, from any thread."""

    @property
    def stats(self) -> WorkerStats: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def active(self) -> Sized: ...
    @property
    def lease_age(self) -> float: ...
    @property
    def reconnects(self) -> int: ...
