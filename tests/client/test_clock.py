"""Clocks of clients and workers may be minutes off: only the server's clock counts."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from polos_redis import PolosClient, SuspendTimeoutError, WorkflowContext, workflow
from tests.harness.running import soon, until

SKEWED = """
import sys, time
skew = float(sys.argv[1])
real, real_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: real() + skew, lambda: real_ns() + int(skew * 1e9)
import asyncio
from polos_redis import PolosClient, Worker
from tests.client.test_clock import both
asyncio.run(Worker(PolosClient(), [both], lease_seconds=2).run())
"""


@workflow(id="clock-both")
async def both(ctx: WorkflowContext) -> list[str]:
    answer = (await ctx.step.suspend("asked", timeout=3600))["data"]
    try:
        await ctx.step.suspend("not-asked", timeout=0.3)
    except SuspendTimeoutError:
        return [answer, "timed out"]
    return [answer, "answered"]


@pytest.mark.failure(20)
@pytest.mark.parametrize("skew", [-600.0, 7200.0])
async def test_a_worker_with_a_skewed_clock_works(redis_url: str, namespace: str, skew: float) -> None:
    environment = {**os.environ, "POLOS_REDIS_URL": redis_url, "POLOS_NAMESPACE": namespace}
    process = subprocess.Popen([sys.executable, "-c", SKEWED, str(skew)], env=environment)  # noqa: ASYNC220 - starting it is all
    try:
        async with PolosClient(redis_url, namespace) as client:
            handle = await both.invoke(client)

            async def waits() -> bool:
                return bool(await client.list_suspensions())

            await until(waits)
            (row,) = await client.list_suspensions()
            opened, expires = (datetime.fromisoformat(row[name]) for name in ("opened_at", "expires_at"))
            assert abs(opened - datetime.now(UTC)) < timedelta(seconds=60)
            assert expires - opened == timedelta(hours=1)
            await client.resume(suspend_execution_id=handle.id, suspend_step_key="asked", data="yes")
            assert await soon(handle.result()) == ["yes", "timed out"]
    finally:
        process.terminate()
        assert process.wait(20) == 0
