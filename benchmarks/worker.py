"""Worker process of a benchmark: `python -m benchmarks.worker URL LOOP PROFILE` (PROFILE may be empty).

It reads commands from standard input and answers each with one line: `run` starts the worker, `cpu` prints
the CPU seconds used by this process. It exits when standard input ends, so it never outlives its benchmark.
"""

from __future__ import annotations

import asyncio
import cProfile
import sys
import time

from benchmarks.workflows import ALL
from polos_redis import PolosClient, Worker

NAMESPACE = "benchmark"


async def main(url: str, profile: str) -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    profiler = cProfile.Profile() if profile else None
    async with PolosClient(url, NAMESPACE) as client:
        worker = Worker(client, ALL)
        running: asyncio.Task[None] | None = None
        while line := await _line_or_end(reader, running):
            if line == "run":
                if profiler is not None:
                    profiler.enable()
                running = asyncio.create_task(worker.run())
                ready = asyncio.create_task(worker.ready.wait())
                await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
                if ready.done():
                    _settle()
                    print("ready", flush=True)
            elif line == "cpu":
                print(time.process_time(), flush=True)
        if profiler is not None:
            profiler.disable()
            profiler.dump_stats(profile)
        if running is not None:
            worker.stop()
            await running


def _settle() -> None:
    """Treat the garbage collector as `polos worker` does."""
    try:
        from polos_redis.worker import collector
    except ImportError:  # an older checkout, which `compare` measures
        return
    collector.settle()


async def _line_or_end(reader: asyncio.StreamReader, running: asyncio.Task[None] | None) -> str:
    """The next line; empty if the input or the worker has ended."""
    line = asyncio.create_task(reader.readline())
    await asyncio.wait({line, running} if running else {line}, return_when=asyncio.FIRST_COMPLETED)
    if not line.done():
        line.cancel()
        return ""
    return line.result().decode().strip()


if __name__ == "__main__":
    if sys.argv[2] == "uvloop":
        import uvloop

        uvloop.run(main(sys.argv[1], sys.argv[3]))
    else:
        asyncio.run(main(sys.argv[1], sys.argv[3]))
