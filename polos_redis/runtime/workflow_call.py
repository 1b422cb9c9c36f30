"""Workflow calls: a workflow and its input, as one argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from polos_redis.definitions.definition import WorkflowDefinition

R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True)
class WorkflowCall(Generic[R]):
    """A workflow and an input it accepts, for a step that runs it as a child; `R` is its output.

    `agent.with_input(...)` returns one.
    """

    workflow: WorkflowDefinition[Any, R]
    input: Any
