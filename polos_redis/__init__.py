"""Durable workflows in plain async Python, with Redis as the only server.

A workflow can stop, ask a person, and continue days later where it left off.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from polos_redis import errors, events
from polos_redis.client import PolosClient
from polos_redis.decisions.answer_form import AnswerField, AnswerForm, AnswerOption
from polos_redis.decisions.answer_types import Rejection
from polos_redis.decisions.answers import Resumed
from polos_redis.definitions.queue import Queue, queue
from polos_redis.errors import (
    AgentError,
    AgentStoppedError,
    AlreadyResumedError,
    AmbiguousSuspensionError,
    ApiKeyNotFoundError,
    ConfigurationError,
    DivergedError,
    ErrandNotFoundError,
    EventsTrimmedError,
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionFinishedError,
    ExecutionNotFoundError,
    HistoryError,
    HookFailedError,
    IdempotencyConflictError,
    InsideEventLoopError,
    InsideWorkflowError,
    InternalWorkflowError,
    InvalidAnswerError,
    InvalidInputError,
    InvalidOutputError,
    JournalFullError,
    LinkError,
    ModelRefusalError,
    NoRetryError,
    NotApproverError,
    NotAwaitedError,
    NotConfirmedError,
    NotContinuableError,
    NotFailedError,
    NotFinishedError,
    NotSkippableError,
    NotStorableError,
    OlderChildError,
    PolosError,
    RedisRefusedError,
    RedisUnavailableError,
    ReleaseTooOldError,
    ResumeError,
    ScheduleNotFoundError,
    ShownChangedError,
    StateConflictError,
    StepExecutionError,
    StepKeyError,
    StepNotForkableError,
    SuspendTimeoutError,
    SuspensionExpiredError,
    SuspensionNotFoundError,
    UnknownTypeError,
    UnreadableValueError,
    ValueTooLargeError,
    WaitTimeoutError,
    WorkerLostError,
    WorkflowTimeoutError,
)
from polos_redis.events import BatchEventPayload, Event, EventData, EventPayload
from polos_redis.executions.batch import BatchStepResult, BatchWorkflowInput
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.executions.history import History
from polos_redis.executions.page import Page
from polos_redis.logs import guard_loggers
from polos_redis.runtime.context import WorkflowContext
from polos_redis.runtime.hooks import HookContext, HookResult
from polos_redis.runtime.steps.first_of import Winner
from polos_redis.values.stored_as import stored_as
from polos_redis.version import __version__ as __version__
from polos_redis.workflow import Workflow, workflow

guard_loggers()

if TYPE_CHECKING:
    from polos_redis import schedules
    from polos_redis.agents import Agent, AgentResult, Tool, Usage, ask_user, tool
    from polos_redis.embedded.server import EmbeddedServer
    from polos_redis.polos import Polos
    from polos_redis.runtime.workflow_state import WorkflowState
    from polos_redis.schedules import SchedulePayload
    from polos_redis.values import codec
    from polos_redis.worker.worker import Worker

__all__ = [
    "Agent",
    "AgentError",
    "AgentResult",
    "AgentStoppedError",
    "AlreadyResumedError",
    "AmbiguousSuspensionError",
    "AnswerField",
    "AnswerForm",
    "AnswerOption",
    "ApiKeyNotFoundError",
    "BatchEventPayload",
    "BatchStepResult",
    "BatchWorkflowInput",
    "ConfigurationError",
    "DivergedError",
    "EmbeddedServer",
    "ErrandNotFoundError",
    "Event",
    "EventData",
    "EventPayload",
    "EventsTrimmedError",
    "ExecutionCancelledError",
    "ExecutionFailedError",
    "ExecutionFinishedError",
    "ExecutionHandle",
    "ExecutionNotFoundError",
    "History",
    "HistoryError",
    "HookContext",
    "HookFailedError",
    "HookResult",
    "IdempotencyConflictError",
    "InsideEventLoopError",
    "InsideWorkflowError",
    "InternalWorkflowError",
    "InvalidAnswerError",
    "InvalidInputError",
    "InvalidOutputError",
    "JournalFullError",
    "LinkError",
    "ModelRefusalError",
    "NoRetryError",
    "NotApproverError",
    "NotAwaitedError",
    "NotConfirmedError",
    "NotContinuableError",
    "NotFailedError",
    "NotFinishedError",
    "NotSkippableError",
    "NotStorableError",
    "OlderChildError",
    "Page",
    "Polos",
    "PolosClient",
    "PolosError",
    "Queue",
    "RedisRefusedError",
    "RedisUnavailableError",
    "Rejection",
    "ReleaseTooOldError",
    "ResumeError",
    "Resumed",
    "ScheduleNotFoundError",
    "SchedulePayload",
    "ShownChangedError",
    "StateConflictError",
    "StepExecutionError",
    "StepKeyError",
    "StepNotForkableError",
    "SuspendTimeoutError",
    "SuspensionExpiredError",
    "SuspensionNotFoundError",
    "Tool",
    "UnknownTypeError",
    "UnreadableValueError",
    "Usage",
    "ValueTooLargeError",
    "WaitTimeoutError",
    "Winner",
    "Worker",
    "WorkerLostError",
    "Workflow",
    "WorkflowContext",
    "WorkflowState",
    "WorkflowTimeoutError",
    "ask_user",
    "codec",
    "errors",
    "events",
    "queue",
    "schedules",
    "stored_as",
    "tool",
    "workflow",
]

_LAZY = {  # name -> the module that is imported on first use, to keep `import polos_redis` light
    "tool": "agents",
    "ask_user": "agents",
    "Usage": "agents",
    "Tool": "agents",
    "AgentResult": "agents",
    "Agent": "agents",
    "EmbeddedServer": "embedded",
    "Polos": "polos",
    "SchedulePayload": "schedules",
    "Worker": "worker",
    "codec": "values",
    "WorkflowState": "runtime.workflow_state",
    "schedules": "schedules",
}


def __getattr__(name: str) -> object:
    source = _LAZY.get(name)
    if source is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{source}")
    return module if name == source else getattr(module, name)
