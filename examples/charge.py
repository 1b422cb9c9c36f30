"""Charges over $1,000 need a person's approval.

Run the worker:     polos worker examples/charge.py
start a charge:     python examples/charge.py
approve it:         polos resume EXECUTION_ID --approve
"""

import asyncio
from typing import Any

from pydantic import BaseModel

from polos_redis import PolosClient, WorkflowContext, events, workflow


class ChargeRequest(BaseModel):
    customer_id: str
    amount: float
    description: str


class ChargeResponse(BaseModel):
    status: str
    reason: str | None = None  # Used for rejections
    charge_id: str | None = None
    amount: float | None = 0.0


class Validation(BaseModel):
    is_valid: bool
    error: str | None = None


class Charge(BaseModel):
    charge_id: str


def validate_charge_request(request: ChargeRequest) -> Validation:
    if request.amount <= 0:
        return Validation(is_valid=False, error="the amount must be positive")
    return Validation(is_valid=True)


async def charge_stripe(request: ChargeRequest) -> Charge:
    return Charge(charge_id=f"ch_{request.customer_id}_{request.amount:.0f}")


def send_email(customer_id: str, charge_id: str) -> None:
    print(f"Email to {customer_id}: charged, {charge_id}")


async def send_slack_message(channel: str, message: str, blocks: list[dict[str, Any]]) -> None:
    print(f"Slack {channel}: {message}")


@workflow
async def charge_customer_workflow(ctx: WorkflowContext, input: ChargeRequest) -> ChargeResponse:
    # Validate the charge
    validation = await ctx.step.run("validate_charge", validate_charge_request, input)

    if not validation.is_valid:
        return ChargeResponse(status="invalid", reason=validation.error)

    # For charges over $1000, require approval
    if input.amount > 1000:
        resume_data = await ctx.step.suspend(
            "high_value_approval",
            data={
                "customer_id": input.customer_id,
                "amount": input.amount,
                "description": input.description,
                "threshold_exceeded": True,
            },
            timeout=7200,  # 2 hours
        )

        decision = resume_data.get("data", {})
        if not decision.get("approved"):
            return ChargeResponse(status="rejected", reason=decision.get("reason", "Not approved"))

    # Execute the charge
    charge_result = await ctx.step.run("execute_charge", charge_stripe, input)

    # Send confirmation
    await ctx.step.run(
        "send_confirmation", send_email, customer_id=input.customer_id, charge_id=charge_result.charge_id
    )

    return ChargeResponse(status="completed", charge_id=charge_result.charge_id, amount=input.amount)


# Start workflow
async def main() -> None:
    client = PolosClient()

    handle = await charge_customer_workflow.invoke(
        client,
        ChargeRequest(customer_id="cust_123", amount=5000.00, description="Enterprise annual subscription"),
    )

    print(f"Charge workflow started: {handle.id}")

    # Stream events from the workflow to detect suspension
    async for event in events.stream_workflow(client, handle.root_workflow_id, handle.id):
        if event.event_type.startswith("suspend_"):
            suspend_data = event.data
            print("\nHigh-value charge requires approval:")
            print(f"   Customer: {suspend_data['customer_id']}")
            print(f"   Amount: ${suspend_data['amount']}")
            print(f"   Description: {suspend_data['description']}")

            # Send Slack notification with approval URL
            approval_url = f"https://admin.example.com/approve/{handle.id}"
            await send_slack_message(
                channel="#financial-approvals",
                message=f"High-value charge requires approval: ${suspend_data['amount']}",
                blocks=[
                    {
                        "type": "section",
                        "text": {
                            "type": "mrkdwn",
                            "text": f"*Charge Approval Required*\nAmount: ${suspend_data['amount']}\n"
                            f"Customer: {suspend_data['customer_id']}\n<{approval_url}|Approve or Reject>",
                        },
                    }
                ],
            )
            break

    # Wait for workflow completion
    result = await handle.result()
    print(f"\nCharge completed: {result.charge_id}")


if __name__ == "__main__":
    asyncio.run(main())
