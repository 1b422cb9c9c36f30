"""`@workflow`: a plain async function that can stop, wait for days, and go on.

The code between steps runs again at every activation, and `finally:` blocks run at every park: keep effects
inside steps.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from types import CodeType
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack, overload

from polos_redis import tasks
from polos_redis.definitions.cron import Declared
from polos_redis.definitions.queue import DEFAULT, Queue, as_queue
from polos_redis.definitions.trigger import Trigger
from polos_redis.errors import ConfigurationError, InsideWorkflowError, InvalidInputError, NotStorableError
from polos_redis.runtime.hooks import Hooks, as_hooks, surrounded
from polos_redis.values import codec, packing
from polos_redis.values.type_names import is_model
from polos_redis.values.validation import GeneratedInput, validator

if TYPE_CHECKING:
    from polos_redis.client import PolosClient
    from polos_redis.executions.handle import ExecutionHandle
    from polos_redis.runtime.context import WorkflowContext


class InvokeOptions(TypedDict, total=False):
    """How an execution is started; see `PolosClient.invoke`."""

    queue: Queue | str | None
    concurrency_key: str | None
    idempotency_key: str | None
    run_timeout_seconds: float | None
    start_delay: float | timedelta | None
    start_at: datetime | None
    session_id: str | None
    user_id: str | None
    started_by: str | None
    initial_state: Any


In = TypeVar("In")
Out = TypeVar("Out")

_registry: dict[str, Workflow[Any, Any]] = {}


class Workflow(Generic[In, Out]):
    """A workflow: its id, its function, and the type of its input. Made by `@workflow`."""

    def __init__(
        self,
        function: Callable[..., Awaitable[Out]],
        id: str,
        *,
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
    ) -> None:
        self.id = id
        self.queue = as_queue(queue, id)
        self.defines_queue = isinstance(queue, (Queue, dict))  # a name alone says nothing of a limit
        self.run_timeout_seconds = run_timeout_seconds
        self.state_schema = _as_schema(state_schema, id)
        self.on_start = as_hooks(on_start, id, "on_start")
        self.on_end = as_hooks(on_end, id, "on_end")
        self.plain = (  # begun with nothing but an input
            self.queue == DEFAULT and run_timeout_seconds is None and state_schema is None
        )
        self._surrounded = bool(state_schema or self.on_start or self.on_end)
        self.schedule = Declared.of(schedule, id)
        self.schedulable = schedule is not False
        self.trigger = Trigger.of(trigger_on_event, batch_size, batch_timeout_seconds, id)
        if schedule and self.trigger:
            raise ConfigurationError(
                f"workflow {id!r} has a schedule and trigger_on_event, which give it different inputs: "
                "make it two workflows that call one function"
            )
        self.retries = retries
        self.retry_delay = retry_delay
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ConfigurationError(f"workflow {id!r}: retries is a whole number from 0, not {retries!r}")
        for name, seconds in (("retry_delay", retry_delay), ("run_timeout_seconds", run_timeout_seconds)):
            least = 0 if name == "retry_delay" else 0.001
            number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if seconds is not None and not (number and least <= seconds < 1e10):
                raise ConfigurationError(f"workflow {id!r}: {name} is a number of seconds, not {seconds!r}")
        self.function = function
        self.defined: tuple[str, str, int] = ("", "", 0)
        self.__name__ = getattr(function, "__name__", id)
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function
        parameters = list(inspect.signature(function).parameters.values())
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in parameters if p.default is p.empty and p not in positional]
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"workflow {id!r}: {self.__name__} must be an async function")
        if not 1 <= len(positional) <= 2 or any(p.kind is p.KEYWORD_ONLY for p in required):
            raise ConfigurationError(
                f"workflow {id!r}: {self.__name__} must take (ctx) or (ctx, input), "
                f"not {inspect.signature(function)}"
            )
        self.takes_input = len(positional) == 2
        self._input_parameter = positional[1] if self.takes_input else None
        self._input_type: Any = _UNRESOLVED

    @property
    def input_type(self) -> Any:
        """The input's annotation, or `Any`; resolved on first use, so a forward reference works."""
        if self._input_type is _UNRESOLVED:
            parameter = self._input_parameter
            if parameter is None or parameter.annotation is parameter.empty:
                self._input_type = Any
            else:
                try:
                    hints = typing.get_type_hints(self.function)
                except NameError as error:
                    raise ConfigurationError(
                        f"workflow {self.id!r}: the input's annotation: {error}"
                    ) from None
                self._input_type = hints[parameter.name]
        return self._input_type

    @property
    def needed(self) -> Sequence[Workflow[Any, Any]]:
        """What a worker has to serve beside it, as it is part of it: an agent's tools, say."""
        return ()

    def resolve(self) -> None:
        """Find out the input's type now: a worker wants to fail at its start, not at the first execution."""
        annotation = self.input_type
        try:
            validator(annotation)  # imports pydantic, if need be: not while executions run
            if self.state_schema is not None:
                validator(self.state_schema)
                packing.encoder(self.state_schema)
        except (ConfigurationError, NotStorableError) as error:
            raise ConfigurationError(f"workflow {self.id!r}: {error}") from error.__cause__

    def check_input(self, input: Any) -> Any:
        """Validate an input against the declared type. Raises `InvalidInputError` that names the fields."""
        if not self.takes_input:
            if input is None or isinstance(input, GeneratedInput):
                return None
            raise InvalidInputError(f"workflow {self.id!r} takes no input, but was given one")
        if input is None and self._input_parameter is not None and self._input_parameter.default is None:
            return None
        return codec.validate_input(self.input_type, input, workflow_id=self.id)

    def check_state(self, given: Any) -> Any:
        """The state an execution begins with: what it was given, validated, else the schema's defaults; None
        for a workflow without a schema. Raises `InvalidInputError` that names the fields."""
        if self.state_schema is None:
            if given is None:
                return None
            raise InvalidInputError(
                f"workflow {self.id!r} has no state_schema, but was given an initial_state: "
                "define it with @workflow(state_schema=...)"
            )
        state = {} if given is None else given
        return codec.validate_input(self.state_schema, state, workflow_id=self.id, name="initial_state")

    def call(self, ctx: WorkflowContext, input: Any) -> Any:
        """The coroutine of one activation."""
        return surrounded(self, ctx, input) if self._surrounded else self.bare_call(ctx, input)

    def bare_call(self, ctx: WorkflowContext, input: Any) -> Any:
        """The coroutine of the function alone."""
        return self.function(ctx, input) if self.takes_input else self.function(ctx)

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


_UNRESOLVED = object()


def _as_schema(schema: Any, workflow_id: str) -> type[Any] | None:
    if schema is None or (isinstance(schema, type) and is_model(schema)):
        return schema
    raise ConfigurationError(
        f"workflow {workflow_id!r}: state_schema is a pydantic model class, not {schema!r}"
    )


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


W = TypeVar("W", bound=Workflow[Any, Any])


def register(made: W, name: str, code: CodeType, line: int = 0) -> W:
    """Make a workflow known by its id; `name` and where in which code it is defined tell it from others. A
    module that is imported again (as __main__, by a reload) may define its workflows again."""
    made.defined = (name.rpartition(".")[2], code.co_filename, line or code.co_firstlineno)
    known = _registry.get(made.id)
    if known is not None and known.defined != made.defined:
        _, file, line = known.defined
        raise ConfigurationError(
            f"workflow id {made.id!r} is taken by the one defined at {file}:{line}: give {name} another id"
        )
    _registry[made.id] = made
    return made


def registered() -> dict[str, Workflow[Any, Any]]:
    """All workflows this process has defined, by id."""
    return dict(_registry)
