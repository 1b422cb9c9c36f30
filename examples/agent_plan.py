"""An agent makes a plan, a person approves it on a web page, and a step carries it out.

Run the worker:     OPENAI_API_KEY=... polos worker examples/agent_plan.py
run the server:     polos serve
start a plan:       python examples/agent_plan.py

It prints the address of the page. On the command line: polos resume EXECUTION_ID --approve
"""

import asyncio

from pydantic import BaseModel, Field

from polos_redis import Agent, PolosClient, WorkflowContext, events, workflow


class Plan(BaseModel):
    description: str = Field(description="What will be done")
    steps: list[str] = Field(description="Steps to execute")
    estimated_cost: float = Field(description="Estimated cost in USD")


class Decision(BaseModel):
    approved: bool
    reason: str | None = None


planner = Agent(
    id="planner",
    provider="openai",
    model="gpt-4o",
    system_prompt="Analyze requests and create detailed action plans with cost estimates.",
    output_schema=Plan,
)


def carry_out(plan: Plan) -> str:
    print(f"carrying out: {plan.description}")
    return f"{len(plan.steps)} steps done"


@workflow
async def plan_and_do(ctx: WorkflowContext, request: str) -> str:
    answer = await ctx.step.agent_invoke_and_wait("plan", planner.with_input(request))
    decision = await ctx.step.suspend("approval", data=answer.result, schema=Decision, timeout=3600)
    if not decision.approved:
        return f"rejected: {decision.reason}"
    return await ctx.step.run("carry_out", carry_out, answer.result)


async def main() -> None:
    client = PolosClient()
    handle = await plan_and_do.invoke(client, "delete old customer records from archive")
    print(f"started: {handle.id}")
    async for event in events.stream_workflow(client, handle.root_workflow_id, handle.id):
        if event.event_type == "suspend_approval":
            print(f"waiting for approval of: {event.data['description']}")
            print(f"decide at http://127.0.0.1:8000/approve/{handle.id}")
            break
    print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
