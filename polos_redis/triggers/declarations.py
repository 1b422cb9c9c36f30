"""Declarations: the schedules and subscriptions that decorators declare, applied when a worker starts.

The worker that started last wins. Its declarations are compared with those in the published definition, so
that a trigger no longer declared is removed. `definitions.published.define` must therefore run afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.published import definition_of
from polos_redis.state.store import Store
from polos_redis.triggers import stored_schedule
from polos_redis.triggers.subscriptions import subscriber


async def declare(store: Store, workflows: Iterable[WorkflowDefinition[Any, Any]]) -> None:
    """Create the schedules and subscriptions that workflows declare; remove those no longer declared."""
    for workflow in workflows:
        before = await definition_of(store, workflow.id)
        schedule, trigger = workflow.schedule, workflow.trigger
        if schedule is not None:
            await stored_schedule.put(store, workflow.id, schedule, declared=True)
        if before.schedule is not None and (schedule is None or schedule.key != before.schedule):
            await stored_schedule.withdraw(store, workflow.id, before.schedule)
        if trigger is not None:
            await store.topics.subscribe(trigger.topic, subscriber(workflow.id))
        if before.topic is not None and (trigger is None or trigger.topic != before.topic):
            await store.topics.unsubscribe(before.topic, subscriber(workflow.id))
