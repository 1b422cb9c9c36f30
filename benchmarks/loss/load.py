"""The load: clients that start executions and answer them, and note what Redis has acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from polos_redis import PolosClient, Worker, WorkflowContext, workflow

CALLERS = 128
STEP = "approval"


@workflow(id="loss_approval")
async def approval(ctx: WorkflowContext, number: int) -> int:
    """Ends with the number that its answer has."""
    answer = await ctx.step.suspend(STEP, data={"number": number})
    return int(answer["data"])


@dataclass(slots=True)
class Acknowledged:
    """What was acknowledged: the loop's time at which the call returned, by execution id."""

    starts: dict[str, float] = field(default_factory=dict)
    answers: dict[str, float] = field(default_factory=dict)
    first_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        return len(self.starts) + len(self.answers)


@asynccontextmanager
async def load(client: PolosClient) -> AsyncIterator[Acknowledged]:
    """Starts and answers executions inside the block, and stops without waiting for calls in flight."""
    loop = asyncio.get_running_loop()
    acknowledged = Acknowledged()

    async def call() -> None:
        while True:
            handle = await client.invoke(approval, 1)
            acknowledged.starts[handle.id] = loop.time()
            await client.resume(suspend_execution_id=handle.id, suspend_step_key=STEP, data=1, early=True)
            acknowledged.answers[handle.id] = loop.time()
            acknowledged.first_answer.set()

    callers = [asyncio.create_task(call()) for _ in range(CALLERS)]
    try:
        yield acknowledged
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Left:
    """What is left after a crash: the ids of lost executions and lost answers, and how many have finished."""

    lost_starts: set[str]
    lost_answers: set[str]
    finished: int


async def look(client: PolosClient, acknowledged: Acknowledged) -> Left:
    """Finds out what is left, and lets a worker finish it. Lost answers are given again."""
    store = await client.store()
    lost_starts: set[str] = set()
    lost_answers: set[str] = set()

    async def check(execution_id: str) -> None:
        (status,) = await store.executions.read_fields(execution_id, "status")
        if status is None:
            lost_starts.add(execution_id)
        elif await store.suspensions.early_answer(execution_id, STEP) is None:
            lost_answers.add(execution_id)
            await client.resume(suspend_execution_id=execution_id, suspend_step_key=STEP, data=1, early=True)

    await asyncio.gather(*map(check, acknowledged.starts))
    left = acknowledged.starts.keys() - lost_starts
    lost_answers = (lost_answers | lost_starts) & acknowledged.answers.keys()
    worker = Worker(client, [approval], handle_signals=False)
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(120):
            results = await asyncio.gather(*(client.get_handle(one).result() for one in left))
    finally:
        worker.stop()
        await running
    return Left(lost_starts, lost_answers, results.count(1))
