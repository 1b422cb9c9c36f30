"""The parameters of every kind of callable: annotations as written, defaults, names that are not there."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretBytes, SecretStr, StrictInt

from polos_redis import (
    ConfigurationError,
    InvalidInputError,
    PolosClient,
    Worker,
    Workflow,
    WorkflowContext,
    workflow,
)
from polos_redis.agents.tools import tool
from polos_redis.definitions.parameters import NOTHING, parameters
from polos_redis.values import codec
from polos_redis.values.bounds import at_once
from polos_redis.values.json_value import JsonValue
from tests.definitions.names_elsewhere import evaluated
from tests.harness.command import Command
from tests.harness.running import running
from tests.harness.serving import calling

if TYPE_CHECKING:
    from polos_redis.server import Nowhere  # type: ignore[attr-defined]

P = ParamSpec("P")
R = TypeVar("R")

Cents = Annotated[int, Field(gt=0, le=100_000)]


class In(BaseModel):
    a: int = 1
    tags: list[str] = []


def plain(ctx: WorkflowContext, cents: Cents = 5) -> Nowhere: ...


def logged(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper


class Methods:
    def method(self, ctx: WorkflowContext, cents: Cents = 5) -> Nowhere: ...

    @staticmethod
    def static(ctx: WorkflowContext, cents: Cents = 5) -> Nowhere: ...

    @classmethod
    def of_class(cls, ctx: WorkflowContext, cents: Cents = 5) -> Nowhere: ...

    def __call__(self, ctx: WorkflowContext, cents: Cents = 5) -> Nowhere: ...


class Built:
    def __init__(self, ctx: WorkflowContext, cents: Cents = 5) -> None: ...


CALLABLES: dict[str, Any] = {
    "function": plain,
    "evaluated annotations": evaluated,
    "decorated": logged(plain),
    "decorated twice": logged(logged(plain)),
    "partial": functools.partial(plain),
    "partial of a partial": functools.partial(functools.partial(plain)),
    "partial of decorated": functools.partial(logged(plain)),
    "method": Methods().method,
    "static method": Methods.static,
    "static method object": vars(Methods)["static"],
    "class method": Methods.of_class,
    "partial of a method": functools.partial(Methods().method),
    "instance": Methods(),
    "class": Built,
}


@pytest.mark.parametrize("name", CALLABLES)
def test_every_kind_of_callable_is_read_alike(name: str) -> None:
    """Though the return type, and in one case the context's, is imported for type checkers only."""
    ctx, cents = parameters(CALLABLES[name])
    assert (ctx.name, ctx.is_positional, ctx.has_default, ctx.default()) == ("ctx", True, False, NOTHING)
    assert (cents.name, cents.default()) == ("cents", 5)
    annotation = cents.annotation("it")
    assert annotation.__origin__ is int
    assert {type(one).__name__ for one in annotation.__metadata__} == {"FieldInfo"}


def test_kinds_of_parameters() -> None:
    def kinds(a: int, /, b: str, *args: float, c: bool = True, **kwargs: bytes) -> None: ...

    found = {one.name: one for one in parameters(kinds)}
    assert [one.is_positional for one in found.values()] == [True, True, False, False, False]
    assert [one.annotation("it") for one in found.values()] == [int, str, float, bool, bytes]
    assert [one.has_default for one in found.values()] == [False, False, False, True, False]
    bound = functools.partial(kinds, 1, b="x")
    assert [one.name for one in parameters(bound)] == ["b", "c", "kwargs"]


def test_local_classes_and_closures() -> None:
    class Local(BaseModel):
        x: int

    def of_local(ctx: Any, input: list[Local]) -> None: ...

    assert parameters(of_local)[1].annotation("it") == list[Local]

    def made(cls: Any) -> Any:
        def inner(input: cls) -> Any:
            return cls

        return inner

    assert parameters(made(In))[0].annotation("it") is In


def test_a_name_that_is_not_there_is_named() -> None:
    def lost(input: list[Nowhere]) -> None: ...

    (one,) = parameters(lost)
    with pytest.raises(
        ConfigurationError,
        match=r"^workflow 'x': can't resolve the annotation of 'input': name 'Nowhere' is not defined: "
        r"define or import its names at the top of the module, not under TYPE_CHECKING$",
    ):
        one.annotation("workflow 'x'")
    assert not one.is_annotated_as(In)


if sys.version_info >= (3, 12):  # which has the syntax

    def test_type_parameters_and_aliases() -> None:
        names: dict[str, Any] = {"In": In, "__name__": __name__}
        code = "type Alias = list[int]\ndef generic[T](a: list[T], b: Alias, c: 'list[T]') -> T: ..."
        exec(compile(code, "<generic>", "exec", dont_inherit=True), names)
        a, b, c = parameters(names["generic"])
        assert a.annotation("it") == c.annotation("it") and typing.get_origin(a.annotation("it")) is list
        assert b.annotation("it").__value__ == list[int]


def test_defaults() -> None:
    def defaults(
        a: In = In(),  # noqa: B008
        b: int = Field(default=3, gt=2),
        c: Annotated[int, Field(default=4)] = 5,
        d: Annotated[int, Field(default=6)] = NOTHING,  # type: ignore[assignment]
        e: int = Field(gt=0),
        f: None = None,
    ) -> None: ...

    a, b, c, d, e, f = parameters(defaults)
    a.default().tags.append("changed")
    assert a.default() == In()
    assert [one.default() for one in (b, c, d, f)] == [3, 5, 6, None]
    assert not e.has_default
    for one, bad in ((b, 1), (e, 0)):
        with pytest.raises(InvalidInputError, match="input: Input should be greater than"):
            codec.validate_input(one.annotation("it"), bad, workflow_id="w")

    def changing(a: Annotated[list[int], Field(default_factory=list)]) -> None: ...

    with pytest.raises(ConfigurationError, match="must be the same at every replay: give it Field"):
        parameters(changing)[0].default()


@pytest.mark.parametrize("function", [len, 5, "text"])
def test_what_has_no_parameters_to_read_is_refused(function: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"has no signature that can be read|is not written in Python"
    ):
        parameters(function)


# --- workflows --------------------------------------------------------------------------------


class Kind(Enum):
    CARD = "card"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: date
    pair: tuple[int, str]
    tags: set[str]
    raw: bytes
    kind: Kind
    mode: Literal["a", "b"]
    count: StrictInt


STRICT = {
    "when": "2026-01-02",
    "pair": [1, "x"],
    "tags": ["t"],
    "raw": "bytes",
    "kind": "card",
    "mode": "a",
    "count": 3,
}


@workflow(id="reads-cents")
async def cents_of(ctx: WorkflowContext, cents: Cents) -> int:
    return cents


@workflow(id="reads-words")
async def words_of(ctx: WorkflowContext, words: list[Annotated[str, AfterValidator(str.upper)]]) -> list[str]:
    return words


@workflow(id="reads-default")
async def default_of(ctx: WorkflowContext, input: In = In(a=7)) -> int:  # noqa: B008
    input.tags.append("seen")
    await ctx.step.suspend("gate") if input.a == 8 else None
    return input.a * 10 + len(input.tags)


@workflow(id="reads-strict")
async def strict_of(ctx: WorkflowContext, input: Strict) -> str:
    assert isinstance(input.when, date) and isinstance(input.pair, tuple) and input.kind is Kind.CARD
    return f"{input.when} {sorted(input.tags)}"


class Hidden(BaseModel):
    model_config = ConfigDict(strict=True)
    sizes: tuple[int, ...] = ()


@workflow(id="reads-state", state_schema=Hidden)
async def state_of(ctx: WorkflowContext) -> Any:
    return list(ctx.state.sizes)


FLOWS = (cents_of, words_of, default_of, strict_of, state_of)


async def test_constraints_and_validators_of_an_input_hold_everywhere(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, *FLOWS) as at:
        with pytest.raises(InvalidInputError, match="input: Input should be greater than 0"):
            await cents_of.invoke(at.client, -5)
        by_id = await at.client.invoke("reads-cents", -5)
        with pytest.raises(Exception, match="input: Input should be greater than 0"):
            await at.result(by_id)
        assert await cents_of.run(at.client, 5) == 5
        assert await words_of.run(at.client, ["a"]) == ["A"]


async def test_a_default_is_the_input_of_an_execution_without_one(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, *FLOWS) as at:
        assert await default_of.run(at.client) == 71
        assert await at.result(await at.client.invoke("reads-default")) == 71
        assert await default_of.run(at.client, In(a=1)) == 11
        assert await default_of.run(at.client) == 71, "each has a copy of its own"


async def test_strict_types_accept_their_json_form_from_json_only(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, *FLOWS) as at, calling(at.client) as http:
        for workflow_id, body, result in (
            ("reads-strict", {"input": STRICT}, "2026-01-02 ['t']"),
            ("reads-state", {"initial_state": {"sizes": [1, 2]}}, [1, 2]),
            ("reads-default", {}, 71),
            ("reads-default", {"input": {"a": 2}}, 21),
        ):
            answer = await http.post("/api/v1/executions", json={"workflow_id": workflow_id, **body})
            assert answer.status_code == 201, answer.text
            execution_id = answer.json()["id"]
            assert await at.result(at.client.get_handle(execution_id)) == result
            shown = await at.client.get_execution(execution_id)
            assert shown["input"] == body.get("input")
        with pytest.raises(InvalidInputError, match=r"input\.when: Input should be a valid date"):
            await strict_of.invoke(at.client, STRICT)  # type: ignore[arg-type]


async def test_the_command_line_reads_json(redis_url: str, namespace: str, tmp_path: Any) -> None:
    import json

    polos = Command(redis_url, namespace, tmp_path)
    async with running(redis_url, namespace, *FLOWS):
        done = await polos("invoke", "reads-strict", "--input", json.dumps(STRICT), "--wait", "--json")
        assert "2026-01-02" in done.out, done.err
        done = await polos("invoke", "reads-default", "--wait", "--json")
        assert "71" in done.out, done.err


def test_json_and_python_of_one_value_have_one_digest_and_one_display() -> None:
    from polos_redis.values import digests

    marked, same = codec.encode(JsonValue({"a": [1, {"b": None}]})), codec.encode({"a": [1, {"b": None}]})
    assert digests.stored_digest(marked) == digests.stored_digest(same)
    assert codec.to_plain(marked) == codec.to_plain(same)
    assert codec.decode(marked) == JsonValue({"a": [1, {"b": None}]})


def test_workflows_of_partials_and_instances() -> None:
    async def three(rate: int, ctx: WorkflowContext, input: In) -> int:
        return rate

    made: Workflow[Any, Any] = workflow(id="of-a-partial")(functools.partial(three, 3))
    assert made.input_type is In and made.takes_input
    with pytest.raises(ConfigurationError, match=r"has no name to be its workflow's id: pass id="):
        workflow(functools.partial(three, 3))

    class Handler:
        async def __call__(self, ctx: WorkflowContext, input: In | None = None) -> None: ...

    made = workflow(id="of-an-instance")(Handler())
    assert made.input_type == In | None and made.check_input(None) is None


class Opaque:
    pass


@dataclass
class Holder:
    opaque: Opaque


def test_an_error_about_a_type_is_that_of_the_first_attempt() -> None:
    """Not of the second one, with another configuration, which is no business of the user's."""
    with pytest.raises(ConfigurationError, match=r"Unable to generate pydantic-core schema for .*Opaque"):
        codec.validate_input(Holder, {}, workflow_id="w")


# --- tools ------------------------------------------------------------------------------------


def checked(order: In) -> In:
    if order.a > 9:
        raise ValueError("too much")
    return order


def test_what_annotated_adds_to_a_tools_input_holds() -> None:
    @tool
    def pay(order: Annotated[In, AfterValidator(checked)]) -> Nowhere: ...

    assert at_once(pay.parse('{"a": 9}')) == In(a=9)
    with pytest.raises(Exception, match="too much"):
        at_once(pay.parse('{"a": 10}'))


def test_a_tools_default_is_the_input_of_a_call_without_arguments() -> None:
    @tool
    def pay(order: In = In(a=4), limit: int = 3) -> None: ...  # noqa: B008

    assert pay.input_type is In
    assert at_once(pay.parse("")) == at_once(pay.parse("{}")) == In(a=4)
    assert at_once(pay.parse('{"a": 2}')) == In(a=2)

    @tool
    def now(zone: str = "UTC") -> None: ...

    assert now.input_type is None


def test_a_context_imported_for_type_checkers_only_is_still_a_context() -> None:
    async def uses(ctx: Nowhere, order: In) -> None: ...

    assert tool(id="uses_ctx")(uses).workflow is not None


def test_an_async_function_of_any_kind_is_found_to_be_one() -> None:
    async def one(ctx: Any) -> None: ...

    def wrapper(ctx: Any) -> Awaitable[None]:
        return one(ctx)

    assert inspect.iscoroutinefunction(one)
    with pytest.raises(ConfigurationError, match="must be an async function"):
        workflow(id="not-async")(wrapper)


# --- defaults, secrets and keywords of inputs -----------------------------------------------


class Secretive(BaseModel):
    user: str = ""
    login: dict[str, SecretStr | int] = {}


UNFIT: list[tuple[Any, Any, str]] = [
    (Cents, 0, "input: Input should be greater than 0"),
    (int, "many", "input: Input should be a valid integer"),
    (In, {"a": "x"}, "input.a: Input should be a valid integer"),
    (list[int], [1, "x"], "input.1: Input should be a valid integer"),
]


@pytest.mark.parametrize(("annotation", "default", "why"), UNFIT, ids=str)
async def test_a_default_that_its_annotation_refuses_is_an_error(
    annotation: Any, default: Any, why: str, client: PolosClient
) -> None:
    async def body(ctx: WorkflowContext, payload: annotation = default) -> None: ...

    body.__annotations__["payload"] = annotation
    unfit: Workflow[Any, Any] = Workflow(body, "unfit")
    with pytest.raises(InvalidInputError, match=f"'unfit': {why}"):
        await client.invoke(unfit)
    message = f"workflow 'unfit': {why}.*this is the default of 'payload', which must fit its annotation"
    with pytest.raises(ConfigurationError, match=message):
        await Worker(client, [unfit], handle_signals=False).run()
    if annotation is not In:
        return

    def called(payload: In = default) -> None: ...

    with pytest.raises(ConfigurationError, match="tool 'called': the default of 'payload' must fit its ann"):
        tool(called)


@pytest.mark.parametrize("by_id", [True, False])
async def test_a_default_arrives_as_its_annotation(by_id: bool, redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext, payload: In = {"a": "7"}) -> Any:  # type: ignore[assignment] # noqa: B006
        return [type(payload).__name__, payload.a]

    async def none(ctx: WorkflowContext, payload: In = None) -> Any:  # type: ignore[assignment]
        return payload

    given: Workflow[Any, Any] = Workflow(body, "defaults-given")
    missing: Workflow[Any, Any] = Workflow(none, "defaults-none")
    async with running(redis_url, namespace, given, missing) as at:
        handles = [await at.client.invoke(one.id if by_id else one) for one in (given, missing)]
        assert [await at.result(handle) for handle in handles] == [["In", 7], None]


@pytest.mark.parametrize("annotation", [Secretive, SecretStr, dict[str, SecretBytes], Secretive | None])
async def test_an_input_with_a_secret_is_refused_when_the_worker_starts(
    annotation: Any, client: PolosClient
) -> None:
    async def body(ctx: WorkflowContext, payload: Any) -> None: ...

    body.__annotations__["payload"] = annotation
    secretive: Workflow[Any, Any] = Workflow(body, "secretive")
    with pytest.raises(ConfigurationError, match=r"'secretive': .* of its input is secret.*pass a reference"):
        await Worker(client, [secretive], handle_signals=False).run()


def test_an_input_that_is_keyword_only_is_named() -> None:
    async def required(ctx: WorkflowContext, *, data: In) -> None: ...

    async def optional(ctx: WorkflowContext, *, data: In = In()) -> None: ...  # noqa: B008

    def called(*, data: In) -> None: ...

    def configured(given: In, *, times: int = 1) -> None: ...

    with pytest.raises(ConfigurationError, match=r"must take \(ctx\) or .*: an input can't be keyword-only"):
        Workflow(required, "required")
    with pytest.raises(
        InvalidInputError, match=r"takes no input, but got one: 'data' is keyword-only, so rem"
    ):
        Workflow(optional, "optional").check_input({"a": 1})
    with pytest.raises(
        ConfigurationError, match=r"tool 'called' must take its input by position: remove the"
    ):
        tool(called)
    assert tool(configured).input_type is In
