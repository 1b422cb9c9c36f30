"""Two approvals in a row: a manager's and, for large amounts, finance's.

Run the worker:       polos worker examples/multi_approval.py
start the workflow:   python examples/multi_approval.py
approve it:           polos resume EXECUTION_ID manager_approval --approve
                      polos resume EXECUTION_ID finance_approval --approve
"""

import asyncio

from pydantic import BaseModel

from polos_redis import PolosClient, WorkflowContext, events, workflow


class MultiApprovalInput(BaseModel):
    amount: float


class MultiApprovalOutput(BaseModel):
    status: str
    result: str | None = None


def execute_action(request: MultiApprovalInput) -> str:
    return f"paid ${request.amount:.2f}"


@workflow
async def multi_approval_workflow(ctx: WorkflowContext, input: MultiApprovalInput) -> MultiApprovalOutput:
    # Stage 1: Manager approval
    manager_data = await ctx.step.suspend(
        "manager_approval", data={"stage": "manager", "amount": input.amount}
    )

    manager_decision = manager_data.get("data", {})
    if not manager_decision.get("approved"):
        return MultiApprovalOutput(status="rejected_by_manager")

    # Stage 2: Finance approval (for large amounts)
    if input.amount > 10000:
        finance_data = await ctx.step.suspend(
            "finance_approval", data={"stage": "finance", "amount": input.amount}
        )

        finance_decision = finance_data.get("data", {})
        if not finance_decision.get("approved"):
            return MultiApprovalOutput(status="rejected_by_finance")

    # Execute action
    result = await ctx.step.run("execute", execute_action, input)
    return MultiApprovalOutput(status="completed", result=result)


async def main() -> None:
    client = PolosClient()
    handle = await multi_approval_workflow.invoke(client, MultiApprovalInput(amount=25000))
    print(f"Approval workflow started: {handle.id}")

    async for event in events.stream_workflow(client, handle.root_workflow_id, handle.id):
        if event.event_type.startswith("suspend_"):
            print(f"Waiting for the {event.data['stage']}: ${event.data['amount']}", flush=True)

    result = await handle.result()
    print(f"Approval workflow ended: {result.status} ({result.result})")


if __name__ == "__main__":
    asyncio.run(main())
