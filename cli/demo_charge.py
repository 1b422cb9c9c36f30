"""The workflow that `polos demo` runs: a charge that needs a person's approval above $1,000."""

from __future__ import annotations

from pydantic import BaseModel

from polos_redis import WorkflowContext, workflow


class ChargeRequest(BaseModel):
    customer_id: str
    amount: float
    description: str


class ChargeResponse(BaseModel):
    status: str
    reason: str | None = None
    charge_id: str | None = None
    amount: float | None = 0.0


class Charge(BaseModel):
    charge_id: str


def validate_charge_request(request: ChargeRequest) -> bool:
    return request.amount > 0


def charge_card(request: ChargeRequest) -> Charge:
    return Charge(charge_id=f"ch_{request.customer_id}_{request.amount:.0f}")


def send_email(customer_id: str, charge_id: str) -> str:
    return f"To {customer_id}: your charge is {charge_id}."


@workflow(id="charge_customer")
async def charge_customer(ctx: WorkflowContext, input: ChargeRequest) -> ChargeResponse:
    if not await ctx.step.run("validate_charge", validate_charge_request, input):
        return ChargeResponse(status="invalid", reason="the amount must be positive")
    if input.amount > 1000:
        resumed = await ctx.step.suspend("high_value_approval", data=input, timeout=7200)
        decision = resumed["data"]
        if not isinstance(decision, dict) or decision.get("approved") is not True:
            reason = decision.get("reason") if isinstance(decision, dict) else None
            return ChargeResponse(status="rejected", reason=reason or "Not approved")
    charge = await ctx.step.run("execute_charge", charge_card, input)
    await ctx.step.run("send_confirmation", send_email, input.customer_id, charge.charge_id)
    return ChargeResponse(status="completed", charge_id=charge.charge_id, amount=input.amount)
