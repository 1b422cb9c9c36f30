"""What `batch_invoke` takes and `batch_invoke_and_wait` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polos_redis.definitions.definition import WorkflowDefinition


@dataclass(frozen=True, slots=True)
class BatchWorkflowInput:
    """One child of a batch: a workflow or its id, and its input."""

    id: str | WorkflowDefinition[Any, Any]
    payload: Any = None
    initial_state: Any = None
    run_timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class BatchStepResult:
    """How one child of a batch ended: `result` in its own type when `success`, else `error` as "type:
    message"."""

    workflow_id: str
    success: bool
    result: Any = None
    error: str | None = None
