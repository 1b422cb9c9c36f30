"""JSON schemas for a model's answers and tool arguments, in the form providers accept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from polos_redis import failures
from polos_redis.errors import ConfigurationError, StoredValueError
from polos_redis.values import schemas
from polos_redis.values.bounded_type import MismatchError
from polos_redis.values.json_text import InvalidJsonError

# The keywords and formats OpenAI's strict mode supports. Others only narrow a value further: they are dropped
# from the schema sent, and still checked here.
_KEYWORDS = {
    *("type", "enum", "const", "anyOf", "$ref", "$defs", "title", "description"),
    *("properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
    *("pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}


@dataclass(frozen=True, slots=True)
class Schema:
    """A named JSON schema; `strict`: the provider can make the model follow it."""

    name: str
    schema: dict[str, Any]
    strict: bool
    description: str = ""


def schema_of(annotation: Any, name: str, what: str, description: str = "") -> Schema:
    """The schema of a model or dataclass in the form providers accept. Raises `ConfigurationError`."""
    plain, _ = schemas.describe(what, annotation)
    root = {**plain, **schemas.resolved(plain)}  # a recursive model's root is a reference
    root.pop("$ref", None)
    strict = _can_be_strict(root)
    return Schema(api_name(name), _to_strict(root) if strict else root, strict, description)


def check_fields(what: str, annotation: Any) -> None:
    """Raise `ConfigurationError` unless a type has named fields, which providers require."""
    if not _has_properties(schemas.describe(what, annotation)[0]):
        raise ConfigurationError(f"{what} must be a pydantic model or a dataclass, not {annotation!r}")


def has_fields(annotation: Any) -> bool:
    """Whether a type has named fields."""
    try:
        return _has_properties(schemas.describe("", annotation)[0])
    except ConfigurationError:
        return False


def _has_properties(schema: dict[str, Any]) -> bool:
    return "properties" in schemas.resolved(schema)


def api_name(name: str) -> str:
    """A name with only the characters the API allows, at most 64."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "_"


def error_text(error: BaseException) -> str:
    """A validation error as one line that tells the model what to correct."""
    if isinstance(error, InvalidJsonError):
        return f"Invalid JSON: {error}"
    return str(error) if isinstance(error, MismatchError | StoredValueError) else failures.line_of(error)


def _parts(schema: dict[str, Any]) -> list[Any]:
    """The schemas directly inside a schema."""
    found = [part for name in ("properties", "$defs") for part in schema.get(name, {}).values()]
    found += [part for name in ("anyOf", "oneOf", "allOf") for part in schema.get(name, [])]
    return [*found, schema["items"]] if "items" in schema else found


def _can_be_strict(schema: Any) -> bool:
    """Whether every object in a schema has only named fields, and every value a type."""
    if not isinstance(schema, dict) or "prefixItems" in schema or len(schema.get("allOf", [])) > 1:
        return False
    if schema.get("type") == "object" and (
        "properties" not in schema or schema.get("additionalProperties", False) is not False
    ):
        return False
    if not {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"} & schema.keys():
        return False
    if schema.get("type") == "array" and "items" not in schema:
        return False
    return all(map(_can_be_strict, _parts(schema)))


def _to_strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema for strict mode: supported keywords only, all fields required, no others allowed."""
    found = {name: value for name, value in schema.items() if name in _KEYWORDS}
    for name in ("oneOf", "allOf"):
        if name in schema:
            found["anyOf"] = schema[name]
    if "$ref" in found and len(found.keys() - {"$defs"}) > 1:  # strict mode allows no siblings of $ref
        found["anyOf"] = [{"$ref": found.pop("$ref")}]
    for name in ("properties", "$defs"):
        if name in found:
            found[name] = {key: _to_strict(part) for key, part in found[name].items()}
    if "anyOf" in found:
        found["anyOf"] = [_to_strict(part) for part in found["anyOf"]]
    if "items" in found:
        found["items"] = _to_strict(found["items"])
    if "properties" in found:
        found |= {"required": list(found["properties"]), "additionalProperties": False}
    if "(?" in str(found.get("pattern", "")):  # no lookaround in strict mode
        del found["pattern"]
    if found.get("format") not in _FORMATS:
        found.pop("format", None)
    return found
