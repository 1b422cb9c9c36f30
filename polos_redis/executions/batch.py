"""The inputs of `batch_invoke` and the results of `batch_invoke_and_wait`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polos_redis.definitions.definition import WorkflowDefinition


@dataclass(frozen=True, slots=True)
class BatchWorkflowInput:
    """One child of a batch: a workflow or its id, and the input."""

    id: str | WorkflowDefinition[Any, Any]
    payload: Any = None
    initial_state: Any = None
    run_timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class BatchStepResult:
    """The outcome of one child of a batch.

    `result` is the child's return value, in its own type, if `success`; otherwise `error` is "type: message".
    """

    workflow_id: str
    success: bool
    result: Any = None
    error: str | None = None
