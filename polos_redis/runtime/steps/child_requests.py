"""Requests for children, checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.queue import Queue
from polos_redis.errors import ConfigurationError
from polos_redis.executions.batch import BatchWorkflowInput

R = TypeVar("R", covariant=True)


class ChildOptions(TypedDict, total=False):
    """How a child is started; see `PolosClient.invoke`."""

    queue: Queue | str | None
    concurrency_key: str | None
    run_timeout_seconds: float | None
    initial_state: Any


@dataclass(frozen=True, slots=True)
class WorkflowCall(Generic[R]):
    """A workflow and an input it accepts, for a step that runs it as a child; `R` is its output.

    `agent.with_input(...)` returns one.
    """

    workflow: WorkflowDefinition[Any, R]
    input: Any


@dataclass(frozen=True, slots=True)
class ChildCall:
    """A requested child: a workflow or its id, its input and `ChildOptions`."""

    workflow: WorkflowDefinition[Any, Any] | str
    payload: Any
    options: dict[str, Any]

    @property
    def workflow_id(self) -> str:
        return self.workflow.id if isinstance(self.workflow, WorkflowDefinition) else self.workflow


def child_call(
    key: str, workflow: WorkflowDefinition[Any, Any] | str, payload: Any, options: ChildOptions
) -> ChildCall:
    """Returns the request of step `key`. Raises `TypeError` for an unknown option."""
    known = ChildOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"step {key!r}: unexpected option {name!r}; expected one of {', '.join(known)}")
    return ChildCall(workflow, payload, dict(options))


def batch_calls(key: str, workflows: Sequence[BatchWorkflowInput]) -> list[ChildCall]:
    """Returns the requests of a batch step."""
    found = []
    for index, one in enumerate(workflows):
        if not isinstance(one, BatchWorkflowInput):
            raise ConfigurationError(
                f"child {index} of step {key!r} must be a BatchWorkflowInput, not {one!r}"
            )
        options = {
            "initial_state": one.initial_state,
            "run_timeout_seconds": one.run_timeout_seconds,
        }
        options = {name: value for name, value in options.items() if value is not None}
        found.append(ChildCall(one.id, one.payload, options))
    return found
