"""A shop driven by a schedule and by events: nothing here is invoked.

Every five seconds, a workflow invents three orders and publishes them. Each order starts a confirmation, and
every ten orders (or 30 seconds) start a booking.

Run the worker:     polos worker examples/schedule_and_events.py
see the schedule:   polos schedules list
see the bookings:   polos list --workflow book
"""

import random

from pydantic import BaseModel

from polos_redis import BatchEventPayload, EventPayload, SchedulePayload, WorkflowContext, workflow


class Order(BaseModel):
    customer: str
    amount: float


def invent_orders() -> list[Order]:
    return [Order(customer=random.choice("abc"), amount=random.randint(1, 99)) for _ in range(3)]


@workflow(schedule="*/5 * * * * *")
async def customers(ctx: WorkflowContext, tick: SchedulePayload) -> int:
    orders = await ctx.step.run("orders", invent_orders)
    for number, order in enumerate(orders):
        await ctx.step.publish_event(f"order-{number}", "orders", order, event_type="order")
    return len(orders)


@workflow(trigger_on_event="orders")
async def confirm(ctx: WorkflowContext, event: EventPayload) -> str:
    order: Order = event.data
    return f"thank you, {order.customer}"


@workflow(trigger_on_event="orders", batch_size=10, batch_timeout_seconds=30)
async def book(ctx: WorkflowContext, batch: BatchEventPayload) -> float:
    orders: list[Order] = [event.data for event in batch.events]
    return sum(order.amount for order in orders)
