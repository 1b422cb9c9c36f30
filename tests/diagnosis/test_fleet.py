"""`polos doctor` on workers whose threads still run steps that have timed out."""

from __future__ import annotations

import threading

from polos_redis import PolosClient, WorkflowContext, workflow
from polos_redis.diagnosis import Finding, diagnose
from tests.harness.running import running, until


async def findings(client: PolosClient) -> list[Finding]:
    return [one for one in (await diagnose(client)).findings if one.check == "threads"]


async def test_threads_that_still_run_steps_that_timed_out_are_found(redis_url: str, namespace: str) -> None:
    release = threading.Event()

    @workflow(id="doctor-hangs")
    async def hangs(ctx: WorkflowContext) -> None:
        await ctx.step.run("hang\udcff", release.wait, max_retries=0, timeout=0.05)

    async with running(redis_url, namespace, hangs, concurrency=2) as at:
        handles = []
        for level in ("warning", "problem"):
            handles.append(await hangs.invoke(at.client))

            async def is_found(level: str = level) -> bool:
                return [one.level for one in await findings(at.client)] == [level]

            await until(is_found, "the next renewal")
        (found,) = await findings(at.client)
        first, second = (f"hang? of {one.id}" for one in handles)
        assert found.found == (
            f"2 threads of this worker still run a step that has timed out: {first}, {second}; the worker "
            "reads no more executions"
        )
        assert found.remedy.startswith("give what the step calls a timeout of its own; py-spy dump --pid ")
        release.set()

        async def is_over() -> bool:
            return not await findings(at.client)

        await until(is_over, "the next renewal")
