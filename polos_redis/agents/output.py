"""The JSON schemas that a model is held to (its answer, the arguments of tools), and the check of what it has
written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from polos_redis.errors import ConfigurationError
from polos_redis.values import schemas

# What the strict mode of OpenAI's API knows. The rest only says more closely what a value looks like: it is
# left out there, and checked here all the same.
_WORDS = {
    *("type", "enum", "const", "anyOf", "$ref", "$defs", "title", "description"),
    *("properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
    *("pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON schema by a name; `strict`: the provider can hold the model to it."""

    name: str
    schema: dict[str, Any]
    strict: bool
    description: str = ""


def schema_of(annotation: Any, name: str, what: str, description: str = "") -> Schema:
    """The schema of a model or dataclass as a provider wants it. Raises `ConfigurationError`."""
    plain, _ = schemas.describe(what, annotation)
    root = {**plain, **schemas.resolved(plain)}  # a recursive model's is but a reference to itself
    root.pop("$ref", None)
    strict = _can_be_strict(root)
    return Schema(plain_name(name), _strictly(root) if strict else root, strict, description)


def check_fields(what: str, annotation: Any) -> None:
    """Refuse what is not a model or dataclass: a provider wants named fields. Raises `ConfigurationError`."""
    plain, _ = schemas.describe(what, annotation)
    if "properties" not in schemas.resolved(plain):
        raise ConfigurationError(f"{what} is a pydantic model or a dataclass, not {annotation!r}")


def plain_name(name: str) -> str:
    """A name as the API takes it."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "_"


def complaints(error: BaseException) -> str:
    """What is wrong with something that a model has written, for it to mend."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}" for one in found)


def _parts(schema: dict[str, Any]) -> list[Any]:
    """The schemas inside a schema."""
    found = [part for name in ("properties", "$defs") for part in schema.get(name, {}).values()]
    found += [part for name in ("anyOf", "oneOf", "allOf") for part in schema.get(name, [])]
    return [*found, schema["items"]] if "items" in schema else found


def _can_be_strict(schema: Any) -> bool:
    """Whether every object in it has named fields only, and everything in it a type."""
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


def _strictly(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema in the words of strict mode: every field is required, no other is allowed."""
    found = {name: value for name, value in schema.items() if name in _WORDS}
    for name in ("oneOf", "allOf"):  # there is one of those at the most
        if name in schema:
            found["anyOf"] = schema[name]
    if "$ref" in found and len(found.keys() - {"$defs"}) > 1:  # a reference stands alone
        found["anyOf"] = [{"$ref": found.pop("$ref")}]
    for name in ("properties", "$defs"):
        if name in found:
            found[name] = {key: _strictly(part) for key, part in found[name].items()}
    if "anyOf" in found:
        found["anyOf"] = [_strictly(part) for part in found["anyOf"]]
    if "items" in found:
        found["items"] = _strictly(found["items"])
    if "properties" in found:
        found |= {"required": list(found["properties"]), "additionalProperties": False}
    if "(?" in str(found.get("pattern", "")):  # it knows of no lookahead
        del found["pattern"]
    if found.get("format") not in _FORMATS:
        found.pop("format", None)
    return found
