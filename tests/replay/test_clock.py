"""The event loop of replays: waiting takes no time, threads and sockets get theirs."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from polos_redis.replay.clock import SkippingLoop

Scenario = Callable[[list[str]], Coroutine[Any, Any, Any]]


def _quiet(scenario: Scenario) -> tuple[list[str], bool, float]:
    """Run a scenario until the loop is quiet; returns what it noted, whether it has ended, and the loop's
    time."""

    async def main() -> tuple[list[str], bool, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SkippingLoop)
        noted: list[str] = []
        task = loop.create_task(scenario(noted))
        await loop.quiet()
        return noted, task.done(), loop.time()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(main())


async def _sleeps(noted: list[str]) -> None:
    async def one(seconds: float) -> None:
        await asyncio.sleep(seconds)
        noted.append(f"{seconds:g}")

    await asyncio.gather(*map(one, (86_400 * 365, 60, 3600.5, 0.001)))


async def _times_out(noted: list[str]) -> None:
    try:
        async with asyncio.timeout(7200):
            await asyncio.get_running_loop().create_future()
    except TimeoutError:
        noted.append("timeout")


async def _uses_a_thread(noted: list[str]) -> None:
    """A timer beside it must not fire first."""
    async with asyncio.timeout(60):
        await asyncio.to_thread(noted.append, "thread")
        await asyncio.to_thread(time.sleep, 0.05)


async def _uses_a_socket(noted: list[str]) -> None:
    reading, writing = socket.socketpair()
    with reading, writing:
        reader, writer = await asyncio.open_connection(sock=reading)
        asyncio.get_running_loop().call_later(0.01, writing.send, b"line\n")
        async with asyncio.timeout(60):
            noted.append((await reader.readline()).decode().strip())
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("scenario", "noted", "least"),
    [
        (_sleeps, ["0.001", "60", "3600.5", "3.1536e+07"], 86_400 * 365),
        (_times_out, ["timeout"], 7200),
        (_uses_a_thread, ["thread"], 0.05),
        (_uses_a_socket, ["line"], 0.01),
    ],
)
def test_it_ends_at_once(scenario: Scenario, noted: list[str], least: float) -> None:
    start = time.monotonic()
    found, done, now = _quiet(scenario)
    assert (found, done) == (noted, True)
    assert now >= least
    assert time.monotonic() - start < 30


async def _waits(noted: list[str]) -> None:
    noted.append("waits")
    await asyncio.get_running_loop().create_future()


async def _polls(noted: list[str]) -> None:
    noted.append("polls")
    while True:  # noqa: ASYNC110 - it is about code that polls
        await asyncio.sleep(1)


@pytest.mark.parametrize("scenario", [_waits, _polls])
def test_it_is_quiet_before_the_end(scenario: Scenario) -> None:
    found, done, _ = _quiet(scenario)
    assert len(found) == 1 and not done


def test_it_takes_real_time_while_nobody_waits_for_quiet() -> None:
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        start = time.monotonic()
        runner.run(asyncio.sleep(0.05))
        assert time.monotonic() - start >= 0.04
