"""The JSON schemas that a model is held to (its answer, the arguments of tools), and the check of what it has
written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from polos_redis import schemas

# What the strict mode of OpenAI's API refuses, and a model can do without.
_DROPPED = ("default", "discriminator", "uniqueItems")


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
    strict = _can_be_strict(plain)
    return Schema(plain_name(name), _strictly(plain) if strict else plain, strict, description)


def plain_name(name: str) -> str:
    """A name as the API takes it."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "_"


def complaints(error: Exception) -> str:
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
    if not isinstance(schema, dict) or "prefixItems" in schema:
        return False
    if schema.get("type") == "object" and (
        not schema.get("properties") or schema.get("additionalProperties", False) is not False
    ):
        return False
    if not {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"} & schema.keys():
        return False
    if schema.get("type") == "array" and "items" not in schema:
        return False
    return all(_can_be_strict(part) for part in _parts(schema))


def _strictly(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema in the words of strict mode: every field is required, no other is allowed."""
    found = {name: value for name, value in schema.items() if name not in _DROPPED}
    if "oneOf" in found:
        found["anyOf"] = found.pop("oneOf")
    for name in ("properties", "$defs"):
        if name in found:
            found[name] = {key: _strictly(part) for key, part in found[name].items()}
    for name in ("anyOf", "allOf"):
        if name in found:
            found[name] = [_strictly(part) for part in found[name]]
    if "items" in found:
        found["items"] = _strictly(found["items"])
    if "properties" in found:
        found |= {"required": list(found["properties"]), "additionalProperties": False}
    if "(?" in str(found.get("pattern", "")):  # it knows of no lookahead
        del found["pattern"]
    if "$ref" in found and len(found.keys() - {"$defs"}) > 1:  # a reference stands alone
        found["anyOf"] = [{"$ref": found.pop("$ref")}]
    return found
