"""What a run amounted to: counts, recovery times and violations."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tests.chaos.audit import Violation, runs_of
from tests.chaos.effects import SAW, START
from tests.chaos.history import History

HISTORIES = 5  # printed of executions with violations


@dataclass
class Report:
    """The figures of one run, or of several added up."""

    seeds: list[int] = field(default_factory=list)
    seconds: float = 0.0
    executions: int = 0
    effects: int = 0
    answers: int = 0
    streamed: int = 0
    started: Counter[str] = field(default_factory=Counter)  # by users, of each workflow
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    repeated: int = 0  # runs of steps that a fault explains
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    violations: list[tuple[int, Violation]] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Add the figures of another run."""
        self.seeds += other.seeds
        self.seconds += other.seconds
        self.executions += other.executions
        self.effects += other.effects
        self.answers += other.answers
        self.streamed += other.streamed
        self.started += other.started
        self.outcomes += other.outcomes
        self.faults += other.faults
        self.repeated += other.repeated
        for kind, seconds in other.recoveries.items():
            self.recoveries[kind] += seconds
        self.violations += other.violations

    @classmethod
    def of(cls, history: History, seconds: float, violations: list[Violation]) -> Report:
        runs = runs_of(history)
        return cls(
            seeds=[history.seed],
            seconds=seconds,
            executions=len(history.final),
            effects=sum(effect.what == START for effect in history.effects),
            answers=sum(answer.outcome in ("accepted", "recorded", "early") for answer in history.answered),
            streamed=len(history.streamed),
            started=Counter(started.workflow for started in history.started),
            outcomes=Counter(snapshot.status for snapshot in history.final.values()),
            faults=Counter(fault.kind for fault in history.faults),
            repeated=sum(len(several) - 1 for several in runs.values()),
            recoveries=recoveries(history),
            violations=[(history.seed, violation) for violation in violations],
        )

    def json(self) -> dict[str, Any]:
        """The figures as JSON values; times in seconds."""
        return {
            "seeds": self.seeds,
            "seconds": round(self.seconds, 1),
            "executions": self.executions,
            "effects": self.effects,
            "answers": self.answers,
            "streamed": self.streamed,
            "started": dict(self.started),
            "outcomes": dict(self.outcomes),
            "faults": dict(self.faults),
            "repeated": self.repeated,
            "recovery_seconds": {
                kind: {
                    "count": len(some),
                    "p50": round(statistics.median(some), 2),
                    "max": round(max(some), 2),
                }
                for kind, some in sorted(self.recoveries.items())
                if some
            },
            "violations": [{"seed": seed, **_json(violation)} for seed, violation in self.violations],
        }

    def lines(self) -> Iterable[str]:
        """The report as text."""
        found = self.json()
        names = [f"{name} {count:,}" for name, count in self.outcomes.most_common()]
        yield f"seeds {self.seeds}, {self.seconds:,.0f} s"
        yield f"{self.executions:,} executions ({', '.join(names)}), {self.answers:,} answers"
        yield f"{self.effects:,} runs of steps ({self.repeated:,} repeated), {self.streamed:,} events read"
        yield f"{sum(self.faults.values())} faults; recovery in seconds:"
        for kind, count in sorted(self.faults.items()):
            times = found["recovery_seconds"].get(kind)
            took = f"p50 {times['p50']:6.2f}  max {times['max']:6.2f}" if times else "nothing to recover"
            yield f"  {kind:32} {count:4}  {took}"
        yield f"{len(self.violations)} violations"


def recoveries(history: History) -> dict[str, list[float]]:
    """Seconds by kind of fault. A fault that hits workers: from its begin until the execution of each step
    that it interrupted goes on. One that hits the server or the connections: from its end until the next
    client was told the end of an execution."""
    found: dict[str, list[float]] = defaultdict(list)
    ends = sorted(ended.at for ended in history.ended)
    signs: dict[str, list[float]] = defaultdict(list)  # that an execution goes on
    given: dict[tuple[str, str, int], float] = {}
    for effect in history.effects:
        if effect.what in (START, SAW):
            signs[effect.execution_id].append(effect.at)
        if effect.what == SAW:
            given.setdefault((effect.execution_id, effect.step, effect.pid), effect.at)
    runs = [run.start for several in runs_of(history).values() for run in several]
    for fault in history.faults:
        if not fault.pids:
            if later := ends[bisect_right(ends, fault.ended) :]:
                found[fault.kind].append(later[0] - fault.ended)
            continue
        for start in runs:
            known = start.execution_id, start.step, start.pid
            interrupted = start.pid in fault.pids and start.at < fault.began < given.get(known, inf)
            later = [at for at in signs[start.execution_id] if at > fault.began] if interrupted else []
            if later:
                found[fault.kind].append(min(later) - fault.began)
    return found


def describe(history: History, violations: list[Violation]) -> Iterable[str]:
    """The violations, each with the history of its execution."""
    shown: set[str] = set()
    for violation in violations:
        yield f"VIOLATION (seed {history.seed}) {violation}"
        if violation.execution_id and violation.execution_id not in shown and len(shown) < HISTORIES:
            shown.add(violation.execution_id)
            yield from (f"    {line}" for line in history.lines(violation.execution_id))


def _json(violation: Violation) -> dict[str, str]:
    return {"rule": violation.rule, "execution_id": violation.execution_id, "text": violation.text}
