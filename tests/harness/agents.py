"""Agents at work in a test: a real worker, and the LLM server of tests/harness/llm.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from polos_redis import ExecutionHandle, Workflow
from polos_redis.results import Suspension
from tests.harness.llm import Answering, Reply, Server, When, llm
from tests.harness.running import Running, running, until

KEY = "sk-test-0123456789"
PROVIDERS = ("openai", "openai-responses")


@asynccontextmanager
async def talking(
    url: str,
    namespace: str,
    replies: Answering | Iterable[Reply | When],
    *workflows: Workflow[Any, Any],
    **options: Any,
) -> AsyncIterator[tuple[Server, Running]]:
    """A worker for these workflows, and the LLM server their agents call."""
    with pytest.MonkeyPatch.context() as patch:
        async with llm(replies) as server:
            patch.setenv("OPENAI_API_KEY", KEY)
            patch.setenv("OPENAI_BASE_URL", server.base_url)
            async with running(url, namespace, *workflows, **options) as at_work:
                yield server, at_work


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
