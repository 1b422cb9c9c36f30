"""The types that workflows take and return, together."""

from __future__ import annotations

from polos_redis.answering import Resumed
from polos_redis.batch import BatchStepResult, BatchWorkflowInput
from polos_redis.context import WorkflowContext
from polos_redis.events import BatchEventPayload, Event, EventData, EventPayload
from polos_redis.handle import ExecutionHandle
from polos_redis.hooks import HookContext, HookResult
from polos_redis.page import Page
from polos_redis.queues import Queue
from polos_redis.schedules import SchedulePayload
from polos_redis.steps.race import Winner
from polos_redis.workflow_state import WorkflowState

__all__ = [
    "BatchEventPayload",
    "BatchStepResult",
    "BatchWorkflowInput",
    "Event",
    "EventData",
    "EventPayload",
    "ExecutionHandle",
    "HookContext",
    "HookResult",
    "Page",
    "Queue",
    "Resumed",
    "SchedulePayload",
    "Winner",
    "WorkflowContext",
    "WorkflowState",
]
