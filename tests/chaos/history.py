"""What happened during a run, as recorded outside Redis: the audit's only source besides the final state.

All times are seconds of the machine's monotonic clock, which every process reads alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

from tests.chaos.effects import Effect

LOSS_SECONDS = 3.0  # how much a crash may lose, unless the log is synced with every write

Fields = tuple[str, str, str]  # of a journal record: its kind, its status, a digest of what it holds


@dataclass(slots=True)
class Fault:
    """One fault. `pids` are the workers that it hit; none means all of them: it hit the server or the
    connections. `lost` are the bytes it cut off the server's log; `loses` says whether acknowledged writes of
    the last seconds may be gone."""

    kind: str
    began: float
    ended: float = inf
    pids: frozenset[int] = frozenset()
    loses: bool = False
    lost: bytes = b""
    note: str = ""

    def hit(self, pid: int) -> bool:
        return not self.pids or pid in self.pids

    def within(self, first: float, last: float) -> bool:
        """Whether it was on at some time between the two."""
        return self.began <= last and self.ended >= first


@dataclass(frozen=True, slots=True)
class Started:
    """An acknowledged start of an execution. `not_before` is when it may begin."""

    at: float
    execution_id: str
    workflow: str
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """An outcome as a client was told it. `given` is what a completed execution returned."""

    at: float
    execution_id: str
    status: str
    given: dict[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and its outcome: "accepted", "same", "recorded", "early", "unknown" or an error's name."""

    began: float
    at: float
    execution_id: str
    step: str
    value: str
    outcome: str
    by: str = ""

    @property
    def counts(self) -> bool:
        """Whether it was acknowledged as the one that decides."""
        return self.outcome in ("accepted", "same")


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A cancel: when it was asked for and when it was acknowledged."""

    began: float
    at: float
    execution_id: str


@dataclass(frozen=True, slots=True)
class Published:
    """An event with a value of its own. `certain` says that it was published exactly once."""

    began: float
    at: float
    topic: str
    value: str
    certain: bool


@dataclass(frozen=True, slots=True)
class Streamed:
    """An event that a reader got. `order` is its sequence id."""

    at: float
    reader: str
    topic: str
    event_id: str
    order: int
    event_type: str
    execution_id: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A journal as it was at some time before `at` (and after the last reply of the same reader)."""

    at: float
    execution_id: str
    status: str
    run: int
    records: dict[str, Fields]
    since: int = 1  # the run that the journal begins with


@dataclass
class History:
    """Everything that was recorded in a run."""

    seed: int = 0
    fsync_always: bool = False
    lease_seconds: float = 0.0
    limits: dict[str, int] = field(default_factory=dict)  # of semaphores, by name or by what precedes a "/"
    effects: list[Effect] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    cancelled: list[Cancelled] = field(default_factory=list)
    retried: list[Cancelled] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    streamed: list[Streamed] = field(default_factory=list)
    paid: list[tuple[float, str]] = field(
        default_factory=list
    )  # calls of the model that were answered in full
    snapshots: list[Snapshot] = field(default_factory=list)
    final: dict[str, Snapshot] = field(default_factory=dict)  # each execution's journal at the end
    final_streams: dict[str, list[Streamed]] = field(default_factory=dict)  # each topic read whole at the end
    left: list[str] = field(default_factory=list)  # broken invariants and leaked keys at the end
    hung: dict[str, str] = field(default_factory=dict)  # execution -> what did not come to an end

    # --- what faults explain ------------------------------------------------------------

    def hit(self, pid: int, first: float, last: float) -> bool:
        """Whether a fault hit a worker, or the server, between two times. After one of the server, a lease
        that was not renewed in time may still lapse."""
        return any(
            fault.hit(pid) and fault.within(first - (0.0 if fault.pids else self.lease_seconds), last)
            for fault in self.faults
        )

    def lost(self, at: float, *names: str, until: float = inf) -> bool:
        """Whether what was acknowledged at a time, and is known by one of these names, may have been lost by
        `until`: the crash came right afterwards, or the cut log had it."""
        for fault in self.faults:
            if fault.loses and fault.ended >= at and fault.began <= until:
                if at >= fault.began - LOSS_SECONDS:
                    return True
                if fault.lost and not _names(fault.lost).isdisjoint(names):
                    return True
        return False

    # --- what belongs to an execution ---------------------------------------------------

    def lines(self, execution_id: str) -> list[str]:
        """All that is known of an execution, in order, with the faults of its time."""
        found = sorted(self._lines(execution_id))
        if found:
            first, last = found[0][0] - LOSS_SECONDS, found[-1][0]
            for fault in self.faults:
                if fault.within(first, last):
                    whom = ", ".join(map(str, sorted(fault.pids))) or "everybody"
                    found.append((fault.began, f"FAULT {fault.kind} hits {whom} {fault.note}".rstrip()))
                    if fault.ended < inf:
                        found.append((fault.ended, f"fault over: {fault.kind}"))
        return [f"{at:12.3f} {text}" for at, text in sorted(found)]

    def _lines(self, execution_id: str) -> Iterator[tuple[float, str]]:
        for effect in self.effects:
            if effect.execution_id == execution_id:
                words = (f"run {effect.run}" if effect.run > 1 else "", effect.attempt, effect.value)
                more = " ".join(word for word in words if word)
                yield effect.at, f"worker {effect.pid}: {effect.step} {effect.what} {more}".rstrip()
        for one in self.started:
            if one.execution_id == execution_id:
                yield one.at, f"client: {one.workflow} started"
        for ended in self.ended:
            if ended.execution_id == execution_id:
                yield ended.at, f"client: told that it is {ended.status} {ended.error}".rstrip()
        for answer in self.answered:
            if answer.execution_id == execution_id:
                by, took = answer.by or "anybody", answer.at - answer.began
                text = f"client: answer {answer.value} by {by} to {answer.step}: {answer.outcome}"
                yield answer.at, f"{text} (after {took:.3f} s)"
        for what, calls in (("cancelled", self.cancelled), ("retried", self.retried)):
            yield from ((one.at, f"client: {what}") for one in calls if one.execution_id == execution_id)
        for snapshot in (*self.snapshots, *self.final.values()):
            if snapshot.execution_id == execution_id:
                records = (f"{key} {kind} {status}" for key, (kind, status, _) in snapshot.records.items())
                yield (
                    snapshot.at,
                    f"journal: {snapshot.status}, run {snapshot.run}: {', '.join(records)}",
                )


@lru_cache(maxsize=64)
def _names(lost: bytes) -> frozenset[str]:
    """The ids of root executions, tokens and words that the cut part of a log mentions."""
    return frozenset(word.decode() for word in re.findall(rb"[a-z0-9_-]{4,}", lost))


def root_of(execution_id: str) -> str:
    return execution_id.partition(".")[0]
