"""An approval that times out: the workflow continues without it, even if everything was restarted meanwhile.

Run the worker:       polos worker examples/approval_timeout.py
start the workflow:   python examples/approval_timeout.py
"""

import asyncio

from pydantic import BaseModel

from polos_redis import PolosClient, StepExecutionError, WorkflowContext, workflow


class DeletionRequest(BaseModel):
    request: str = "delete records"
    timeout: float = 3600  # 1 hour in seconds


class DeletionResponse(BaseModel):
    status: str
    reason: str | None = None


@workflow
async def deletion_workflow(ctx: WorkflowContext, input: DeletionRequest) -> DeletionResponse:
    try:
        resume_data = await ctx.step.suspend(
            "approval", data={"request": input.request}, timeout=input.timeout
        )
    except StepExecutionError:
        return DeletionResponse(status="timeout", reason="Approval not received in time")

    decision = resume_data.get("data", {})
    return DeletionResponse(
        status="approved" if decision.get("approved") else "rejected", reason=decision.get("reason")
    )


async def main() -> None:
    client = PolosClient()
    handle = await deletion_workflow.invoke(client, DeletionRequest(timeout=2))
    print(f"Deletion workflow started: {handle.id}")
    result = await handle.result()
    print(f"Deletion: {result.status} ({result.reason})")


if __name__ == "__main__":
    asyncio.run(main())
