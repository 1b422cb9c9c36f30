"""The definition of a workflow: its id, its function, its input type and the options of `@workflow`.

Most of the package needs no more of a workflow. `Workflow` adds the methods that users call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from polos_redis.definitions import exhausted
from polos_redis.definitions import unreached as unreached_
from polos_redis.definitions import version as versions
from polos_redis.definitions.cron import Declared
from polos_redis.definitions.exhausted import FAIL, OnExhausted
from polos_redis.definitions.parameters import NOTHING, is_async, parameters, signature_text, underlying
from polos_redis.definitions.queue import DEFAULT, Queue, as_queue
from polos_redis.definitions.trigger import Trigger
from polos_redis.definitions.unreached import WARN, Unreached
from polos_redis.definitions.version import ANY, VersionPolicy
from polos_redis.errors import ConfigurationError, InvalidInputError, NotStorableError, ValueTooLargeError
from polos_redis.values import bounds, packing
from polos_redis.values.bounded_type import UNCHECKED
from polos_redis.values.complete_form import secret_field
from polos_redis.values.type_names import is_model
from polos_redis.values.validation import (
    GeneratedInput,
    bounded_type,
    quickly_validated,
    validation_of,
)

In = TypeVar("In")
Out = TypeVar("Out")


class WorkflowDefinition(Generic[In, Out]):
    """A workflow as the runtime sees it. Raises `ConfigurationError` if an option is invalid."""

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
        on_start: Any = None,
        on_end: Any = None,
        schedule: str | dict[str, Any] | bool | None = None,
        trigger_on_event: str | None = None,
        batch_size: int = 1,
        batch_timeout_seconds: float | None = None,
        internal: bool | None = None,
        unreached: Unreached = WARN,
        on_exhausted: OnExhausted = FAIL,
        version: str | None = None,
        version_policy: VersionPolicy = ANY,
    ) -> None:
        self.id = id
        self.internal = bool(internal)
        self._declared_internal = internal
        self.queue = as_queue(queue, id)
        self.defines_queue = isinstance(queue, (Queue, dict))  # a name alone sets no limit
        self.run_timeout_seconds = run_timeout_seconds
        self.state_schema = _as_schema(state_schema, id)
        self.on_start = _hooks(on_start, id, "on_start")
        self.on_end = _hooks(on_end, id, "on_end")
        self.plain = (  # started with nothing but an input
            self.queue == DEFAULT
            and run_timeout_seconds is None
            and state_schema is None
            and not self.internal
        )
        self.has_surroundings = bool(state_schema or self.on_start or self.on_end)
        self.schedule = Declared.of(schedule, id)
        self.schedulable = schedule is not False
        self.trigger = Trigger.of(trigger_on_event, batch_size, batch_timeout_seconds, id)
        if schedule and self.trigger:
            raise ConfigurationError(
                f"workflow {id!r} has both schedule and trigger_on_event, whose inputs differ: "
                "define two workflows that call one function"
            )
        if internal:
            self._check_internal()
        self.unreached = unreached_.checked(unreached, id)
        self.on_exhausted = exhausted.checked(on_exhausted, id)
        self.version = versions.checked(version, id)
        self.pinned_version = versions.pinned(version_policy, self.version, id)
        self.retries = retries
        self.retry_delay = retry_delay
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ConfigurationError(
                f"workflow {id!r}: retries must be a whole number of at least 0, not {retries!r}"
            )
        for name, seconds in (("retry_delay", retry_delay), ("run_timeout_seconds", run_timeout_seconds)):
            least = 0 if name == "retry_delay" else 0.001
            number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if seconds is not None and not (number and least <= seconds < 1e10):
                raise ConfigurationError(
                    f"workflow {id!r}: {name} must be a number of seconds, not {seconds!r}"
                )
        self.function = function
        self.__name__ = getattr(function, "__name__", id)
        self.__doc__ = function.__doc__
        self.__module__ = underlying(function).__module__
        self.__wrapped__ = function
        taken = parameters(function)
        positional = [one for one in taken if one.is_positional]
        if not is_async(function):
            raise ConfigurationError(f"workflow {id!r}: {self.__name__} must be an async function")
        keywords = [one for one in taken if one.kind is one.kind.KEYWORD_ONLY]
        needs_more = any(not one.has_default for one in keywords)
        if not 1 <= len(positional) <= 2 or needs_more:
            raise ConfigurationError(
                f"workflow {id!r}: {self.__name__} must take (ctx) or (ctx, input), "
                f"not {signature_text(function)}" + (": an input can't be keyword-only" if needs_more else "")
            )
        self.takes_input = len(positional) == 2
        self._keyword = keywords[0].name if keywords else ""
        self._input = positional[1] if self.takes_input else None
        self._input_type: Any = _UNRESOLVED

    @property
    def input_type(self) -> Any:
        """The input's annotation, with what `Annotated` adds, or `Any`; resolved on first use, so forward
        references work. Raises `ConfigurationError`."""
        if self._input_type is _UNRESOLVED:
            what = f"workflow {self.id!r}"
            self._input_type = Any if self._input is None else self._input.annotation(what)
        return self._input_type

    @property
    def needed(self) -> Sequence[WorkflowDefinition[Any, Any]]:
        """The workflows a worker must serve with this one, such as an agent's tools."""
        return ()

    def require_approval(self) -> None:
        """Make the workflow internal: a tool calls it, but only with a person's approval.

        One declared with `internal=False` stays open. Raises `ConfigurationError` if a schedule or an event
        starts it.
        """
        if self._declared_internal is None:
            self._check_internal()
            self.internal, self.plain = True, False

    def _check_internal(self) -> None:
        for option, value in (("schedule", self.schedule), ("trigger_on_event", self.trigger)):
            if value is not None:
                raise ConfigurationError(
                    f"workflow {self.id!r} has {option}, which starts it from outside, so it can't be "
                    f"internal: remove {option}, or pass internal=False if anybody may start it"
                )

    def resolve(self) -> None:
        """Resolve the types now, so that a worker fails when it starts, not at its first execution."""
        annotation = self.input_type
        if bounded_type(annotation) is not None and (secret := secret_field(annotation)) is not None:
            raise ConfigurationError(
                f"workflow {self.id!r}: {secret} of its input is secret, but inputs are stored and shown as "
                "they are: pass a reference to the secret instead"
            )
        self._check_default()
        try:
            # may import pydantic, which should not happen while executions run
            for declared in (bounded_type(annotation), bounded_type(self.state_schema)):
                if declared is not None:
                    declared.analyse()
            if self.state_schema is not None:
                packing.encoder(self.state_schema)
        except (ConfigurationError, NotStorableError) as error:
            raise ConfigurationError(f"workflow {self.id!r}: {error}") from error.__cause__

    def _check_default(self) -> None:
        """Raises `ConfigurationError` for a default of the input that its annotation refuses. None always
        stands for no input."""
        default = self.input_default()
        if self._input is None or default is NOTHING or default is None:
            return
        try:
            bounds.at_once(self.input_check(None))
        except (InvalidInputError, ValueTooLargeError) as error:
            raise ConfigurationError(
                f"{error}: this is the default of {self._input.name!r}, which must fit its annotation"
            ) from error.__cause__

    def input_default(self) -> Any:
        """Returns the default of the input's parameter, copied; NOTHING if there is none."""
        return NOTHING if self._input is None else self._input.default()

    def check_input(self, input: Any) -> Any:
        """Returns the input, validated; the parameter's default for None. Raises `InvalidInputError`, which
        names the invalid fields, or `ValueTooLargeError` for an input of too many parts or levels."""
        quick = self.check_quickly(input)
        return bounds.at_once(self.input_check(input)) if quick is UNCHECKED else quick

    def check_quickly(self, input: Any) -> Any:
        """The input, validated, if it is valid and its check is surely short; else UNCHECKED."""
        if self.takes_input and input is not None:
            return quickly_validated(self.input_type, input)
        return UNCHECKED

    async def check_input_in_turns(self, input: Any) -> Any:
        """As `check_input`, but a large input doesn't hold the event loop."""
        return await bounds.run(input, self.input_check(input))

    def input_check(self, input: Any) -> bounds.Work[Any]:
        """The work of `check_input`."""
        if not self.takes_input:
            if input is None or isinstance(input, GeneratedInput):
                return None
            named = f": {self._keyword!r} is keyword-only, so remove the * before it" if self._keyword else ""
            raise InvalidInputError(f"workflow {self.id!r} takes no input, but got one{named}")
        given = input
        if input is None and (given := self.input_default()) is None:
            return None
        if given is NOTHING:
            given = None
        if type(given) is self.input_type:
            return given
        return (yield from validation_of(self.input_type, given, workflow_id=self.id))

    def check_state(self, initial: Any) -> Any:
        """Returns the state an execution starts with: `initial`, validated, else the schema's defaults; None
        for a workflow without a schema. Raises as `check_input`."""
        return bounds.at_once(self.state_check(initial))

    async def check_state_in_turns(self, initial: Any) -> Any:
        """As `check_state`, but a large state doesn't hold the event loop."""
        return await bounds.run(initial, self.state_check(initial))

    def state_check(self, initial: Any) -> bounds.Work[Any]:
        if self.state_schema is None:
            if initial is None:
                return None
            raise InvalidInputError(
                f"workflow {self.id!r} has no state_schema, but got an initial_state: "
                "define it with @workflow(state_schema=...)"
            )
        state = {} if initial is None else initial
        if type(state) is self.state_schema:
            return state
        return (yield from validation_of(self.state_schema, state, workflow_id=self.id, name="initial_state"))

    def bare_call(self, ctx: Any, input: Any) -> Any:
        """Call the function alone, without state or hooks; returns its coroutine."""
        return self.function(ctx, input) if self.takes_input else self.function(ctx)


def _hooks(hooks: Any, workflow_id: str, kind: str) -> tuple[Callable[..., Any], ...]:
    """Returns the hooks of an option that is a function, a list of functions, or None."""
    several = () if hooks is None else (hooks,) if callable(hooks) else hooks
    if not isinstance(several, list | tuple) or not all(map(callable, several)):
        raise ConfigurationError(
            f"workflow {workflow_id!r}: {kind} must be a function (ctx, hook_context) or a list of them, "
            f"not {hooks!r}"
        )
    return tuple(several)


_UNRESOLVED = object()


def _as_schema(schema: Any, workflow_id: str) -> type[Any] | None:
    if schema is None or (isinstance(schema, type) and is_model(schema)):
        return schema
    raise ConfigurationError(
        f"workflow {workflow_id!r}: state_schema must be a pydantic model class, not {schema!r}"
    )
