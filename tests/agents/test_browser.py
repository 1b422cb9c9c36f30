"""Agents approved on the page in a real Chromium."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import PolosClient, WorkflowContext, workflow
from polos_redis.agents import Agent, tool
from polos_redis.links import Links
from polos_redis.testing.model import Call, Say, read_log
from tests.docs.test_seed import agent_program, planning, script
from tests.harness.agents import asked, talking
from tests.harness.chromium import ARGS, CHROMIUM, SECRET, async_playwright, chromium, expect
from tests.harness.command import Command
from tests.harness.running import created_at, until
from tests.harness.serving import serving

__all__ = ["chromium"]  # the fixture that skips, or fails, without a browser


class ActionPlan(BaseModel):
    description: str
    steps: list[str]
    estimated_cost: float
    risk_level: str


class Refund(BaseModel):
    customer: str
    amount: int
    note: str | None = None


REFUNDS: list[Refund] = []


@tool(description="Pay money back to a customer", approval="always")
def refund(input: Refund) -> str:
    REFUNDS.append(input)
    return f"refunded {input.amount}"


planner = Agent(id="browser-planner", model="m", output_schema=ActionPlan)
clerk = Agent(id="browser-clerk", model="m", tools=[refund])


def execute_action(plan: ActionPlan) -> str:
    return f"done: {plan.description}"


@workflow(id="browser-approval-workflow")
async def approval_workflow(ctx: WorkflowContext, request: str) -> str:
    """The agent program of tests/docs/test_seed.py, shortened."""
    plan = (await ctx.step.agent_invoke_and_wait("create_plan", planner.with_input(request))).result
    resume_data = await ctx.step.suspend(
        "wait_for_approval",
        data={
            "description": plan.description,
            "steps": plan.steps,
            "estimated_cost": plan.estimated_cost,
            "risk_level": plan.risk_level,
            "requires_approval_from": "manager@company.com",
        },
        timeout=3600,
    )
    if not resume_data["data"].get("approved"):
        return "rejected"
    return await ctx.step.run("execute_plan", execute_action, plan)


@contextlib.asynccontextmanager
async def page_of(client: PolosClient, suspension: dict[str, Any]) -> AsyncIterator[Any]:
    """The approval page of a suspension, opened through its signed link on a phone."""
    namespace = client.namespace
    links = Links([SECRET], namespace, "", 3600)
    async with serving(client, links=links) as base, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = await browser.new_page(viewport={"width": 390, "height": 844})
        created = await created_at(client, suspension["execution_id"])
        place = suspension["execution_id"], suspension["step_key"], suspension["run"], created
        await page.goto(Links([SECRET], namespace, base, 3600).url(*place, name="manager@company.com"))
        yield page
        await browser.close()


async def test_an_agents_plan_is_approved(redis_url: str, namespace: str) -> None:
    plan = ActionPlan(
        description="Delete old records", steps=["Back up", "Delete"], estimated_cost=50, risk_level="high"
    )
    said = [Say(plan.model_dump())]
    async with talking(redis_url, namespace, said, approval_workflow, planner) as (_, run):
        handle = await run.client.invoke(approval_workflow, "delete old customer records")
        (suspension,) = await asked(run)
        async with page_of(run.client, suspension) as page:
            await expect(page.locator("main")).to_contain_text("Delete old records")
            await expect(page.locator("main")).to_contain_text("Back up")
            await page.get_by_role("button", name="Approve").click()
            await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
        assert await run.result(handle) == "done: Delete old records"


@pytest.mark.parametrize("decision", ["approve", "edit", "reject"])
async def test_a_tool_call_is_approved_on_the_page(redis_url: str, namespace: str, decision: str) -> None:
    REFUNDS.clear()
    call = Call("refund", {"customer": "cust_123", "amount": 500, "note": None})
    async with talking(redis_url, namespace, [Say("", tool_calls=[call]), Say("ok")], clerk) as (llm, run):
        handle = await run.client.invoke(clerk, "refund it")
        (suspension,) = await asked(run)
        async with page_of(run.client, suspension) as page:
            await expect(page.locator("main")).to_contain_text("cust_123")
            await page.get_by_label("Reason").fill("as agreed")
            if decision == "edit":
                await page.get_by_label("Enter a value").check()
                amount = page.get_by_role("group", name="Arguments").get_by_label("Amount")
                await expect(amount).to_have_value("500")
                await amount.fill("50")
            await page.get_by_role("button", name="Reject" if decision == "reject" else "Approve").click()
            done = "Rejected" if decision == "reject" else "Approved"
            await expect(page.get_by_role("heading", name=done)).to_be_visible()
        result = await run.result(handle)
        tool_output = llm.log[-1].messages[-1]["content"]
    amounts = {"approve": [500], "edit": [50], "reject": []}[decision]
    assert [one.amount for one in REFUNDS] == amounts
    assert [one.status for one in result.tool_results] == ["rejected" if decision == "reject" else "ok"]
    assert "as agreed" in tool_output


async def test_the_seeds_first_program_is_approved(
    redis_url: str, namespace: str, client: PolosClient, tmp_path: Path
) -> None:
    """Runs it unchanged, in separate processes: a worker, the script that starts it, and the provider."""
    polos = Command(redis_url, namespace, tmp_path)
    program = agent_program(tmp_path)
    with planning(polos, tmp_path) as log, polos.worker(str(program)) as worker:
        with script(polos, program) as (started, execution_id):
            assert await started.ended() == 0, started.err
        suspension = await client.get_suspension(execution_id, "wait_for_approval")
        async with page_of(client, suspension) as page:
            await expect(page.locator("main")).to_contain_text("Delete 1000 customer records from archive")
            await expect(page.locator("main")).to_contain_text("Run deletion query")
            await page.get_by_role("button", name="Approve").click()
            await expect(page.get_by_role("heading", name="Approved")).to_be_visible()

        async def ended() -> dict[str, Any] | None:
            found = await client.get_execution(execution_id)
            return found if found["status"] == "completed" else None

        found = await until(ended)
        assert "executing: " in worker.out
        assert len(read_log(log)) == 1
    assert found["result"] == {
        "status": "completed",
        "result": "ActionPlan: 3 steps",
        "rejection_reason": None,
    }
