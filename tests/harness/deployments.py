"""A workflow whose code is deployed anew while its executions wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from polos_redis import ExecutionHandle, Workflow, WorkflowContext
from polos_redis.state.stuck import StuckReason
from tests.harness.running import Running, journal_of, until

Code = Callable[["Deployed", WorkflowContext], Awaitable[Any]]


class Deployed:
    """A workflow with exchangeable code. `effects` are the names that its steps have noted, in order, and
    `new` an event that the test sets; `kept` keeps what its code leaves behind."""

    def __init__(self, code: Code, id: str = "deployed", **options: Any) -> None:
        self.code = code
        self.effects: list[str] = []
        self.new = asyncio.Event()
        self.kept: Any = None
        self.workflow: Workflow[None, Any] = Workflow(self._run, id, **options)

    async def _run(self, ctx: WorkflowContext) -> Any:
        return await self.code(self, ctx)

    def deploy(self, code: Code) -> None:
        self.code = code
        self.effects.clear()

    async def step(self, ctx: WorkflowContext, key: str) -> str:
        """A step that notes its key."""
        return await ctx.step.run(key, self._note, key)

    async def _note(self, key: str) -> str:
        self.effects.append(key)
        return key


async def stuck(at: Running, handle: ExecutionHandle[Any]) -> StuckReason:
    """Wait until an execution is stuck and its slot is free; returns the reason."""
    await at.reached(handle, "stuck")
    await until(lambda: handle.id not in {activation.id for activation in at.worker.active})
    (packed,) = await at.host.store.executions.read_fields(handle.id, "stuck")
    assert packed is not None
    return StuckReason.parse(packed)


async def journaled(at: Running, handle: ExecutionHandle[Any]) -> set[str]:
    """The step keys in an execution's journal."""
    return {name.decode() for name in await journal_of(at.host.store, handle.id) if name != b""}


def crash(at: Running, handle: ExecutionHandle[Any]) -> int:
    """End the execution's activation as if its worker had lost it, so that another one replays its journal;
    returns how many there were."""
    running = [activation for activation in at.worker.active if activation.id == handle.id]
    for activation in running:
        activation.dropped("a test crashes it")
    return len(running)
