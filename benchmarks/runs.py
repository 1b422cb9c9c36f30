"""Runs of the scenarios, each on a fresh stage."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import scenarios
from benchmarks.figures import Figure, median
from benchmarks.options import loop_factory
from benchmarks.progress import Progress
from benchmarks.stage import BenchmarkError, open_stage
from polos_redis.embedded.binary import ServerBinary
from polos_redis.errors import PolosError


@dataclass(slots=True)
class Results:
    """The figures, and why the scenarios without any are missing."""

    figures: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def run(
    names: Sequence[str],
    size: scenarios.Size,
    server: ServerBinary,
    *,
    loop: str,
    in_flight: int,
    repeat: int = 1,
    profile: Path | None = None,
) -> Results:
    """Run scenarios (all, if none are named), with settings as shipped; medians of `repeat` runs."""
    for name in [name for name in os.environ if name.startswith("POLOS_")]:
        del os.environ[name]
    names = names or list(scenarios.ALL)
    results = Results()
    with Progress(len(names) * repeat) as progress, asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        for name in names:
            found = []
            for turn in range(repeat):
                progress.start(name if repeat == 1 else f"{name}, run {turn + 1}")
                if name in results.missing:
                    continue
                written = str(profile / f"{name}.pstats") if profile else ""
                try:
                    found.append(runner.run(_run(name, size, server, loop, in_flight, written, progress)))
                except Exception as error:
                    results.missing[name] = _reason(error)
            if name not in results.missing:
                results.figures += median(found)
    return results


def _reason(error: Exception) -> str:
    """Why a scenario has failed. Raises the error if it is a fault of the benchmark."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if not isinstance(cause, BenchmarkError | PolosError | OSError | TimeoutError):
        raise error
    return str(cause) or type(cause).__name__


async def _run(
    name: str,
    size: scenarios.Size,
    server: ServerBinary,
    loop: str,
    in_flight: int,
    profile: str,
    progress: Progress,
) -> list[Figure]:
    async with open_stage(
        server, loop=loop, in_flight=in_flight, profile=profile, show_progress=progress.show
    ) as stage:
        return await scenarios.ALL[name](stage, size)
