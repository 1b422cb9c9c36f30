"""`ctx.step.agent_invoke` and its variants: calls of agents (or any `WorkflowCall`) as children."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar, Unpack

from polos_redis.errors import ConfigurationError
from polos_redis.executions.batch import BatchStepResult
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.runtime.call_sites import caller
from polos_redis.runtime.steps.child_requests import ChildCall, ChildOptions, WorkflowCall, child_call
from polos_redis.runtime.steps.children import Children

R = TypeVar("R")


class Agents(Children):
    """Steps that run an agent as a child; a call is what `agent.with_input(...)` returns."""

    __slots__ = ()

    def agent_invoke(
        self, key: str, call: WorkflowCall[R], **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, ExecutionHandle[R]]:
        """Start an agent as a child, without waiting for it; as `invoke`."""
        self._refuse_inside_step(key, "agent_invoke")
        return self._invoke(key, _agent_call(key, call, options), caller())

    def agent_invoke_and_wait(
        self, key: str, call: WorkflowCall[R], **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, R]:
        """Ask an agent and wait for its result, parked; as `invoke_and_wait`.

        The result has `result` (an instance of the agent's output_schema, or text), `usage`, `tool_results`
        and `total_steps`. An agent that fails raises `StepExecutionError` that names it.
        """
        self._refuse_inside_step(key, "agent_invoke_and_wait")
        return self._invoke_and_wait(key, _agent_call(key, call, options), caller())

    def batch_agent_invoke(
        self, key: str, calls: Sequence[WorkflowCall[Any]]
    ) -> Coroutine[Any, Any, list[ExecutionHandle[Any]]]:
        """Start several agents, without waiting for them; as `batch_invoke`."""
        self._refuse_inside_step(key, "batch_agent_invoke")
        return self._handles(key, [_agent_call(key, call, {}) for call in calls], caller())

    def batch_agent_invoke_and_wait(
        self, key: str, calls: Sequence[WorkflowCall[Any]]
    ) -> Coroutine[Any, Any, list[BatchStepResult]]:
        """Ask several agents and wait for all of them; as `batch_invoke_and_wait`."""
        self._refuse_inside_step(key, "batch_agent_invoke_and_wait")
        return self._batch_invoke_and_wait(key, [_agent_call(key, call, {}) for call in calls], caller())


def _agent_call(key: str, call: Any, options: ChildOptions) -> ChildCall:
    if not isinstance(call, WorkflowCall):
        raise ConfigurationError(f"step {key!r}: an agent is called as agent.with_input(...), not {call!r}")
    return child_call(key, call.workflow, call.input, options)
