"""What workers declare of what begins their workflows: schedules, and events of topics.

What the worker that started last declares counts. It is compared with what was declared before, as the
workflow's definition has it, so that what is no longer declared ends; `define` comes afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polos_redis import schedules
from polos_redis.definitions.published import definition_of
from polos_redis.state.store import Store
from polos_redis.triggers.subscriptions import subscriber
from polos_redis.workflow import Workflow


async def declare(store: Store, workflows: Iterable[Workflow[Any, Any]]) -> None:
    """Make the schedules and subscriptions of workflows known, and end those they no longer declare."""
    for workflow in workflows:
        before = await definition_of(store, workflow.id)
        schedule, trigger = workflow.schedule, workflow.trigger
        if schedule is not None:
            await schedules.put(store, workflow.id, schedule, declared=True)
        if before.schedule is not None and (schedule is None or schedule.key != before.schedule):
            await schedules.withdraw(store, workflow.id, before.schedule)
        if trigger is not None:
            await store.topics.subscribe(trigger.topic, subscriber(workflow.id))
        if before.topic is not None and (trigger is None or trigger.topic != before.topic):
            await store.topics.unsubscribe(before.topic, subscriber(workflow.id))
