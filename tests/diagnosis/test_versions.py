"""`polos doctor` on versions that nobody serves."""

from __future__ import annotations

from typing import Any

import pytest

from polos_redis import PolosClient, Workflow, WorkflowContext, workflow
from polos_redis.diagnosis import Finding, diagnose
from tests.harness.running import until, working


async def findings(client: PolosClient) -> list[Finding]:
    return [one for one in (await diagnose(client)).findings if one.check == "versions"]


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_version_that_nobody_serves_is_found_while_executions_are_pinned_to_it(
    redis_url: str, namespace: str, partitions: int
) -> None:
    async def asks(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("review")

    def version(name: str) -> Workflow[Any, Any]:
        found: Workflow[Any, Any] = workflow(id="doctor-version", version=name, version_policy="pin")(asks)
        return found

    async with PolosClient(redis_url, namespace, partitions=partitions) as client:
        anywhere = workflow(id="doctor-any", version="1")(asks)
        async with working(client, version("1"), anywhere):
            handles = [await client.invoke("doctor-version") for _ in range(3)]
            loose = await client.invoke(anywhere)

            async def wait() -> bool:
                return {await one.status() for one in (*handles, loose)} == {"waiting"}

            await until(wait)
            assert await findings(client) == []
        async with working(client, version("2")):
            (found,) = await findings(client)
            assert (found.level, found.where) == ("warning", "doctor-version")
            assert found.found == (
                "no worker serves version '1' of this workflow, to which 3 open executions are pinned; all "
                "of them wait"
            )
            assert found.remedy.endswith("or cancel them: polos list --workflow doctor-version")
            await client.resume(suspend_execution_id=handles[0].id, suspend_step_key="review", data=True)
            (found,) = await findings(client)
            assert found.level == "problem" and found.found.endswith("1 of them is ready to run")
            for one in (*handles, loose):
                await client.cancel(one.id)
            assert await findings(client) == []
