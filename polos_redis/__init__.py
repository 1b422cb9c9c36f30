"""Durable workflows in plain async Python, with Redis as the only server.

A workflow can stop, ask a person, and go on days later as if nothing had happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polos_redis import errors, events
from polos_redis.client import PolosClient, Resumed
from polos_redis.context import WorkflowContext
from polos_redis.errors import (
    AlreadyResumedError,
    AmbiguousSuspensionError,
    ConfigurationError,
    EventsTrimmedError,
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionFinishedError,
    ExecutionNotFoundError,
    InvalidInputError,
    NotStorableError,
    PolosError,
    RedisRefusedError,
    RedisUnavailableError,
    ResumeError,
    StepExecutionError,
    StepKeyError,
    SuspendTimeoutError,
    SuspensionExpiredError,
    SuspensionNotFoundError,
    UnreadableValueError,
    ValueTooLargeError,
    WorkerLostError,
)
from polos_redis.events import Event, EventData
from polos_redis.handle import ExecutionHandle
from polos_redis.page import Page
from polos_redis.workflow import Workflow, workflow

if TYPE_CHECKING:
    from polos_redis.embedded import EmbeddedServer
    from polos_redis.polos import Polos
    from polos_redis.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "AlreadyResumedError",
    "AmbiguousSuspensionError",
    "ConfigurationError",
    "EmbeddedServer",
    "Event",
    "EventData",
    "EventsTrimmedError",
    "ExecutionCancelledError",
    "ExecutionFailedError",
    "ExecutionFinishedError",
    "ExecutionHandle",
    "ExecutionNotFoundError",
    "InvalidInputError",
    "NotStorableError",
    "Page",
    "Polos",
    "PolosClient",
    "PolosError",
    "RedisRefusedError",
    "RedisUnavailableError",
    "ResumeError",
    "Resumed",
    "StepExecutionError",
    "StepKeyError",
    "SuspendTimeoutError",
    "SuspensionExpiredError",
    "SuspensionNotFoundError",
    "UnreadableValueError",
    "ValueTooLargeError",
    "Worker",
    "WorkerLostError",
    "Workflow",
    "WorkflowContext",
    "errors",
    "events",
    "workflow",
]

_LAZY = {"Worker": "worker", "Polos": "polos", "EmbeddedServer": "embedded"}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{module}"), name)
