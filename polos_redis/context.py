"""What a workflow function is given as `ctx`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polos_redis.step import Step

if TYPE_CHECKING:
    from polos_redis.activation import Activation


class WorkflowContext:
    """The execution a workflow function runs in, and its journaled calls as `ctx.step`."""

    __slots__ = ("execution_id", "root_execution_id", "root_workflow_id", "run", "step", "workflow_id")

    def __init__(self, activation: Activation) -> None:
        self.execution_id: str = activation.id
        self.workflow_id: str = activation.workflow.id
        self.root_execution_id: str = activation.root
        self.root_workflow_id: str = activation.workflow.id
        self.run: int = activation.run
        self.step: Step = Step(activation)
