"""The check of values against JSON schemas: it agrees with jsonschema, and takes linear steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from polos_redis.errors import InvalidInputError
from polos_redis.values import bounds, schema_check, schema_nodes, schemas
from polos_redis.values.bounded_type import MismatchError
from polos_redis.values.schema_check import MAX_ERRORS
from polos_redis.values.schema_nodes import compiled
from tests.values.test_type_cost import BOMBS, And, Leaf, Or, exceeds

NAMES = ["a", "b", "kind"]
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.0, 1.0, 1.5, -2.0, "", "a", "b", "ab"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=12,
)
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]


@st.composite
def _keywords(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    few = st.integers(0, 3)
    names = st.lists(st.sampled_from(NAMES), unique=True)
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, unique=True),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "minimum": few,
        "maximum": few,
        "exclusiveMinimum": few,
        "exclusiveMaximum": few,
        "multipleOf": st.integers(1, 3),
        "minLength": few,
        "maxLength": few,
        "minItems": few,
        "maxItems": few,
        "minProperties": few,
        "maxProperties": few,
        "uniqueItems": st.booleans(),
        "pattern": st.sampled_from(["a", "^b", "b$"]),
        "required": names,
        "properties": named,
        "patternProperties": st.dictionaries(st.sampled_from(["a", "^b", "i"]), inner, max_size=2),
        "additionalProperties": inner,
        "propertyNames": inner,
        "dependentSchemas": named,
        "dependentRequired": st.dictionaries(st.sampled_from(NAMES), names, max_size=2),
        "items": inner,
        "prefixItems": some,
        "contains": inner,
        "anyOf": some,
        "oneOf": some,
        "allOf": some,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
    }
    chosen = draw(st.lists(st.sampled_from(list(keywords)), max_size=4, unique=True))
    return {keyword: draw(keywords[keyword]) for keyword in chosen}


REFERENCES = st.sampled_from([{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}])
SCHEMAS = st.recursive(
    st.booleans() | REFERENCES | _keywords(st.booleans() | REFERENCES), _keywords, max_leaves=6
)


def _guarded(schema: Any) -> Any:
    """A definition that reaches others inside of parts only, so that every reader's recursion ends."""
    return {"properties": {"a": schema}, "items": schema, "type": ["object", "array", "null", "string"]}


@given(st.data())
def test_it_agrees_with_jsonschema(data: st.DataObject) -> None:
    root, x, y = (data.draw(SCHEMAS, label) for label in ("root", "x", "y"))
    value = data.draw(VALUES, "value")
    schema = {"allOf": [root], "$defs": {"x": _guarded(x), "y": _guarded(y)}}
    errors = bounds.at_once(schema_check.errors_of(compiled(json.dumps(schema)), value))
    assert bool(errors) is not Draft202012Validator(schema).is_valid(value)
    for error in errors:  # each path leads to a part, or to a field that is missing
        part: Any = value
        for step in error.path[:-1]:
            part = part[step]
        if error.path and error.message != "is required":
            assert error.path[-1] in (part if isinstance(part, dict) else range(len(part)))


class Untagged(BaseModel):
    left: Untagged | Other | None = None
    right: Untagged | Other | None = None


class Other(BaseModel):
    left: Untagged | Other | None = None
    right: Untagged | Other | int = 0


def nested(depth: int, leaf: Any, **more: Any) -> Any:
    node = leaf
    for _ in range(depth):
        node = {"kind": "or", "of": [node], **more}
    return node


def steps_of(schema: Any, value: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """The steps of a check; every one of them yields."""
    monkeypatch.setattr(schema_check, "_TURN", 1)
    monkeypatch.setattr(schema_check, "MAX_REPEATED", 10**40)
    node = compiled(json.dumps(schema))
    return sum(1 for _ in schema_check.errors_of(node, value))


@pytest.mark.failure(47)
@pytest.mark.threat(12)
@pytest.mark.parametrize("leaf", [{"kind": "leaf", "value": "x"}, {"kind": "leaf", "value": 5}, {}, 5])
@pytest.mark.parametrize("union", [And | Or | Leaf, Untagged | Other])
def test_recursive_unions_take_linear_steps(union: Any, leaf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = TypeAdapter(union).json_schema()
    short, long = (steps_of(schema, nested(depth, leaf, left=leaf), monkeypatch) for depth in (12, 48))
    assert long < 5 * short


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_nested_alternatives_of_one_value_take_linear_steps(
    keyword: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubling(depth: int) -> Any:
        defs: dict[str, Any] = {"0": {"type": "integer"}}
        for level in range(1, depth):
            below = {"$ref": f"#/$defs/{level - 1}"}
            defs[str(level)] = {keyword: [{"allOf": [below]}, {"anyOf": [below]}]}
        return {"$ref": f"#/$defs/{depth - 1}", "$defs": defs}

    assert steps_of(doubling(80), "x", monkeypatch) < 5 * steps_of(doubling(20), "x", monkeypatch)


def test_references_may_form_a_long_chain() -> None:
    defs: dict[str, Any] = {str(level): {"$ref": f"#/$defs/{level + 1}"} for level in range(2_000)}
    node = compiled(json.dumps({"$ref": "#/$defs/0", "$defs": {**defs, "2000": {"type": "integer"}}}))
    assert bounds.at_once(schema_check.errors_of(node, 5)) == []
    (error,) = bounds.at_once(schema_check.errors_of(node, "x"))
    assert error.message == "must be an integer, not a string"


@pytest.mark.threat(12)
def test_numbers_with_one_hash_are_compared_quickly() -> None:
    """All multiples of 2^61 - 1 have the hash 0: a set of them takes quadratic time."""
    node = compiled(json.dumps(TypeAdapter(set[int]).json_schema()))
    numbers = [number * (2**61 - 1) for number in range(50_000)]
    assert len({hash(schema_nodes.key_of(number)) for number in numbers}) > 49_000
    assert bounds.at_once(schema_check.errors_of(node, numbers)) == []
    (error,) = bounds.at_once(schema_check.errors_of(node, [*numbers[:9], 0.0]))
    assert error.message == "contains an item twice"


def test_the_errors_are_those_of_the_member_that_was_meant() -> None:
    schema = TypeAdapter(And | Or | Leaf).json_schema()
    errors = bounds.at_once(
        schema_check.errors_of(compiled(json.dumps(schema)), nested(8, {"kind": "leaf", "value": 5}))
    )
    assert [error.path for error in errors] == [("of", 0) * 8 + ("value",)]
    assert errors[0].message == "must be a string, not an integer"
    (tag,) = bounds.at_once(schema_check.errors_of(compiled(json.dumps(schema)), {"kind": "nor", "of": []}))
    assert tag.path == ("kind",) and tag.message == 'must be "and" or "or" or "leaf"'
    (kind,) = bounds.at_once(schema_check.errors_of(compiled(json.dumps(schema)), [5]))
    assert kind.message == "must be an object, not a list"


def test_the_errors_are_few_and_the_check_of_the_rest_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = TypeAdapter(list[int] | None).json_schema()
    node = compiled(json.dumps(schema))
    errors = bounds.at_once(schema_check.errors_of(node, ["x"] * 90_000))
    assert len(errors) == MAX_ERRORS
    assert steps_of(schema, ["x"] * 90_000, monkeypatch) < 200


@pytest.mark.parametrize(("annotation", "nested"), BOMBS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_what_the_schema_accepts_the_type_can_check(annotation: Any, nested: Callable[[int], Any]) -> None:
    schema = TypeAdapter(annotation).json_schema()
    node = compiled(json.dumps(schema))
    for depth in range(30 if schema.get("type") != "string" else 0):  # JSON in a string is the type's alone
        value = json.loads(json.dumps(nested(depth)))  # without parts in common
        try:
            valid = not bounds.at_once(schema_check.errors_of(node, value))
        except InvalidInputError:
            return
        assert not (valid and exceeds(annotation, value)), depth


def test_a_check_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_check, "MAX_STEPS", 1000)
    schema = TypeAdapter(list[And | Or | Leaf]).json_schema()
    node = compiled(json.dumps(schema))
    with pytest.raises(InvalidInputError, match="would take too long"):
        bounds.at_once(schema_check.errors_of(node, [{"kind": "leaf", "value": str(n)} for n in range(2000)]))


@pytest.mark.failure(48)
@pytest.mark.threat(17)
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, lambda number: number),
        (dict[str, float | None], lambda number: {"a": number}),
        (list[list[float]], lambda number: [[1], [number]]),
    ],
)
def test_no_integer_becomes_infinity(annotation: Any, value: Callable[[int], Any]) -> None:
    schema = compiled(json.dumps(schemas.describe("a test", annotation)[0]))
    largest = int(sys.float_info.max)
    for number, fits in ((largest, True), (-largest, True), (largest * 2, False), (-(10**400), False)):
        errors = bounds.at_once(schema_check.errors_of(schema, value(number)))
        assert [one.message for one in errors] == ([] if fits else ["is too large for a float"])
        if fits:
            assert bounds.at_once(schemas.parse(annotation, value(number))) == value(number)
        else:
            with pytest.raises(MismatchError, match="too large for a float"):
                bounds.at_once(schemas.parse(annotation, value(number)))
    assert bounds.at_once(schemas.parse(int, 10**400)) == 10**400
