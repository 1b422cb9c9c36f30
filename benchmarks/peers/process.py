"""A process of a peer: `python -m benchmarks.peers.NAME (worker|client) ADDRESS LOOP` in its environment.

Both end when their standard input does, so they never outlive their benchmark, and print a line when they are
ready. The client then reads requests, a line of JSON each, and answers each with such a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from benchmarks.peers.peer import Client, Job

T = TypeVar("T")

POLL_SECONDS = 0.005
FEWEST, MOST = 32, 50_000  # jobs of a measurement

Ready = Callable[[], None]
WorkerMain = Callable[[str, Ready], Awaitable[None]]
ClientMain = Callable[[str], AbstractAsyncContextManager[Client]]


def run(client: ClientMain, worker: WorkerMain | None = None) -> None:
    """Run one of a peer's processes, as its arguments say."""
    role, address, loop = sys.argv[1:]
    factory = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_run(role, address, client, worker))


async def _run(role: str, address: str, client: ClientMain, worker: WorkerMain | None) -> None:
    """Run the worker or the client until the end of the process."""
    requests = asyncio.Queue[str]()
    threading.Thread(target=_read, args=(asyncio.get_running_loop(), requests), daemon=True).start()
    try:
        if role == "worker":
            assert worker is not None
            await worker(address, _ready)
            raise RuntimeError("the worker has returned")
        async with client(address) as opened:
            _ready()
            while True:
                answer = await measure(opened, **json.loads(await requests.get()))
                print(json.dumps(answer), flush=True)
    except BaseException as error:
        traceback.print_exc()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        first, *_ = str(error).splitlines() or [""]
        print(f"{type(error).__name__}: {first}", file=sys.stderr, flush=True)
        os._exit(1)  # does not wait for threads of the peer's


def _ready() -> None:
    print("ready", flush=True)


def _read(loop: asyncio.AbstractEventLoop, requests: asyncio.Queue[str]) -> None:
    """Read requests, and end the process with its input: at once, as its server is thrown away."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(requests.put_nowait, line)
    os._exit(0)


async def measure(client: Client, case: str, seconds: float, samples: int, in_flight: int) -> dict[str, Any]:
    """Measure a case for about this many seconds.

    Returns `count` and `seconds` of the cases that are about throughput, `milliseconds` of the others.
    """
    if case == "jobs":
        return await throughput(client, "noop", seconds, in_flight)
    if case == "steps":
        return await throughput(client, "steps", seconds, in_flight)
    if case == "call":
        for _ in range(10):
            await client.call()
        return {"milliseconds": [took async for took in _timed(client.call, samples, seconds)]}
    waiting = list(await client.suspend(samples + 10))
    for _ in range(10):
        await client.resume(waiting.pop())
    answered = _timed(lambda: client.resume(waiting.pop()), samples, seconds)
    return {"milliseconds": [took async for took in answered]}


async def throughput(client: Client, job: Job, seconds: float, in_flight: int) -> dict[str, Any]:
    """Start jobs while the worker runs them, until all have finished; as many as take about `seconds`.

    Their number follows from a warm-up, repeated with twice as many jobs until it takes a tenth of that time.
    """
    count = FEWEST
    while (took := await _finish(client, job, count, in_flight)) < seconds / 10 and count < MOST:
        count *= 2
    count = max(FEWEST, min(MOST, round(count / took * seconds)))
    return {"count": count, "seconds": await _finish(client, job, count, in_flight)}


async def _finish(client: Client, job: Job, count: int, in_flight: int) -> float:
    """Seconds from the first start until the last job has finished."""
    since = time.perf_counter()
    remaining = iter(range(count))

    async def caller() -> None:
        for _ in remaining:
            await client.start(job)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(count, in_flight)):
            group.create_task(caller())
    await until(client.finished)
    return time.perf_counter() - since


async def until(question: Callable[[], Awaitable[T]]) -> T:
    """Ask until the answer is true, and return it. The command stops a process that asks for too long."""
    while True:
        if answer := await question():
            return answer
        await asyncio.sleep(POLL_SECONDS)


async def _timed(
    call: Callable[[], Awaitable[None]], samples: int, seconds: float
) -> AsyncGenerator[float, None]:
    """Milliseconds of each call, one after the other, until there are enough or the time is over."""
    end = time.perf_counter() + seconds
    for _ in range(samples):
        since = time.perf_counter()
        await call()
        now = time.perf_counter()
        yield (now - since) * 1000
        if now > end:
            return
