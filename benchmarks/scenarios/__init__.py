"""Benchmark scenarios. Each runs on a fresh stage and returns its figures.

They use the public API only, so that they also run against other checkouts (`python -m benchmarks compare`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.figures import Figure
from benchmarks.scenarios.children import fan_out
from benchmarks.scenarios.commands import commands
from benchmarks.scenarios.handles import handles
from benchmarks.scenarios.imports import imports
from benchmarks.scenarios.latency import latency
from benchmarks.scenarios.memory import memory
from benchmarks.scenarios.readers import readers
from benchmarks.scenarios.replay import replay
from benchmarks.scenarios.sizes import FULL, NORMAL, QUICK, Size
from benchmarks.scenarios.storm import storm
from benchmarks.scenarios.suspended import suspended
from benchmarks.scenarios.throughput import drain, end_to_end, followed, invoke, steps
from benchmarks.stage import Stage

__all__ = ["ALL", "FULL", "NORMAL", "QUICK", "Scenario", "Size"]

Scenario = Callable[[Stage, Size], Awaitable[list[Figure]]]

ALL: dict[str, Scenario] = {
    "invoke": invoke,
    "noop": end_to_end,
    "drain": drain,
    "steps": steps,
    "followed": followed,
    "latency": latency,
    "storm": storm,
    "memory": memory,
    "commands": commands,
    "fan-out": fan_out,
    "readers": readers,
    "replay": replay,
    "handles": handles,
    "imports": imports,
    "suspended": suspended,
}
