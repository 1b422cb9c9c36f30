"""Agents at work in a test: a real worker, and a scripted model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from polos_redis import ExecutionHandle, Workflow
from polos_redis.results import Suspension
from polos_redis.testing.model import Answering, Reply, ScriptedModel, When
from tests.harness.running import Running, running, until

PROVIDERS = ("openai", "openai-responses")


@asynccontextmanager
async def talking(
    url: str,
    namespace: str,
    replies: Answering | Iterable[Reply | When],
    *workflows: Workflow[Any, Any],
    **options: Any,
) -> AsyncIterator[tuple[ScriptedModel, Running]]:
    """A worker for these workflows, and the model their agents call."""
    async with (
        ScriptedModel(replies) as model,
        running(url, namespace, *workflows, **options) as at_work,
    ):
        yield model, at_work


async def asked(at_work: Running, count: int = 1, *, but: Iterable[str] = ()) -> list[Suspension]:
    """Wait for `count` open suspensions, without those in `but`; returns them sorted by step key."""

    async def there() -> list[Suspension]:
        page = await at_work.client.list_suspensions()
        found = [one for one in page if one.step_key not in but]
        return found if len(found) >= count else []

    found: list[Suspension] = await until(there, f"{count} suspensions")
    return sorted(found, key=lambda one: one.step_key)


async def answer(at_work: Running, suspension: dict[str, Any], data: Any, **options: Any) -> None:
    """Answer a suspension."""
    await at_work.client.resume(
        suspend_execution_id=suspension["execution_id"],
        suspend_step_key=suspension["step_key"],
        data=data,
        **options,
    )


async def error_of(at_work: Running, handle: ExecutionHandle[Any]) -> tuple[str, str]:
    """The type and message of the error that an execution failed with."""
    await at_work.reached(handle, "failed")
    error = (await at_work.client.get_execution(handle.id))["error"]
    return error["type"], error["message"]
