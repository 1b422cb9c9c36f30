"""Workflows: plain async functions that survive crashes and can wait for days.

The code between steps runs again at every activation, and `finally:` blocks run at every park, so keep side
effects inside steps.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from polos_redis import tasks
from polos_redis.connection.clients import takes_client
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.definitions.exhausted import OnExhausted
from polos_redis.definitions.parameters import underlying
from polos_redis.definitions.queue import Queue
from polos_redis.definitions.registry import DefinitionSite, register
from polos_redis.definitions.unreached import Unreached
from polos_redis.definitions.version import VersionPolicy
from polos_redis.errors import ConfigurationError, InsideWorkflowError
from polos_redis.executions.starting import InvokeOptions
from polos_redis.state import keys

if TYPE_CHECKING:
    from polos_redis.client import PolosClient
    from polos_redis.executions.handle import ExecutionHandle
    from polos_redis.runtime.context import WorkflowContext
    from polos_redis.runtime.hooks import Hooks

__all__ = ["InvokeOptions", "Workflow", "workflow"]

In = TypeVar("In")
Out = TypeVar("Out")


class Workflow(WorkflowDefinition[In, Out]):
    """A workflow: an id, an async function, and its input type. `@workflow` creates it."""

    @takes_client
    async def invoke(
        self, client: PolosClient, input: In | None = None, **options: Unpack[InvokeOptions]
    ) -> ExecutionHandle[Out]:
        """Start an execution and return its handle, as soon as the execution is stored.

        Takes the options of `PolosClient.invoke`. Raises `InvalidInputError`, `NotStorableError` or
        `ValueTooLargeError` for an unusable input (nothing is written), or `RedisUnavailableError`.
        """
        return await client.invoke(self, input, **options)

    @takes_client
    async def run(
        self,
        client: PolosClient,
        input: In | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Out:
        """Start an execution, wait for it, and return its result.

        Raises what `invoke` and `ExecutionHandle.result` raise. After `timeout` seconds that is
        `TimeoutError`; the execution continues then. Inside a workflow, use `ctx.step.invoke_and_wait`; this
        raises `InsideWorkflowError` there.
        """
        if tasks.OWNER.get() is not None:
            raise InsideWorkflowError(
                f"workflow {self.id!r}: run was called inside a workflow: use ctx.step.invoke_and_wait"
            )
        handle = await self.invoke(client, input, **options)
        return await handle.result(timeout=timeout)

    async def __call__(self, ctx: WorkflowContext, *args: Any) -> Out:
        """Call the function directly, as plain code: in a unit test, or as part of another workflow."""
        return await self.function(ctx, *args)

    def __repr__(self) -> str:
        return f"<Workflow {self.id}>"


@overload
def workflow(function: Callable[[WorkflowContext, In], Awaitable[Out]], /) -> Workflow[In, Out]: ...
@overload
def workflow(function: Callable[[WorkflowContext], Awaitable[Out]], /) -> Workflow[None, Out]: ...
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
    internal: bool | None = None,
    unreached: Unreached = "warn",
    on_exhausted: OnExhausted = "fail",
    version: str | None = None,
    version_policy: VersionPolicy = "any",
) -> _Decorator: ...
def workflow(function: Callable[..., Any] | None = None, /, *, id: str | None = None, **options: Any) -> Any:
    """Make a workflow of an async function that takes `(ctx)` or `(ctx, input)`, and register it.

    The input may be annotated with a pydantic model, a dataclass, or any type pydantic validates, and with
    constraints in `Annotated`. Without an annotation, it may be any storable value. If its parameter has a
    default, an execution without an input (None) gets a copy of that. Options:

    - `id`: the workflow's id; by default the function's name.
    - `queue`: a `Queue`, a queue's name, or `{"concurrency_limit": n}` for a queue of the workflow's own.
    - `run_timeout_seconds`: an execution that has not finished this long after its start, waits included,
      fails with `WorkflowTimeoutError`.
    - `retries`: how many times a failed execution continues automatically, from its journal, as a new run
      `retry_delay` seconds later.
    - `state_schema`: a pydantic model; each execution has an instance of it as `ctx.state`.
    - `on_start`, `on_end`: a function `(ctx, hook_context)`, or a list of them, to run before the code and
      after it has returned.
    - `schedule`: a cron expression, or `{"cron": ..., "timezone": ..., "key": ...}`, to start executions by.
      The input is a `SchedulePayload`. With False, the workflow can't be scheduled at all.
    - `trigger_on_event`: a topic; each of its events starts an execution with an `EventPayload`.
    - `batch_size`, `batch_timeout_seconds`: start an execution with a `BatchEventPayload` instead, as soon as
      there are `batch_size` events (above 1) or the first is `batch_timeout_seconds` old (None: at once, with
      the events there are).
    - `internal`: with True, only another workflow may start it, as a child: clients, REST and schedules are
      refused, and an execution that was started otherwise fails with `InternalWorkflowError` before its code
      runs. By default that holds for workflows that a tool calls with approval; with False, for none.
    - `unreached`: what happens at the end of an execution whose journal has completed steps, children or
      events that the code, changed meanwhile, did not reach: "stop" makes it stuck, "warn" completes it and
      names them in the log and in its report, "ignore" completes it. An accepted decision of a person is
      never passed over: then the execution is stuck in any case.
    - `on_exhausted`: what happens when an execution has failed and has no `retries` left: "fail" ends it,
      "pause" leaves it paused. It keeps its journal, its open waits, its children and its deadline, and those
      who await it keep waiting, until somebody retries it (`client.retry`, `polos retry`, its page) or
      cancels it. An invalid input and `run_timeout_seconds` fail it in any case.
    - `version`: the version of this code, a text of up to 128 bytes. An execution keeps the version that
      started it, and shows it; `polos versions` counts those that are open.
    - `version_policy`: which workers continue an execution that this version has started: with "any", all
      that serve the workflow, with the code they have; with "pin", only those that serve this version of it.

    Raises `ConfigurationError` for unusable options, or for an id that another workflow has.
    """

    def decorate(function: Callable[..., Any]) -> Workflow[Any, Any]:
        name = id if id is not None else getattr(function, "__name__", None)
        if name is None:
            raise ConfigurationError(f"{function!r} has no name to be its workflow's id: pass id=")
        keys.check_text("a workflow's id", name, error=ConfigurationError)
        created: Workflow[Any, Any] = Workflow(function, name, **options)
        return register(created, DefinitionSite.of_function(underlying(function), sys._getframe()))

    return decorate if function is None else decorate(function)


class _Decorator(typing.Protocol):
    @overload
    def __call__(self, function: Callable[[WorkflowContext, In], Awaitable[Out]], /) -> Workflow[In, Out]: ...
    @overload
    def __call__(self, function: Callable[[WorkflowContext], Awaitable[Out]], /) -> Workflow[None, Out]: ...
