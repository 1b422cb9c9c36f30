"""Types to annotate workflows and clients with, in one place."""

from __future__ import annotations

from polos_redis.decisions.answer_form import AnswerField, AnswerForm, AnswerOption
from polos_redis.decisions.answers import Resumed
from polos_redis.definitions.queue import Queue
from polos_redis.events import BatchEventPayload, Event, EventData, EventPayload
from polos_redis.executions.batch import BatchStepResult, BatchWorkflowInput
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.executions.page import Page
from polos_redis.runtime.context import WorkflowContext
from polos_redis.runtime.hooks import HookContext, HookResult
from polos_redis.runtime.steps.first_of import Winner
from polos_redis.runtime.workflow_state import WorkflowState
from polos_redis.schedules import SchedulePayload

__all__ = [
    "AnswerField",
    "AnswerForm",
    "AnswerOption",
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
