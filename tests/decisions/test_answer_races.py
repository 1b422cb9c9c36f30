"""Fifty people answer while the timeout is due: one answer wins, or the timeout; all get the outcome."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from datetime import datetime
from typing import Any

import pytest

from polos_redis import (
    AlreadyResumedError,
    ExecutionFinishedError,
    PolosClient,
    SuspendTimeoutError,
    SuspensionExpiredError,
    WorkflowContext,
    workflow,
)
from tests.harness.running import until, working

pytestmark = pytest.mark.also_on_cluster

CLIENTS = 50
TOGETHER = 10  # concurrent rounds
TIMEOUT = 0.5  # seconds until a round's suspension expires
SPREAD = 0.004  # seconds around the deadline in which answers arrive


@workflow
async def decided(ctx: WorkflowContext, input: float) -> Any:
    try:
        resume = await ctx.step.suspend("ok", timeout=input)
    except SuspendTimeoutError:
        return "timeout"
    return resume["data"]


async def rounds(url: str, namespace: str, count: int) -> Counter[str]:
    """Runs `count` rounds; returns how many were decided by "answer" and by "timeout"."""
    clients = [PolosClient(url, namespace) for _ in range(CLIENTS)]
    won: Counter[str] = Counter()
    try:
        async with working(clients[0], decided):
            for start in range(0, count, TOGETHER):
                together = range(start, min(start + TOGETHER, count))
                won.update(await asyncio.gather(*(_round(clients, number) for number in together)))
    finally:
        await asyncio.gather(*(client.aclose() for client in clients))
    return won


async def _round(clients: list[PolosClient], number: int) -> str:
    handle = await decided.invoke(clients[0], TIMEOUT)

    async def opened() -> Any:
        return (await clients[0].get_execution(handle.id))["suspensions"]

    (suspension,) = await until(opened, "the suspension to open")
    due = datetime.fromisoformat(suspension["expires_at"]).timestamp()

    async def answer(client: PolosClient, person: int) -> str:
        await asyncio.sleep(due + random.uniform(-SPREAD, SPREAD) - time.time())  # the race itself
        try:
            resumed = await client.resume(
                suspend_execution_id=handle.id,
                suspend_step_key="ok",
                data=[number, person],
                resumed_by=f"person {person}",
            )
        except AlreadyResumedError as refused:
            return f"already by {refused.resumed_by}"
        except SuspensionExpiredError:
            return "expired"
        except ExecutionFinishedError:
            return "finished"
        return resumed.outcome

    outcomes = await asyncio.gather(*(answer(client, person) for person, client in enumerate(clients)))
    result = await handle.result(timeout=20)
    if result == "timeout":
        assert set(outcomes) == {"expired"}
        return "timeout"
    winner = outcomes.index("accepted")
    assert Counter(outcomes) == {"accepted": 1, f"already by person {winner}": CLIENTS - 1}
    assert result == [number, winner]
    return "answer"


@pytest.mark.failure(23)
async def test_exactly_one_decides(redis_url: str, namespace: str) -> None:
    won = await rounds(redis_url, namespace, 20)
    assert won.total() == 20
