"""The complete form shows every field of a value, and is read back as an equal one."""

from __future__ import annotations

import asyncio
import itertools
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    WrapSerializer,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
)

from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.decisions.answer_types import AnswerTypes
from polos_redis.errors import ConfigurationError, InvalidAnswerError
from polos_redis.runtime.steps.suspend import _shown as shown_in_suspension
from polos_redis.values import bounds, codec, digests, schemas
from polos_redis.values.complete_form import check_type, complete_form, hidden_part


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Money:
    __pydantic_config__: ClassVar = ConfigDict(extra="ignore")
    cents: int
    currency: str = "EUR"
    formatted: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.formatted = f"{self.cents} {self.currency}"


class Line(BaseModel):
    model_config = ConfigDict(frozen=True)
    sku: str = Field(alias="SKU")
    price: Decimal = Field(default=Decimal(1), exclude=True)


class Names(RootModel[list[str]]):
    pass


TEXT = st.text(st.characters(codec="utf-8"), max_size=4)
# The type of a field, and its values. What JSON can't say stands in RAW.
FIELDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (float, st.floats()),
    (str, TEXT),
    (bool, st.booleans()),
    (bytes, TEXT.map(str.encode)),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (datetime, st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(fold=0))),
    (date, st.dates()),
    (timedelta, st.timedeltas(min_value=timedelta(-9999), max_value=timedelta(9999))),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Money, st.builds(Money, st.integers(), TEXT)),
    (Line, st.builds(Line, SKU=TEXT, price=st.integers(0, 99).map(Decimal))),
    (Names, st.lists(TEXT, max_size=3).map(Names)),
    (list[Line], st.lists(st.builds(Line, SKU=TEXT), max_size=2)),
    (dict[str, Money], st.dictionaries(TEXT, st.builds(Money, st.integers()), max_size=2)),
    (tuple[int, str], st.tuples(st.integers(), TEXT)),
    (set[int], st.sets(st.integers(), max_size=3)),
    (Line | None, st.none() | st.builds(Line, SKU=TEXT)),
]
RAW: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (bytes, st.binary()),
    (dict[bytes, int], st.just({b"\xff": 1})),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"exclude": True},
    {"alias": "theAlias{}"},
    {"alias": "an-alias {}", "exclude": True},
    {"validation_alias": AliasChoices("choice{}", "other{}")},
    {"serialization_alias": "shown{}"},
]
SERIALIZERS: list[Any] = [PlainSerializer(lambda _: "***"), WrapSerializer(lambda _, inner: None)]
_numbers = itertools.count()


def options_of(index: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a field with its own aliases."""
    found = {}
    for name, value in options.items():
        if isinstance(value, AliasChoices):
            value = AliasChoices(*(str(choice).format(index) for choice in value.choices))
        found[name] = value.format(index) if isinstance(value, str) else value
    return found


@st.composite
def models(draw: st.DrawFn, *, serializers: bool, fields: list[Any] = FIELDS) -> Any:
    """An instance of a new model, with fields that JSON would hide, rename or change."""
    members: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for index in range(draw(st.integers(1, 4))):
        annotation, strategy = draw(st.sampled_from(fields))
        options = options_of(index, draw(st.sampled_from(OPTIONS)))
        if serializers and draw(st.booleans()):
            annotation = Annotated[annotation, draw(st.sampled_from(SERIALIZERS))]
        members[f"f{index}"] = (annotation, Field(**options))
        alias = options.get("alias") or options.get("validation_alias") or f"f{index}"
        values[str(alias.choices[0] if isinstance(alias, AliasChoices) else alias)] = draw(strategy)
    extra: Any = draw(st.sampled_from(["allow", "forbid", "ignore"]))
    config = ConfigDict(extra=extra, frozen=draw(st.booleans()), strict=False)
    base = create_model("Base", __config__=config, __module__=__name__, _note=(str, PrivateAttr("")))
    name = f"Random{next(_numbers)}"
    model: Any = create_model(name, __base__=base, __module__=__name__, **members)
    setattr(sys.modules[__name__], name, model)  # as a class of this module
    instance = model(**values, **({"more": draw(st.integers())} if extra == "allow" else {}))
    instance._note = draw(TEXT)
    return instance


def same(a: Any, b: Any) -> bool:
    """Equal and of one class, private attributes included; nan equals nan."""
    return type(a) is type(b) and digests.canonical_digest(a) == digests.canonical_digest(b)


@pytest.mark.failure(48)
@given(models(serializers=True))
def test_the_complete_form_has_every_field_and_reads_back(instance: Any) -> None:
    instance._note = ""  # no input sets it
    form = complete_form(instance)
    assert len(form) == len(type(instance).model_fields) + len(instance.__pydantic_extra__ or {})
    assert codec.plain(form) == form, "plain JSON"
    assert form.keys() >= schemas.properties(schemas.complete(type(instance))).keys()
    assert same(bounds.at_once(schemas.parse(type(instance), form)), instance)


@given(models(serializers=False))
def test_the_complete_form_fits_the_schema_that_requires_every_field(instance: Any) -> None:
    schema, form = schemas.complete(type(instance)), complete_form(instance)
    policy = AnswerPolicy(schema=schema)
    if all(isinstance(value, str | bool | int | None) for value in form.values()):
        asyncio.run(policy.check_answer("id", "key", form))
    for name in schemas.properties(schema):
        partial = {key: value for key, value in form.items() if key != name}
        with pytest.raises(InvalidAnswerError):
            asyncio.run(policy.check_answer("id", "key", partial))
    if type(instance).model_config["extra"] != "allow":
        with pytest.raises(InvalidAnswerError):
            asyncio.run(policy.check_answer("id", "key", {**form, "another": 1}))


@given(models(serializers=True, fields=FIELDS + RAW), st.booleans())
def test_an_answer_given_as_an_instance_arrives_equal(instance: Any, nested: bool) -> None:
    """Whatever JSON would make of it: excluded, masked and renamed fields, raw bytes, private attributes."""
    annotation: Any = list[type(instance)] if nested else type(instance)  # type: ignore[misc]
    given_value = [instance] if nested else instance
    policy = AnswerPolicy.of("s", AnswerTypes(annotation), None, 1, 1, True, frozenset())
    stored = codec.encode(given_value)
    form, is_instance = policy.form_of(given_value)
    assert is_instance is not nested
    if not nested:
        asyncio.run(policy.check_instance("id", "key", form))
    arrived = bounds.at_once(AnswerTypes(annotation).read(stored))
    assert same(arrived[0] if nested else arrived, instance)


# --- types that hide what they hold -----------------------------------------------------


class Masked(BaseModel):
    card: Annotated[str, PlainSerializer(lambda _: "****")]


class MaskedInside(BaseModel):
    cards: dict[str, list[Annotated[str, WrapSerializer(lambda _, inner: "*")]]]


class Decorated(BaseModel):
    card: str

    @field_serializer("card")
    def _mask(self, card: str) -> str:
        return "*"


class Wholly(BaseModel):
    card: str

    @model_serializer
    def _mask(self) -> dict[str, Any]:
        return {}


class Secretive(BaseModel):
    owner: str
    password: SecretStr


class Nested(BaseModel):
    cards: list[Masked] = []


class Tree(BaseModel):
    value: Annotated[int, PlainSerializer(lambda _: 0)] = 0
    children: list[Tree] = []


@dataclass
class Holder:
    secret: SecretStr | None = None


class Pathed(BaseModel):
    first: str = Field(validation_alias=AliasPath("names", 0))


HIDING: list[tuple[Any, str]] = [
    (Masked, "field 'card' has a serializer"),
    (MaskedInside, "field 'cards' has a serializer"),
    (Decorated, "field 'card' has a serializer"),
    (Wholly, "the type has a serializer"),
    (Secretive, "field 'password' is secret"),
    (Nested, "field 'cards.card' has a serializer"),
    (Tree, "field 'Tree.value' has a serializer"),
    (Holder, "field 'secret' is secret"),
    (Pathed, "field 'first' is read from inside another"),
]


@pytest.mark.parametrize(("annotation", "why"), HIDING, ids=lambda one: getattr(one, "__name__", ""))
def test_a_type_that_hides_something_is_refused(annotation: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^tool 'x': {why}"):
        check_type("tool 'x'", annotation)


class Shown(BaseModel):
    """Nothing here is hidden from the complete form."""

    excluded: int = Field(1, exclude=True)
    renamed: int = Field(1, alias="other")
    either: int = Field(1, validation_alias=AliasChoices("one", AliasPath("two", 0)))
    at: datetime = datetime(2026, 1, 1)
    price: Decimal = Decimal(1)
    colours: set[Colour] = set()
    lines: list[Line] = []
    money: Money | None = None
    parts: dict[str, tuple[int, ...]] = {}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return 1


def test_other_types_are_not_refused() -> None:
    check_type("tool 'x'", Shown)
    assert complete_form(Shown.model_validate({})).keys() == {
        *("excluded", "other", "one", "at", "price", "colours", "lines", "money", "parts")
    }


def hidden(value: Any) -> str | None:
    return hidden_part(value, shown_in_suspension(value))


class Plain(BaseModel):
    a: int = 1


class More(Plain):
    b: int = 2


class Enclosing(BaseModel):
    base: Plain = More()


class Dropped(BaseModel):
    a: int = 1
    b: int = 2

    @model_serializer
    def _dump(self) -> dict[str, int]:
        return {"a": self.a}


class Overridden(Plain):
    def model_dump(self, **options: Any) -> dict[str, Any]:
        return {}


class AsText(BaseModel):
    a: int = 1

    @model_serializer
    def _dump(self) -> str:
        return "1 a"


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


@dataclass
class Held:
    held: Any


@pytest.mark.failure(48)
@pytest.mark.threat(17)
def test_whatever_nobody_sees_is_found_at_any_depth() -> None:
    assert hidden({"a": [(1, {"b": Money(1)})], "c": None, 1: {2, "3"}}) is None
    masked, more = Masked.model_validate({"card": "4242"}), Open.model_validate({"b": Plain()})
    assert hidden([AsText(), masked, more, Tree(children=[Tree()]), Names(["x"])]) is None
    line = Line(SKU="a")
    wrapped: list[Any] = [lambda x: x, lambda x: [x], lambda x: {"k": (x,)}, lambda x: Held({"k": x})]
    wrapped += [lambda x: Open.model_validate({"b": [x]}), lambda x: Held(Held([x]))]
    cases: dict[str, Any] = {"Line.price": line, "More.b": Enclosing(), "Dropped.b": Dropped()}
    for wrap, (name, value) in itertools.product(wrapped, cases.items()):
        assert hidden(wrap(value)) == f"{name}, which is not in its JSON"
    assert hidden([Overridden()]) == "Overridden.a, which is not in its JSON"
    inside: Any = Nested.model_construct(cards=[line])
    for deep in ({line: 1}, (frozenset({line}),), inside):
        assert hidden(deep) == "Line.price, which is not in its JSON"
    for one, other in ((1, "1"), (b"a", "a"), (True, "true"), (None, "None"), ((1, 2), "1,2")):
        assert hidden(Held({one: 5, other: 6})) == f"two keys that are both shown as {other!r}"


class ByName(BaseModel):
    a: int = Field(default=1, serialization_alias="x")
    x: int = 2


class ByAlias(ByName):
    model_config = ConfigDict(serialize_by_alias=True)


def test_of_two_fields_with_one_name_in_json_one_is_hidden() -> None:
    assert hidden(ByName()) is None
    if ByAlias().model_dump() == {"x": 2}:  # pydantic before 2.11 does not know serialize_by_alias
        assert hidden(ByAlias()) == "ByAlias.a, which is not in its JSON"
