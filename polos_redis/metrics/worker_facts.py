"""What a worker says about itself with each renewal of its lease."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from polos_redis.metrics.worker_stats import ObservedWorker
from polos_redis.version import __version__

MOST = 5  # abandoned steps that are named


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """Where a worker runs, and what it has done.

    `up_seconds` is how long it has been running, by its own monotonic clock. `concurrency` is the number of
    its slots. The others count since its start: activations, executions that ended, those of them that
    failed, and attempts of steps. `abandoned` is the number of threads that still run a step that has timed
    out, and `abandoned_steps` names the steps of the first ones: "STEP_KEY of EXECUTION_ID". `blocked` says
    what blocks its event loop: execution, workflow and step, or errand, as far as known, `at` (file, line and
    function) and `seconds`; None while the loop turns.
    """

    host: str = ""
    pid: int = 0
    version: str = ""
    up_seconds: float = 0.0
    concurrency: int = 0
    activations: int = 0
    ended: int = 0
    failed: int = 0
    steps: int = 0
    abandoned: int = 0
    abandoned_steps: Sequence[str] = ()
    blocked: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        worker: ObservedWorker,
        up_seconds: float,
        *,
        abandoned: Sequence[Mapping[str, Any]] = (),
        blocked: Mapping[str, Any] | None = None,
    ) -> WorkerFacts:
        """Returns the facts about a worker of this process. Any thread may call it."""
        stats = worker.stats
        ended = stats.ended.copy()
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            up_seconds=round(up_seconds, 3),
            concurrency=worker.concurrency,
            activations=sum(stats.activations.copy().values()),
            ended=sum(ended.values()),
            failed=sum(number for (_, status), number in ended.items() if status == "failed"),
            steps=sum(sum(one.counts) for one in stats.steps.copy().values()),
            abandoned=len(abandoned),
            abandoned_steps=tuple(map(_step, abandoned[:MOST])),
            blocked=None if blocked is None else {name: _storable(one) for name, one in blocked.items()},
        )

    @classmethod
    def parse(cls, stored: Mapping[str, Any]) -> WorkerFacts:
        """Returns stored facts, without those that this version does not know."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def plain(self) -> dict[str, Any]:
        """Returns JSON values, as they are stored."""
        return asdict(self)


def _step(facts: Mapping[str, Any]) -> str:
    return str(_storable(f"{facts['step']} of {facts['execution']}"))


def _storable(value: Any) -> Any:
    """Returns a number, or text that is UTF-8: a step key and a path need not be."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
