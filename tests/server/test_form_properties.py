"""Forms of random types: each valid value can be entered, and what is entered is valid or gets an error."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, Union
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    BaseModel,
    Field,
    NaiveDatetime,
    SecretStr,
    TypeAdapter,
    ValidationError,
    create_model,
)
from typing_extensions import TypedDict

from polos_redis.errors import ValueTooLargeError
from polos_redis.server.pages import forms
from polos_redis.server.pages.draft import MAX_ROWS, Draft
from polos_redis.server.pages.fields import Field as FormField
from polos_redis.server.pages.fields import Input
from polos_redis.server.pages.nested_fields import Group
from polos_redis.values import bounds, schemas


@dataclasses.dataclass(frozen=True)
class Type:
    """A type and its values: those that fields express, and any others."""

    annotation: Any
    enterable: st.SearchStrategy[Any]
    others: st.SearchStrategy[Any] | None = None

    @property
    def values(self) -> st.SearchStrategy[Any]:
        return self.enterable if self.others is None else self.enterable | self.others


class Grade(Enum):
    NONE = None
    ONE = 1
    TRUE = True
    TEXT = "1"


class Level(Enum):
    LOW = "low"
    HIGH = 2.5


words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=6)
blanks = st.sampled_from(["", " ", "\n", "a\nb", "a\r\nb", "\t", "\x00"])
aware = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))
naive = st.datetimes()
finite = st.floats(allow_nan=False, allow_infinity=False)
leaves = [
    Type(str, words, blanks),
    Type(Annotated[str, Field(min_length=2, max_length=300)], words.map(lambda one: one * 2)),
    Type(int, st.integers(), st.just(10**4000)),
    Type(Annotated[int, Field(gt=0, le=10)], st.integers(1, 10)),
    Type(Annotated[int, Field(ge=-(10**400))], st.integers(0, 10**400)),
    Type(float, finite),
    Type(Annotated[float, Field(ge=0.1, lt=1e300)], st.floats(1, 100)),
    Type(Decimal, st.decimals(allow_nan=False, allow_infinity=False, min_value=-1000, max_value=1000)),
    Type(Annotated[Decimal, Field(ge=0)], st.decimals(0, 1000, places=2), st.just(Decimal("1E+99999"))),
    Type(bool, st.booleans()),
    Type(date, st.dates()),
    Type(datetime, aware, naive),
    Type(NaiveDatetime, naive),
    Type(time, st.times()),
    Type(timedelta, st.timedeltas(timedelta(days=-900), timedelta(days=900))),
    Type(UUID, st.uuids()),
    Type(AnyUrl, st.sampled_from(["https://a.example/b", "ftp://a.example/", "redis://a:1/0"]).map(AnyUrl)),
    Type(bytes, words.map(str.encode)),
    Type(None, st.none()),
    Type(Grade, st.sampled_from(Grade)),
    Type(Level, st.sampled_from(Level)),
    Type(Any, st.none() | st.booleans() | words | st.lists(st.integers(), max_size=2)),
]
constants = st.lists(
    st.sampled_from([None, True, False, 0, 1, -1, "1", "refund", "", "a b"]),
    min_size=1,
    max_size=7,
    unique_by=repr,
)


@st.composite
def literals(draw: st.DrawFn) -> Type:
    chosen = draw(constants)
    return Type(Literal[tuple(chosen)], st.sampled_from(chosen))


def optional(inner: Type) -> Type:
    kept = inner.others
    if inner.annotation is Any:  # None is one of its values
        return inner
    return Type(inner.annotation | None if inner.annotation else None, inner.enterable | st.none(), kept)


def listed(inner: Type) -> Type:
    if _of_options(inner):  # checkboxes
        return Type(
            list[inner.annotation],  # type: ignore[name-defined]
            st.just([]),
            st.lists(inner.values, max_size=3),
        )
    return Type(
        list[inner.annotation],  # type: ignore[name-defined]
        st.lists(inner.enterable, max_size=3),
        st.lists(inner.values, max_size=3) | st.lists(inner.values, min_size=1, max_size=1).map(_many),
    )


def _many(values: list[Any]) -> list[Any]:
    return values * (MAX_ROWS + 1)


def _of_options(inner: Type) -> bool:
    schema = TypeAdapter(inner.annotation).json_schema()
    text = json.dumps(schema)
    return "enum" in text or "const" in text


def mapped(inner: Type) -> Type:
    return Type(
        dict[str, inner.annotation],  # type: ignore[name-defined]
        st.dictionaries(words, inner.enterable, max_size=2),
        st.dictionaries(words | blanks, inner.values, max_size=2),
    )


def paired(first: Type, second: Type) -> Type:
    generic: Any = tuple
    annotation = generic.__class_getitem__((first.annotation, second.annotation))
    return Type(annotation, st.tuples(first.values, second.values))


def united(first: Type, second: Type) -> Type:
    both = st.one_of(first.enterable, second.enterable)
    others = [one.others for one in (first, second) if one.others is not None]
    annotation: Any = Union[first.annotation, second.annotation]  # noqa: UP007 - of values, not of names
    return Type(annotation, both, st.one_of(others) if others else None)


@st.composite
def models(draw: st.DrawFn, inner: st.SearchStrategy[Type]) -> Type:
    """A model, dataclass or TypedDict with aliases, defaults and optional fields."""
    types = draw(st.lists(inner, min_size=1, max_size=4))
    names = draw(
        st.lists(
            st.sampled_from(["a", "b_c", "reason", "approved", "Title", "x1"]),
            min_size=4,
            max_size=4,
            unique=True,
        )
    )
    fields: dict[str, Any] = {}
    for name, one in zip(names, types, strict=False):
        alias = draw(st.sampled_from([None, None, f"{name}-alias", f"{name}/~#?="]))
        options: dict[str, Any] = {} if alias is None else {"alias": alias}
        how = draw(st.sampled_from(["required", "default", "factory"]))
        if how != "required":
            default = draw(one.enterable)
            options |= {"default": default} if how == "default" else {"default_factory": _constantly(default)}
        fields[name] = (one.annotation, Field(**options))
    model: Any = create_model(f"Model{draw(st.integers(0, 9**9))}", **fields)
    chosen = list(zip(names, types, strict=False))
    return Type(model, _built(model, chosen, "enterable"), _built(model, chosen, "values"))


def _constantly(value: Any) -> Callable[[], Any]:
    return lambda: value


def _built(model: Any, fields: list[tuple[str, Type]], which: str) -> st.SearchStrategy[Any]:
    strategies = {name: getattr(one, which) for name, one in fields}
    return st.fixed_dictionaries(strategies).map(lambda values: model.model_construct(**values))


types = st.recursive(
    st.sampled_from(leaves) | literals(),
    lambda inner: st.one_of(
        st.builds(optional, inner),
        st.builds(listed, inner),
        st.builds(mapped, inner),
        st.builds(paired, inner, inner),
        st.builds(united, inner, inner),
        models(inner),
    ),
    max_leaves=8,
)


class Case:
    """A form, and a valid value as JSON."""

    def __init__(self, data: st.DataObject, kind: Type, values: st.SearchStrategy[Any]) -> None:
        self.adapter: TypeAdapter[Any] = TypeAdapter(kind.annotation)
        value = data.draw(values, label="value")
        text = self.adapter.dump_json(value, by_alias=True, warnings=False).decode()
        self.parsed = self.adapter.validate_json(text)
        self.value = json.loads(text)
        self.schema, _ = schemas.describe("a test", kind.annotation)
        self.form = forms.of_schema(self.schema)

    def read(self, draft: Draft) -> Any:
        """What is read from the draft after it has been sent, without errors and as JSON."""
        sent = Draft((name, text) for name, texts in draft.texts.items() for text in texts)
        found = self.form.read(sent)
        assert sent.errors == {}
        return found

    def check(self, found: Any) -> None:
        """The answer is the value, apart from what the form adds: defaults, or the verdict of a rejection."""
        if self.form.decides and found.get("approved") is False and isinstance(self.form.root, Group):
            assert found.keys() <= {"approved", "reason"}
            return
        again = self.adapter.validate_json(json.dumps(found))
        assert _same(again, self.parsed), (found, self.value)

    @property
    def verdict(self) -> Any:
        is_object = isinstance(self.value, dict)  # a union may have other members, such as None
        return self.value.get("approved") if self.form.decides and is_object else None


def _same(one: Any, other: Any) -> bool:
    """Equality, with the types: True is not 1."""
    return one == other and repr(one) == repr(other)


def answerable(case: Case) -> bool:
    """Whether the value is within the bounds of every value and, if the form has the two buttons, has a
    verdict: nothing else can be answered there."""
    try:
        bounds.parts_of(case.value)
    except ValueTooLargeError:
        return False
    return not case.form.decides or isinstance(case.verdict, bool)


@given(st.data(), types)
@settings(max_examples=100, deadline=None)
def test_fields_express_the_values_of_every_type(data: st.DataObject, kind: Type) -> None:
    case = Case(data, kind, kind.enterable)
    if not answerable(case):
        return
    if case.form.json is forms.BOX_ONLY:
        return
    assert case.form.root.accepts(case.value), (case.value, case.schema)
    draft = case.form.blank()
    case.form.root.fill(draft, case.value)
    case.check(case.read(draft))


@pytest.mark.failure(48)
@given(st.data(), types)
@settings(max_examples=100, deadline=None)
def test_fields_or_the_json_box_express_each_value(data: st.DataObject, kind: Type) -> None:
    case = Case(data, kind, kind.values)
    if not answerable(case):
        return
    draft = case.form.blank()
    assert case.form.json is not None
    if case.form.root.accepts(case.value) and case.form.json is not forms.BOX_ONLY:
        case.form.root.fill(draft, case.value)
    else:
        draft.put("json", json.dumps(case.value))
        if case.form.decides:
            draft.put("answer/approved", json.dumps(case.verdict))
    case.check(case.read(draft))


odd = st.sampled_from(
    [
        *(
            "1e999",
            "-1e999",
            "NaN",
            "Infinity",
            "1_000",
            "٣",
            "1e5",
            "-0",
            "+1",
            "0x10",
            "1" * 5000,
            "1e-999",
        ),
        *(
            "",
            " ",
            "null",
            "true",
            "2026-02-30",
            "24:00",
            "2026-01-01T00:00+99:99",
            "https://[",
            "[" * 200_000,
        ),
        *(
            '{"approved": true}',
            "[1e999]",
            '"\\ud800"',
            "\x00",
            "a\nb",
            "0001-01-01T00:00",
            "9999-12-31T23:59",
        ),
    ]
)


def controls(field: FormField, draft: Draft) -> list[str]:
    """The HTML names that a page with this field has."""
    below = [name for one in field.rendered(draft) for name in controls(one, draft)]
    return [field.name, f"{field.name}#", f"{field.name}?", f"{field.name}/0=", *below]


@given(st.data(), types)
@settings(max_examples=100, deadline=None)
def test_whatever_is_sent_is_valid_or_gets_an_error(data: st.DataObject, kind: Type) -> None:
    case = Case(data, kind, kind.values)
    pairs = []
    for name in ("json", "_add", "_remove", "zone", *controls(case.form.root, case.form.blank())):
        sent = odd | st.sampled_from(["0", "1", "answer", "answer/a", "Europe/Berlin"])
        pairs += [(name, text) for text in data.draw(st.lists(sent, max_size=2), label=name)]
    draft = Draft(pairs)
    case.form.is_too_large(draft)
    case.form.change_rows(draft)
    found = case.form.read(draft)
    if not draft.errors:
        try:
            case.adapter.validate_json(json.dumps(found, allow_nan=False))
            return
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            errors = [{"field": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in details]
        if case.form.decides and found.get("approved") is False:
            return
        case.form.add_errors(draft, errors)
    assert case.form.errors(draft)


class Partial(TypedDict):
    a: NotRequired[int]
    b: NotRequired[Point]
    c: NotRequired[str | None]


class Point(BaseModel):
    x: int
    y: int = 0


class Masked(BaseModel):
    key: SecretStr = SecretStr("hidden")
    at: NaiveDatetime = datetime(2026, 1, 1, 12, 0, 0, 123456)


def test_a_property_may_be_left_out() -> None:
    form = forms.of_schema(schemas.describe("a test", Partial)[0])
    for value in ({}, {"a": 1}, {"b": {"x": 1, "y": 2}}, {"a": 1, "c": "x"}):
        draft = form.blank()
        form.root.fill(draft, value)
        found = form.read(draft)
        assert draft.errors == {} and {**found, "c": value.get("c")} == {**value, "c": value.get("c")}


def test_a_masked_default_is_not_sent_as_the_value() -> None:
    form = forms.of_schema(schemas.describe("a test", Masked)[0])
    found = Masked.model_validate(form.read(form.blank()))
    assert found == Masked()
    at = form.root.fields["at"]  # type: ignore[attr-defined]
    assert isinstance(at, Input)
    assert at.html_type(form.blank().get(at.name)) == "text"  # a picker would lose the microseconds
    assert at.html_type("2026-01-01T12:00") == at.html_type("") == "datetime-local"


def test_not_a_number_is_refused_wherever_it_is_typed() -> None:
    form = forms.of_schema(schemas.describe("a test", Any)[0])
    for text in ("NaN", "[1e999]", '{"a": -Infinity}', "[-1e999]"):
        draft = Draft([("json", text)])
        assert form.read(draft) is None and form.errors(draft)
    assert math.isinf(float("1e999"))
