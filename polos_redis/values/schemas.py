"""JSON schemas of types, and conversion of JSON to those types.

A schema is created where the type is imported, and stored so that other processes can check answers against
it (schema_check.py). pydantic is imported at first use.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Set
from math import isfinite
from typing import TYPE_CHECKING, Any

from polos_redis import failures
from polos_redis.errors import ConfigurationError, NotStorableError
from polos_redis.values import bounds, type_names
from polos_redis.values.json_text import read_json
from polos_redis.values.plain import not_finite
from polos_redis.values.validation import bounded_type

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema

ZONE = "timeZone"  # keyword of a date-time's schema: false if it must have none
DECIMAL = r"^\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*$"


def describe(what: str, annotation: Any, *, option: str = "schema") -> tuple[dict[str, Any], str]:
    """The JSON schema of a type, and the name under which other processes can find it ("" if they can't).

    Raises `ConfigurationError` for a type without a JSON schema; `what` begins its message.
    """
    try:
        schema = _schema(annotation)
        json.dumps(schema, allow_nan=False)  # a type may add anything to its schema
    except BaseException as error:  # from pydantic, or anything from the type's own hooks
        why = failures.text_of(error).partition("\n")[0]  # the rest is pydantic's advice with links
        raise ConfigurationError(f"{what}: {option}={annotation!r} has no JSON schema: {why}") from error
    name = ""
    if isinstance(annotation, type) and (
        type_names.is_model(annotation) or type_names.is_dataclass(annotation)
    ):
        try:
            name = type_names.type_name(annotation)
        except NotStorableError:
            name = ""
    return schema, name if name and type_names.find_type(name) is annotation else ""


def complete(annotation: Any) -> dict[str, Any]:
    """The JSON schema of values that leave nothing out: every field of a model or dataclass is required, and
    there are no others."""
    return copy.deepcopy(_as_json(_adapter(annotation).json_schema(schema_generator=_complete_generator())))


def core_schema(annotation: Any) -> Any:
    """pydantic's core schema of a type."""
    return _adapter(annotation).core_schema


def validate(annotation: Any, value: Any) -> bounds.Work[Any]:
    """Converts a Python value, parts of which may be JSON, to a type. Raises as `parse`."""
    declared = bounded_type(annotation)
    return value if declared is None else (yield from declared.lax(value))


def parse(annotation: Any, answer: Any) -> bounds.Work[Any]:
    """Converts a plain JSON value to a type. Raises `MismatchError`, and what `BoundedType.json` raises."""
    declared = bounded_type(annotation)
    return answer if declared is None else (yield from declared.json(answer))


def parse_json(annotation: Any, text: str) -> bounds.Work[Any]:
    """Converts JSON text from outside to a type. Raises `InvalidJsonError`, and what `parse` raises."""
    return (yield from parse(annotation, read_json(text)))


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The schemas of an object's fields; `schema` may be a reference to the object's."""
    found = resolved(schema).get("properties", {})
    return found if isinstance(found, dict) else {}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the definition it refers to: a recursive model's schema is only a reference."""
    reference = str(schema.get("$ref", ""))
    if not reference.startswith("#/$defs/"):
        return schema
    found = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    return found if isinstance(found, dict) else {}


def alternatives(schema: dict[str, Any], seen: Set[str] = frozenset()) -> list[dict[str, Any]]:
    """The members of a union, without those that refer back to it; of any other type, its schema alone."""
    reference, found = str(schema.get("$ref", "")), resolved(schema)
    members = found.get("anyOf") or found.get("oneOf")
    if reference in seen or not isinstance(members, list):
        return [] if reference in seen else [found]
    seen, definitions = seen | {reference} if reference else seen, schema.get("$defs", {})
    return [one for member in members for one in alternatives({**member, "$defs": definitions}, seen)]


def sample(schema: dict[str, Any]) -> Any:
    """An example value: the required fields, each with a placeholder of its type."""
    fields = properties(schema)
    if not fields:
        return _SAMPLES.get(str(schema.get("type")))
    required = resolved(schema).get("required", [])
    return {name: _SAMPLES.get(str(fields[name].get("type"))) for name in required if name in fields}


_SAMPLES: dict[str, Any] = {
    "boolean": True,
    "integer": 1,
    "number": 1,
    "string": "...",
    "array": [],
    "object": {},
}


def _schema(annotation: Any) -> dict[str, Any]:
    try:
        return _cached_schema(annotation)
    except TypeError:  # unhashable annotations are not cached
        return _generated(annotation)


def _generated(annotation: Any) -> dict[str, Any]:
    found: dict[str, Any] = _as_json(_adapter(annotation).json_schema(schema_generator=_generator()))
    return found


def _as_json(schema: Any) -> Any:
    """A schema without numbers that JSON lacks: an infinite default becomes its name, an infinite bound is
    left out."""
    if isinstance(schema, dict):
        return {
            name: _as_json(item)
            for name, item in schema.items()
            if name not in _BOUNDS or not isinstance(item, float) or isfinite(item)
        }
    if isinstance(schema, list):
        return [_as_json(item) for item in schema]
    return not_finite(schema) if isinstance(schema, float) and not isfinite(schema) else schema


_BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(annotation)
    except TypeError:
        return _cached_adapter.__wrapped__(annotation)


@functools.lru_cache(maxsize=256)
def _cached_schema(annotation: Any) -> dict[str, Any]:
    return _generated(annotation)


@functools.cache
def _generator() -> type[GenerateJsonSchema]:
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        """pydantic's generator, but decimals have a pattern (it would allow any string), and datetimes say
        if they have no time zone."""

        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            found = super().decimal_schema(schema)
            for one in found.get("anyOf", ()):
                if one.get("type") == "string":
                    one.setdefault("pattern", DECIMAL)
            return found

        def datetime_schema(self, schema: Any) -> dict[str, Any]:
            found = super().datetime_schema(schema)
            return {**found, ZONE: False} if schema.get("tz_constraint") == "naive" else found

    return Generator


@functools.cache
def _complete_generator() -> type[GenerateJsonSchema]:
    class CompleteGenerator(_generator()):  # type: ignore[misc]
        """All fields of models and dataclasses are required, and there are no others."""

        def field_is_required(self, field: Any, total: bool) -> bool:
            if field["type"] == "typed-dict-field":
                return bool(super().field_is_required(field, total))
            return field.get("init") is not False

        def model_schema(self, schema: Any) -> dict[str, Any]:
            return _without_others(super().model_schema(schema))

        def dataclass_schema(self, schema: Any) -> dict[str, Any]:
            return _without_others(super().dataclass_schema(schema))

    return CompleteGenerator


def _without_others(schema: dict[str, Any]) -> dict[str, Any]:
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


@functools.lru_cache(maxsize=256)
def _cached_adapter(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)
