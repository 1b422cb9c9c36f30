"""An agent with three tools: one runs freely, one needs approval for large amounts, one asks you questions.

Run the worker:     OPENAI_API_KEY=... polos worker examples/agent_tools.py
start the agent:    python examples/agent_tools.py
answer it:          polos suspensions
                    polos resume EXECUTION_ID STEP_KEY --approve
                    polos resume EXECUTION_ID STEP_KEY --reject --reason 'refund half of it'
                    polos resume EXECUTION_ID STEP_KEY --data '{"approved": true, "arguments": {...}}'
"""

import asyncio

from pydantic import BaseModel, Field

from polos_redis import Agent, PolosClient, ask_user, tool


class Order(BaseModel):
    id: str


class Refund(BaseModel):
    order_id: str
    amount: float = Field(gt=0, description="In USD")


@tool
def find_order(order: Order) -> dict[str, float | str]:
    """Find an order."""
    return {"id": order.id, "customer": "c1", "paid": 250.0}


@tool(approval=lambda refund: refund.amount > 100, approval_timeout=3600)
async def give_refund(refund: Refund) -> str:
    """Give a customer their money back."""
    print(f"refunding ${refund.amount:.2f} for {refund.order_id}")
    return "refunded"


support = Agent(
    id="support",
    provider="openai",
    model="gpt-4o",
    system_prompt="You help customers of a shop. Look up the order before you refund anything.",
    tools=[find_order, give_refund, ask_user()],
    max_steps=10,
)


async def main() -> None:
    client = PolosClient()
    handle = await support.invoke(client, "Order o-17 arrived broken. I want my money back.")
    print(f"started: {handle.id}")
    run = await handle.result()
    for call in run.tool_results:
        print(f"{call.tool}: {call.status}, {call.result}")
    print(f"{run.result} ({run.usage.total_tokens} tokens)")


if __name__ == "__main__":
    asyncio.run(main())
