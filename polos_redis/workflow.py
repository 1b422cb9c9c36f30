"""`@workflow`: a plain async function that can stop, wait for days, and go on.

The code between steps runs again at every activation, and `finally:` blocks run at every park: keep effects
inside steps.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from polos_redis import tasks
from polos_redis.definitions.definition import WorkflowDefinition, register, registered
from polos_redis.definitions.queue import Queue
from polos_redis.errors import ConfigurationError, InsideWorkflowError
from polos_redis.executions.starting import InvokeOptions

if TYPE_CHECKING:
    from polos_redis.client import PolosClient
    from polos_redis.executions.handle import ExecutionHandle
    from polos_redis.runtime.context import WorkflowContext
    from polos_redis.runtime.hooks import Hooks

__all__ = ["InvokeOptions", "Workflow", "register", "registered", "workflow"]

In = TypeVar("In")
Out = TypeVar("Out")


class Workflow(WorkflowDefinition[In, Out]):
    """A workflow: its id, its function, and the type of its input. Made by `@workflow`."""

    async def invoke(
        self, client: PolosClient, input: In | None = None, **options: Unpack[InvokeOptions]
    ) -> ExecutionHandle[Out]:
        """Start an execution; returns at once, when it is durably queued. Options as for `client.invoke`.

        Raises `InvalidInputError`, `NotStorableError` or `ValueTooLargeError` when the input can't be used
        (nothing is written), `RedisUnavailableError` when Redis can't be reached in time.
        """
        return await client.invoke(self, input, **options)

    async def run(
        self,
        client: PolosClient,
        input: In | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Out:
        """Start an execution and wait for its result; `timeout` in seconds, after which it goes on alone.

        Not inside a workflow: there it would hold its worker's slot, and nothing of it would be journaled.
        """
        if tasks.OWNER.get() is not None:
            raise InsideWorkflowError(
                f"workflow {self.id!r}: run was called inside a workflow: use ctx.step.invoke_and_wait there"
            )
        handle = await self.invoke(client, input, **options)
        return await handle.result(timeout=timeout)

    async def __call__(self, ctx: WorkflowContext, *args: Any) -> Out:
        """Call the function itself, as a test might; inside a workflow this runs it as plain code."""
        return await self.function(ctx, *args)

    def __repr__(self) -> str:
        return f"<Workflow {self.id}>"


@overload
def workflow(function: Callable[[WorkflowContext], Awaitable[Out]], /) -> Workflow[None, Out]: ...
@overload
def workflow(function: Callable[[WorkflowContext, In], Awaitable[Out]], /) -> Workflow[In, Out]: ...
@overload
def workflow(
    *,
    id: str | None = None,
    queue: Queue | str | dict[str, Any] | None = None,
    run_timeout_seconds: float | None = None,
    retries: int = 0,
    retry_delay: float = 1.0,
    state_schema: type[Any] | None = None,
    on_start: Hooks = None,
    on_end: Hooks = None,
    schedule: str | dict[str, Any] | bool | None = None,
    trigger_on_event: str | None = None,
    batch_size: int = 1,
    batch_timeout_seconds: float | None = None,
) -> _Decorator: ...
def workflow(function: Callable[..., Any] | None = None, /, *, id: str | None = None, **options: Any) -> Any:
    """Make an async function `(ctx)` or `(ctx, input)` a workflow, registered under its id.

    The id is the function's name unless given. The input may be annotated with a pydantic model, a dataclass,
    a dict or any type pydantic validates; without annotation any storable value is taken as it is.

    `queue`: a `Queue`, a name, or {"concurrency_limit": n} for a queue of its own. `run_timeout_seconds`: an
    execution that has not finished by then, waiting included, fails with `WorkflowTimeoutError`. `retries`:
    how often a failed execution goes on by itself from its journal as a new run, after `retry_delay` seconds.
    `state_schema`: a pydantic model, of which each execution keeps an instance as `ctx.state`. `on_start`,
    `on_end`: functions (ctx, hook_context), or lists of them, run before the code and after it has returned.

    `schedule`: a cron expression, or {"cron":, "timezone":, "key":}, that begins it with a `SchedulePayload`;
    False refuses schedules altogether. `trigger_on_event`: a topic whose events begin it, each with an
    `EventPayload`; with a `batch_size` above 1 up to so many of them with a `BatchEventPayload`, once there
    are so many or `batch_timeout_seconds` have passed since the first (None: at once, with what is there).
    """

    def decorate(function: Callable[..., Any]) -> Workflow[Any, Any]:
        name = id if id is not None else function.__name__
        if not isinstance(name, str) or not 0 < len(name) <= 1024:
            raise ConfigurationError(f"a workflow id is a string of 1 to 1024 characters, not {name!r}")
        made: Workflow[Any, Any] = Workflow(function, name, **options)
        return register(made, f"{function.__module__}.{function.__qualname__}", function.__code__)

    return decorate if function is None else decorate(function)


class _Decorator(typing.Protocol):
    @overload
    def __call__(self, function: Callable[[WorkflowContext], Awaitable[Out]], /) -> Workflow[None, Out]: ...
    @overload
    def __call__(self, function: Callable[[WorkflowContext, In], Awaitable[Out]], /) -> Workflow[In, Out]: ...
