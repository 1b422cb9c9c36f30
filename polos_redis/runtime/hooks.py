"""Hooks: functions that run before a workflow's code (`on_start`) and after it has returned (`on_end`).

Each runs as a step, `on_start.<function>.<index>`, so its effects happen once however often the workflow is
replayed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from polos_redis.definitions.parameters import is_async
from polos_redis.errors import HookFailedError
from polos_redis.runtime.durable_state import DurableState
from polos_redis.values import codec

if TYPE_CHECKING:
    from polos_redis.definitions.definition import WorkflowDefinition
    from polos_redis.runtime.context import WorkflowContext


@dataclass(frozen=True, slots=True)
class HookContext:
    """The second argument of a hook: the execution it runs for, a copy of its current input and, in on_end,
    of its output."""

    workflow_id: str
    session_id: str | None
    user_id: str | None
    current_payload: Any
    current_output: Any = None


@dataclass(frozen=True, slots=True)
class HookResult:
    """A hook's decision, made by `continue_with` or `fail`. Returning None means `continue_with()`."""

    modified_payload: Any = None
    modified_output: Any = None
    error_message: str | None = None

    @classmethod
    def continue_with(cls, *, modified_payload: Any = None, modified_output: Any = None) -> HookResult:
        """Continue, with another input (on_start) or another output (on_end) unless that is None. A new input
        is validated."""
        return cls(modified_payload, modified_output)

    @classmethod
    def fail(cls, message: str) -> HookResult:
        """Fail the execution immediately."""
        return cls(error_message=message)


Hook: TypeAlias = "Callable[[WorkflowContext, HookContext], HookResult | Awaitable[HookResult | None] | None]"
Hooks: TypeAlias = "Hook | Sequence[Hook] | None"


def coroutine_of(workflow: WorkflowDefinition[Any, Any], ctx: WorkflowContext, input: Any) -> Any:
    """Returns the coroutine of one activation: the workflow's function with its state and hooks."""
    return _surrounded(workflow, ctx, input) if workflow.has_surroundings else workflow.bare_call(ctx, input)


async def _surrounded(workflow: WorkflowDefinition[Any, Any], ctx: WorkflowContext, input: Any) -> Any:
    """Run a workflow's code between its hooks, with its initial state in place."""
    if workflow.state_schema is not None:
        await _make_state(ctx, workflow)
    hook_context = HookContext(ctx.workflow_id, ctx.session_id, ctx.user_id, input)
    for index, hook in enumerate(workflow.on_start):
        result = await _run(ctx, hook, f"on_start.{_name(hook)}.{index}", hook_context, "modified_output")
        if result.modified_payload is not None:
            hook_context = replace(
                hook_context, current_payload=workflow.check_input(result.modified_payload)
            )
    output = await workflow.bare_call(ctx, hook_context.current_payload)
    hook_context = replace(hook_context, current_output=output)
    for index, hook in enumerate(workflow.on_end):
        result = await _run(ctx, hook, f"on_end.{_name(hook)}.{index}", hook_context, "modified_payload")
        if result.modified_output is not None:
            hook_context = replace(hook_context, current_output=result.modified_output)
    return hook_context.current_output


async def _make_state(ctx: WorkflowContext, workflow: WorkflowDefinition[Any, Any]) -> None:
    """Make the state of an execution that was started without one, by an id alone: the schema's defaults, as
    a step, for they need not be the same twice."""
    activation = ctx._activation
    if activation.durable_state is None:

        async def defaults() -> Any:
            return workflow.check_state(None)

        made = await ctx.step.run("ctx.state", defaults, max_retries=0)
        activation.durable_state = DurableState(made, activation.host.value_limit)


async def _run(
    ctx: WorkflowContext, hook: Hook, key: str, hook_context: HookContext, ineffective: str
) -> HookResult:
    """Run one hook as a step; `ineffective` is the field that a hook of its kind can't modify."""

    def checked(result: Any) -> HookResult | None:
        if result is not None and not isinstance(result, HookResult):
            raise HookFailedError(f"the hook {key} must return a HookResult or None, not {result!r}")
        if result is not None and result.error_message is not None:
            raise HookFailedError(result.error_message)
        if getattr(result, ineffective, None) is not None:
            raise HookFailedError(f"the hook {key} can't return {ineffective}=: it would have no effect")
        return result

    async def later(result: Awaitable[Any]) -> HookResult | None:
        return checked(await result)

    def call() -> Any:
        result = hook(ctx, _apart(hook_context))
        return later(result) if inspect.isawaitable(result) else checked(result)

    async def call_here() -> HookResult | None:
        return checked(await hook(ctx, _apart(hook_context)))  # type: ignore[misc] # it is an async function

    return (await ctx.step.run(key, call_here if is_async(hook) else call)) or HookResult()


def _apart(hook_context: HookContext) -> HookContext:
    """Returns a copy for one hook: a replay would miss what the hook changes in it."""
    return replace(
        hook_context,
        current_payload=_copy(hook_context.current_payload),
        current_output=_copy(hook_context.current_output),
    )


def _copy(value: Any) -> Any:
    return codec.decode(codec.encode(value, limit=codec.UNLIMITED))


def _name(hook: Any) -> str:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return getattr(hook, "__name__", type(hook).__name__)
