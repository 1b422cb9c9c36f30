"""How much each scenario does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Size:
    """Number of executions in each scenario, or of what else it counts."""

    executions: int = 20_000  # invoke, noop, drain
    ten_steps: int = 4_000
    followed: int = 1_000
    samples: int = 2_000  # latency
    storm: int = 20_000
    memory: int = 10_000
    counted: int = 2_000  # commands, for each workflow
    suspended: tuple[int, ...] = (1_000, 10_000, 100_000)
    few: int = 100  # suspended in the stage that these are compared with
    rounds: int = 9
    round_executions: int = 1_500
    round_samples: int = 100
    round_pages: int = 10
    round_timers: int = 60
    children: int = 1_000
    fan_outs: int = 5
    readers: int = 100
    events: int = 2_000
    event_samples: int = 300
    journals: Mapping[int, int] = field(  # steps of a journal: how many such executions
        default_factory=lambda: {10: 100, 100: 100, 1_000: 20, 10_000: 5}
    )
    awaited: int = 10_000
    imports: int = 15


NORMAL = Size()
FULL = replace(NORMAL, suspended=(*NORMAL.suspended, 1_000_000))
QUICK = Size(
    executions=2_000,
    ten_steps=100,
    followed=20,
    samples=50,
    storm=200,
    memory=500,
    counted=100,
    suspended=(100, 300),
    few=60,
    rounds=1,
    round_executions=100,
    round_samples=20,
    round_pages=5,
    round_timers=20,
    children=20,
    fan_outs=2,
    readers=10,
    events=50,
    event_samples=10,
    journals={5: 5, 50: 5},
    awaited=200,
    imports=2,
)
