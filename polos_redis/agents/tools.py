"""Tools: what a model may call. A function, a workflow, or another agent."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from polos_redis import schemas
from polos_redis.agents.output import Schema, plain_name, schema_of
from polos_redis.errors import ConfigurationError
from polos_redis.workflow import Workflow

if TYPE_CHECKING:
    from polos_redis.context import WorkflowContext

Approval = Literal["never", "always"] | Callable[[Any], Any]

_NOTHING = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: its name and schema for the model, how it is called, and when a person has to approve.

    `function` takes `(input)`, `(ctx, input)` or nothing; with `ctx` it is a workflow, begun as a child.
    `answer` is for tools that are part of the agent's own run: it is given the context, a place for step
    keys, and the input, and returns the status and the result of a `ToolResult`.
    """

    name: str
    description: str
    function: Callable[..., Any]
    input_type: Any
    workflow: Workflow[Any, Any] | None = None
    approval: Approval = "never"
    approvers: tuple[str, ...] = ()
    required: int = 1
    approval_timeout: float | None = None
    max_retries: int = 2
    answer: Callable[[WorkflowContext, str, Any], Awaitable[tuple[str, Any]]] | None = None

    def schema(self) -> Schema:
        """What the model is told of it."""
        if self.input_type is None:
            return Schema(self.name, _NOTHING, True, self.description)
        return schema_of(self.input_type, self.name, f"the input of tool {self.name!r}", self.description)

    def parse(self, arguments: str) -> Any:
        """The arguments as the input's type. Raises pydantic's ValidationError, or ValueError."""
        return None if self.input_type is None else schemas.parse_json(self.input_type, arguments or "{}")

    def __call__(self, *args: Any) -> Any:
        """Call the function itself, as a test might."""
        return self.function(*args)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    id: str | None = None,
    description: str | None = None,
    approval: Approval = "never",
    approvers: Sequence[str] = (),
    required: int = 1,
    approval_timeout: float | None = None,
    max_retries: int = 2,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a tool for agents.

    It takes nothing, an input (a pydantic model or a dataclass, from which the model is told what to give),
    or a `WorkflowContext` and an input: then it is a workflow of its own and may use `ctx.step`. It may be
    sync or async; a call is one journaled step, tried again `max_retries` times when it raises, after which
    the model is told. What it returns is shown to the model as JSON.

    `approval`: "never", "always", or a function of the input that says whether a person has to approve this
    call. `approvers`, `required` as for `ctx.step.suspend`; when nobody has decided after
    `approval_timeout` seconds, it is a no. `id` is the function's name, `description` its docstring unless
    given.
    """

    def decorate(function: Callable[..., Any]) -> Tool:
        return _made(function, **options)

    return decorate if function is None else decorate(function)


def _made(
    function: Callable[..., Any],
    id: str | None = None,
    description: str | None = None,
    approvers: Sequence[str] = (),
    approval: Approval = "never",
    **options: Any,
) -> Tool:
    name = str(id or getattr(function, "__name__", ""))
    what = f"tool {name!r}"
    if plain_name(name) != name:
        raise ConfigurationError(f"{what}: a tool's id has 1 to 64 letters, digits, _ and -: give it id=")
    if approval not in ("never", "always") and not callable(approval):
        raise ConfigurationError(
            f"{what}: approval is 'never', 'always' or a function of the input, not {approval!r}"
        )
    parameters = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if len(parameters) > 2:
        raise ConfigurationError(
            f"{what} takes (input), (ctx, input) or nothing: put its arguments in a model"
        )
    with_context = len(parameters) == 2 or (parameters and parameters[0].name == "ctx")
    input_type = None
    if len(parameters) - bool(with_context):
        try:
            input_type = typing.get_type_hints(function).get(parameters[-1].name)
        except NameError as error:
            raise ConfigurationError(f"{what}: the input's annotation: {error}") from None
        if input_type is None:
            raise ConfigurationError(
                f"{what}: annotate {parameters[-1].name} with a pydantic model or dataclass"
            )
        plain, _ = schemas.describe(what, input_type)
        if "properties" not in schemas.resolved(plain):
            raise ConfigurationError(
                f"{what}: its input is a pydantic model or a dataclass, not {input_type!r}"
            )
    text = description or inspect.getdoc(function) or ""
    child = _workflow(function, name) if with_context else None
    return Tool(name, text, function, input_type, child, approval, tuple(approvers), **options)


def _workflow(function: Callable[..., Any], name: str) -> Workflow[Any, Any]:
    from polos_redis.workflow import workflow

    made: Workflow[Any, Any] = workflow(id=name)(function)
    return made


def as_tool(given: Any) -> Tool:
    """What is given to an agent as a tool. Raises `ConfigurationError`."""
    if isinstance(given, Tool):
        return given
    if isinstance(given, Workflow):
        return _of_workflow(given)
    if callable(given):
        return _made(given)
    raise ConfigurationError(f"a tool is a function, a workflow or an agent, not {given!r}")


def _of_workflow(workflow: Workflow[Any, Any]) -> Tool:
    name = plain_name(workflow.id)
    input_type = getattr(workflow, "tool_input", None) or workflow.input_type
    if workflow.takes_input:
        plain, _ = schemas.describe(f"tool {name!r}", input_type)
        if "properties" not in schemas.resolved(plain):
            raise ConfigurationError(
                f"workflow {workflow.id!r} can't be a tool: its input has to be a pydantic model or a "
                f"dataclass, not {input_type!r}"
            )
    text = inspect.cleandoc(workflow.__doc__ or "")
    return Tool(name, text, workflow.function, input_type if workflow.takes_input else None, workflow)
