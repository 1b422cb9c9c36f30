"""Time to import the package."""

from __future__ import annotations

import asyncio
import statistics
import sys

from benchmarks.figures import Figure
from benchmarks.scenarios.sizes import Size
from benchmarks.stage import BenchmarkError, Stage

PACKAGE = "import polos_redis"
NAMES = "from polos_redis import PolosClient, Worker, workflow"
LIBRARIES = "import redis.asyncio, pydantic, msgpack, anyio"


async def imports(stage: Stage, size: Size) -> list[Figure]:
    """Imports in new processes, in turn with the import of the libraries that a service has anyway."""
    took: dict[str, list[float]] = {PACKAGE: [], NAMES: [], LIBRARIES: []}
    for statement in took:
        await _seconds(statement)  # compiles the modules
    for _ in range(size.imports):
        for statement, seconds in took.items():
            seconds.append(await _seconds(statement))
    medians = {statement: statistics.median(seconds) * 1000 for statement, seconds in took.items()}
    figures = [Figure("imports", name, value, "ms", more=False) for name, value in medians.items()]
    for statement in (PACKAGE, NAMES):
        ratio = medians[statement] / medians[LIBRARIES]
        figures.append(
            Figure("imports", f"{statement}, against these libraries", ratio, "x", 1.3, more=False)
        )
    return figures


async def _seconds(statement: str) -> float:
    source = f"import time\nsince = time.perf_counter()\n{statement}\nprint(time.perf_counter() - since)"
    command = [sys.executable, "-c", source]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise BenchmarkError(f"`{statement}` exited with status {process.returncode}")
    return float(output)
