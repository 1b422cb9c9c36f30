"""`ctx.step.agent_invoke` and its kin: agents as children."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from polos_redis.batch import BatchStepResult, BatchWorkflowInput
from polos_redis.errors import ConfigurationError
from polos_redis.handle import ExecutionHandle
from polos_redis.steps.children import ChildOptions, Children

if TYPE_CHECKING:
    from polos_redis.agents import AgentCall, AgentResult

Out = TypeVar("Out")


class Agents(Children):
    """Calls of agents, as `agent.with_input(...)` makes them."""

    __slots__ = ()

    def agent_invoke(
        self, key: str, call: AgentCall[Out], **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, ExecutionHandle[AgentResult[Out]]]:
        """Begin an agent as a child, without waiting for it; as `invoke`."""
        _check(key, call)
        return self.invoke(key, call.agent, call.input, **options)

    def agent_invoke_and_wait(
        self, key: str, call: AgentCall[Out], **options: Unpack[ChildOptions]
    ) -> Coroutine[Any, Any, AgentResult[Out]]:
        """Ask an agent and wait for its result, parked; as `invoke_and_wait`.

        `.result` is an instance of the agent's output_schema, else text; `.usage`, `.tool_results`,
        `.total_steps`. An agent that fails raises `StepExecutionError` that names it.
        """
        _check(key, call)
        return self.invoke_and_wait(key, call.agent, call.input, **options)

    def batch_agent_invoke(
        self, key: str, calls: Sequence[AgentCall[Any]]
    ) -> Coroutine[Any, Any, list[ExecutionHandle[Any]]]:
        """Begin several agents, without waiting for them; as `batch_invoke`."""
        return self.batch_invoke(key, _batch(key, calls))

    def batch_agent_invoke_and_wait(
        self, key: str, calls: Sequence[AgentCall[Any]]
    ) -> Coroutine[Any, Any, list[BatchStepResult]]:
        """Ask several agents and wait for all of them; as `batch_invoke_and_wait`."""
        return self.batch_invoke_and_wait(key, _batch(key, calls))


def _batch(key: str, calls: Sequence[AgentCall[Any]]) -> list[BatchWorkflowInput]:
    for call in calls:
        _check(key, call)
    return [BatchWorkflowInput(call.agent, call.input) for call in calls]


def _check(key: str, call: Any) -> None:
    if not (hasattr(call, "agent") and hasattr(call, "input")):
        raise ConfigurationError(f"step {key!r}: an agent is called as agent.with_input(...), not {call!r}")
