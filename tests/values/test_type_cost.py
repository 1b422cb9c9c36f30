"""pydantic's checks are counted before it makes them: never too few, and in linear steps."""

from __future__ import annotations

import json
import re
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv6Address
from types import GenericAlias
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Discriminator,
    EmailStr,
    Field,
    IPvAnyAddress,
    Json,
    JsonValue,
    RootModel,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
)
from typing_extensions import TypedDict

from polos_redis.errors import InvalidInputError, ValueTooLargeError
from polos_redis.values import bounds, codec, type_cost
from polos_redis.values.bounded_type import MAX_ERRORS, MAX_FIELD, MAX_MESSAGE, BoundedType, MismatchError
from polos_redis.values.type_cost import MAX_CHECKS, TypeCost

T = TypeVar("T")


def exceeds(annotation: Any, value: Any) -> bool:
    cost = TypeCost(TypeAdapter(annotation).core_schema)
    return bounds.at_once(cost.exceeds(value, bounds.parts_of(value)))


def count(annotation: Any, value: Any) -> int:
    cost = TypeCost(TypeAdapter(annotation).core_schema)
    return bounds.at_once(cost.count(value))[0]


# --- recursive types, in every form in which a type can contain itself ------------------


class And(BaseModel):
    kind: Literal["and"]
    of: list[And | Or | Leaf]


class Or(BaseModel):
    kind: Literal["or"]
    of: list[And | Or | Leaf]


class Leaf(BaseModel):
    kind: Literal["leaf"]
    value: str


class ByName(BaseModel):
    inner: dict[str, ByName | ByOther | int]


class ByOther(BaseModel):
    inner: dict[str, ByName | ByOther | int]


@dataclass
class Left:
    inner: list[Left | Right] = field(default_factory=list)


@dataclass
class Right:
    inner: list[Left | Right] = field(default_factory=list)


class TypedLeft(TypedDict):
    inner: list[TypedLeft | TypedRight]


class TypedRight(TypedDict):
    inner: list[TypedLeft | TypedRight]


class Pair(NamedTuple):
    inner: tuple[Pair | Triple, ...]


class Triple(NamedTuple):
    inner: tuple[Pair | Triple, ...]


class Box(BaseModel, Generic[T]):
    inner: list[Box[T] | Case[T]]


class Case(BaseModel, Generic[T]):
    inner: list[Box[T] | Case[T]]


class Optionals(BaseModel):
    inner: list[Optionals | Others | None] | None = None


class Others(BaseModel):
    inner: list[Optionals | Others | None] | None = None


class Unions(BaseModel):
    inner: list[(Unions | Several) | (Several | int)]


class Several(BaseModel):
    inner: list[(Unions | Several) | (Several | int)]


class Root(RootModel[list["Root | RootB"]]):
    pass


class RootB(RootModel[list["Root | RootB"]]):
    pass


class Aliased(BaseModel):
    found: list[Aliased | AliasedB] = Field(validation_alias=AliasChoices("x", AliasPath("inner")))


class AliasedB(BaseModel):
    found: list[Aliased | AliasedB] = Field(validation_alias=AliasChoices("x", AliasPath("inner")))


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[Extra | ExtraB]]


class ExtraB(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[Extra | ExtraB]]


class Sets(BaseModel):
    inner: Sequence[Sets | SetsB]


class SetsB(BaseModel):
    inner: Sequence[Sets | SetsB]


for one in (And, Or, ByName, ByOther, Box[int], Case[int], Optionals, Others, Unions, Several, Root, RootB):
    one.model_rebuild()


def in_lists(depth: int) -> Any:
    value: Any = {"inner": 5}
    for _ in range(depth):
        value = {"inner": [value]}
    return value


def in_dicts(depth: int) -> Any:
    value: Any = {"inner": {"k": "x"}}
    for _ in range(depth):
        value = {"inner": {"k": value}}
    return value


def bare_lists(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def in_pairs(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [[value]]
    return value


BOMBS: list[tuple[Any, Callable[[int], Any]]] = [
    (ByName, in_dicts),
    (Left, in_lists),
    (TypedLeft, in_lists),
    (Pair, in_pairs),
    (Pair, in_lists),
    (Box[int], in_lists),
    (Optionals, in_lists),
    (Unions, in_lists),
    (Root, bare_lists),
    (Aliased, in_lists),
    (Extra, in_lists),
    (Sets, in_lists),
    (list[Left] | None, lambda depth: [in_lists(depth)]),
    (dict[str, deque[Left | Right]], lambda depth: {"a": [in_lists(depth)]}),
    (Json[Left], lambda depth: json.dumps(in_lists(depth))),
]


@pytest.mark.failure(47)
@pytest.mark.threat(12)
@pytest.mark.parametrize(("annotation", "nested"), BOMBS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_a_recursive_union_without_a_discriminator_is_refused_when_it_is_deep(
    annotation: Any, nested: Callable[[int], Any]
) -> None:
    assert not exceeds(annotation, nested(3))
    assert exceeds(annotation, nested(20))
    with pytest.raises(InvalidInputError, match="would take too long"):
        bounds.at_once(BoundedType(TypeAdapter(annotation)).python(nested(20)))


@pytest.mark.parametrize(("annotation", "nested"), BOMBS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_no_error_is_uncounted_in_recursive_types(annotation: Any, nested: Callable[[int], Any]) -> None:
    for depth in range(7):
        assert_counted(annotation, nested(depth))


class Card(BaseModel):
    kind: Literal["card"] = "card"
    of: list[Payment] = []


class Bank(BaseModel):
    kind: Literal["bank"] = "bank"
    of: list[Payment] = []


Payment = Annotated[Card | Bank, Field(discriminator="kind")]
Card.model_rebuild()
Bank.model_rebuild()


def kind_of(value: Any) -> str:
    return str(value.get("kind")) if isinstance(value, dict) else str(getattr(value, "kind", ""))


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Called(BaseModel):
    kind: str
    of: list[
        Annotated[Annotated[Called, Tag("a")] | Annotated[CalledB, Tag("b")], Discriminator(kind_of)]
    ] = []


class CalledB(BaseModel):
    kind: str
    of: list[
        Annotated[Annotated[Called, Tag("a")] | Annotated[CalledB, Tag("b")], Discriminator(kind_of)]
    ] = []


Called.model_rebuild()
JsonLike = dict[str, "JsonLike"] | list["JsonLike"] | str | int | None


def chain(depth: int, **tag: Any) -> Any:
    value: Any = {**tag, "of": []}
    for _ in range(depth):
        value = {**tag, "of": [value]}
    return value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Payment, chain(40, kind="bank")),
        (Called, chain(40, kind="b")),
        (JsonValue, chain(40)),
        (list[int | str | float | bool | None], [*range(30_000)]),
        (list[Leaf | Tree], [{"value": 1}] * 9_000),
        (Tree, {"value": 1, "children": [{"value": 2, "children": [{"value": 3}] * 10}] * 1_000}),
        (dict[str, dict[str, int]], {str(a): {str(b): b for b in range(100)} for a in range(900)}),
        (list[int], [0] * (bounds.MAX_PARTS - 1)),
    ],
    ids=["tags", "function", "JSON", "scalars", "models", "tree", "dicts", "largest"],
)
def test_what_pydantic_checks_quickly_is_accepted(annotation: Any, value: Any) -> None:
    assert not exceeds(annotation, value)
    checked = bounds.at_once(BoundedType(TypeAdapter(annotation)).python(value))
    assert checked is not None


# --- errors without recursion -----------------------------------------------------------

Wide: Any = create_model("Wide", **{f"f{number}": (int, ...) for number in range(50)})  # type: ignore[call-overload]


class Level3(BaseModel):
    a: list[int] | list[str] | list[float] | set[int] | None = None


class Level2(BaseModel):
    a: list[Level3 | Tree] | list[Tree | Level3] | None = None


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[Wide], [{}] * 90_000),  # an error for each missing field
        (list[Wide | Tree | Level3], [{}] * 9_000),
        (list[list[int] | list[str] | list[bytes]], [[[]] * 90_000]),
        (Level2, {"a": [{"a": [[]] * 30_000}]}),
        (Tree, {"value": 1, "children": [chain(0)] * 5}),
    ],
    ids=["missing", "models", "lists", "levels", "few"],
)
def test_many_errors_are_refused_before_they_are_made(annotation: Any, value: Any) -> None:
    with pytest.raises((InvalidInputError, MismatchError)) as refused:
        bounds.at_once(BoundedType(TypeAdapter(annotation)).python(value))
    assert len(getattr(refused.value, "errors", [])) <= MAX_ERRORS


# --- texts, hashes and messages ---------------------------------------------------------

SAME_HASH = [number * (2**61 - 1) for number in range(10_000)]  # the hash of each is 0
MANY = tuple(f"option {number}" for number in range(3_000))
OPTIONS: Any = Literal[MANY]
ADDRESSES = [f"10.{number // 250}.{number % 250}.1" for number in range(20_000)]


@pytest.mark.failure(47)
@pytest.mark.threat(12)
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (set[int], SAME_HASH),
        (set[int], [str(number) for number in SAME_HASH]),
        (frozenset[int | str], SAME_HASH),
        (dict[int, int], {str(number): 0 for number in SAME_HASH}),
        (dict[Decimal, int], {f"{number}.0": 0 for number in SAME_HASH}),
        (set[UUID], [str(UUID(int=number)) for number in SAME_HASH]),
        (set[tuple[int, ...]], [[number] for number in SAME_HASH]),
        (set[Fraction], [str(number) for number in SAME_HASH]),
        (set[IPv6Address], SAME_HASH),
        (re.Pattern, "(?i)" + "[\0-\U0010ffff]" * 1_000),  # each set is built in 0.5 ms
        (re.Pattern[str] | int, "|".join(f"a{number}" for number in range(50_000))),
        (dict[re.Pattern[str], int], {"(?i)" + "[\0-\U0010ffff]" * 9 + str(n): 0 for n in range(300)}),
        (list[IPvAnyAddress], ["z"] * 90_000),
        (list[OPTIONS], ["z"] * 50_000),  # each error lists all options
        (list[Enum("E", {name: name for name in MANY})], ["z"] * 50_000),  # type: ignore[misc]
    ],
)
def test_what_takes_long_for_few_parts_is_refused(annotation: Any, value: Any) -> None:
    assert exceeds(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (set[int], [*range(90_000)]),
        (dict[int, int], {str(number): 0 for number in range(60_000)}),
        (set[UUID], [str(uuid4()) for _ in range(20_000)]),
        (set[str], [str(number) for number in SAME_HASH]),
        (dict[str, int], {str(number): 0 for number in SAME_HASH}),
        (set[Decimal], [f"{number}.5" for number in range(20_000)]),
        (list[IPvAnyAddress], ADDRESSES),
        (re.Pattern, r"^[a-z]+(-[a-z0-9]+)*$"),
        (list[Literal["a", "b"]], ["a"] * 90_000),
    ],
)
def test_hashes_texts_and_options_refuse_no_usual_value(annotation: Any, value: Any) -> None:
    assert not exceeds(annotation, value)
    bounds.at_once(BoundedType(TypeAdapter(annotation)).json(value))


def test_addresses_of_mail_are_counted_by_their_characters() -> None:
    pytest.importorskip("email_validator")
    assert not exceeds(list[EmailStr], ["somebody@example.com"] * 3_000)
    for address in ("a@" + "\u00fc." * 30 + "com", "a@" + "b" * 60 + "." + "c" * 60 + ".com"):
        assert exceeds(list[EmailStr], [address] * 5_000)
        assert exceeds(dict[EmailStr, int], {f"{n}{address}": 0 for n in range(5_000)})


def test_errors_of_a_large_value_are_listed_from_a_sample() -> None:
    with pytest.raises(MismatchError) as caught:
        bounds.at_once(BoundedType(TypeAdapter(list[int] | None)).python(["x"] * 90_000))
    *some, last = caught.value.errors
    assert last == {"field": "", "message": "90,000 errors in all"}
    assert some[0]["field"].startswith("0") and "valid integer" in some[0]["message"]
    with pytest.raises(MismatchError) as caught:
        bounds.at_once(BoundedType(TypeAdapter(dict[str, int])).python({str(n): "x" for n in range(5_000)}))
    assert len(caught.value.errors) == MAX_ERRORS


def test_errors_repeat_little_of_the_value() -> None:
    long = {"k" * 300_000: {"kind": "z" * 300_000}}
    with pytest.raises(MismatchError) as caught:
        bounds.at_once(BoundedType(TypeAdapter(dict[str, Payment])).python(long))
    (error,) = caught.value.errors
    assert len(error["field"]) <= MAX_FIELD + 4 and len(error["message"]) <= MAX_MESSAGE + 4
    assert len(str(caught.value)) < 600


def test_json_inside_a_string_is_bounded_too() -> None:
    for text in ("[" * 150 + "]" * 150, "[" + "0," * 250_000 + "0]", "[" * 100_000):
        with pytest.raises(ValueTooLargeError):
            bounds.at_once(BoundedType(TypeAdapter(Json[Any] | Json[list[int]])).python(text))


def test_a_type_without_alternatives_costs_a_small_value_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = TypeCost(TypeAdapter(Tree).core_schema)
    monkeypatch.setattr(type_cost, "_count", None)  # not called
    assert not bounds.at_once(cost.exceeds({"value": 1}, bounds.SMALL_PARTS))


@pytest.mark.parametrize(
    ("annotation", "nested"), BOMBS[:-1], ids=lambda one: getattr(one, "__name__", str(one))
)
def test_counting_takes_linear_steps(
    annotation: Any, nested: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type_cost, "_TURN", 1)
    monkeypatch.setattr(type_cost, "MAX_CHECKS", 10**40)
    monkeypatch.setattr(type_cost, "MAX_PATHS", 10**40)
    cost = TypeCost(TypeAdapter(annotation).core_schema)
    short, long = (sum(1 for _ in cost.count(nested(depth))) for depth in (12, 36))
    assert 0 < long < 4 * short
    assert bounds.at_once(cost.count(nested(36)))[0] > MAX_CHECKS


# --- any type, any value ----------------------------------------------------------------

LEAVES: list[Any] = [int, str, bool, float, None, Any, bytes, Literal["a", 1], JsonValue, Tree, Payment, Leaf]


def _more_types(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def model(types: list[Any]) -> Any:
        named: dict[str, Any] = {name: (kind, ...) for name, kind in zip("abc", types, strict=False)}
        return create_model("Made", **named)

    return st.one_of(
        inner.map(list.__class_getitem__),
        inner.map(lambda one: GenericAlias(dict, (str, one))),
        inner.map(lambda one: GenericAlias(tuple, (one, ...))),
        inner.map(lambda one: GenericAlias(Sequence, (one,))),
        inner.map(lambda one: GenericAlias(Mapping, (str, one))),
        inner.map(lambda one: GenericAlias(Iterable, (one,))),
        st.tuples(inner, inner).map(lambda two: GenericAlias(tuple, two)),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: _union(some)),
        st.lists(inner, min_size=1, max_size=3).map(model),
    )


def _union(types: list[Any]) -> Any:
    return typing.Union[tuple(types)]  # noqa: UP007 - built from data


ANY_TYPE = st.recursive(st.sampled_from(LEAVES), _more_types, max_leaves=8)
ANY_VALUE = st.recursive(
    st.sampled_from([None, True, 0, 1, 1.5, "a", "", "x", "leaf", "card"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b", "c", "kind", "of", "value", "children"]), inner, max_size=4
        )
        | st.fixed_dictionaries({"kind": st.sampled_from(["card", "bank", "leaf"]), "of": st.lists(inner)})
    ),
    max_leaves=20,
)


def assert_counted(annotation: Any, value: Any) -> None:
    """Counted are at least as many checks as pydantic finds errors."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    errors = 0
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        errors = error.error_count()
    assert errors <= count(annotation, value)


@given(ANY_TYPE, ANY_VALUE)
def test_no_error_is_uncounted(annotation: Any, value: Any) -> None:
    assert_counted(annotation, value)


@given(ANY_TYPE, ANY_VALUE)
def test_the_bounds_change_no_result(annotation: Any, value: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    try:
        expected = adapter.validate_python(value)
    except ValidationError:
        with pytest.raises(MismatchError):
            bounds.at_once(BoundedType(adapter).python(value))
    else:
        found = bounds.at_once(BoundedType(adapter).python(value))
        if not isinstance(found, type(iter([]))) and "Iterator" not in repr(found):
            assert found == expected


def test_inputs_report_what_exceeds_the_bounds() -> None:
    with pytest.raises(InvalidInputError, match=r"workflow 'w': input: checking .* would take too long"):
        codec.validate_input(Left, in_lists(30), workflow_id="w")
    with pytest.raises(
        ValueTooLargeError, match=r"workflow 'w': input: the value has more than 100,000 parts"
    ):
        codec.validate_input(list[int], [0] * 200_000, workflow_id="w")
    with pytest.raises(ValueTooLargeError, match=r"workflow 'w': input: the value is nested deeper than 100"):
        codec.validate_input(list[Any], bare_lists(150), workflow_id="w")
