"""Converts a suspension's `_form` to a JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polos_redis.server.pages.field_builder import MAX_FIELDS
from polos_redis.server.pages.schema_reader import Schema, option_label

_FIELD_SCHEMAS: dict[str, Schema] = {
    "text": {"type": "string", "format": "text", "maxLength": None},
    "textarea": {"type": "string", "format": "textarea"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "checkbox": {"type": "boolean", "default": False},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "date-time"},
    "email": {"type": "string", "format": "email"},
    "url": {"type": "string", "format": "uri"},
}


def schema_of_form(form: Any, *, decides: bool = False) -> Schema | None:
    """Returns the schema of a `_form`; None if it declares no fields. With `decides`, adds a missing property
    `approved`. Never fails: a field of unknown type becomes a text."""
    declared = form.get("fields") if isinstance(form, Mapping) else None
    if not isinstance(declared, list):
        return None
    properties: dict[str, Schema] = {}
    required = []
    for field in declared[:MAX_FIELDS]:
        name = field.get("name") if isinstance(field, Mapping) else None
        if not isinstance(name, str) or not name:
            continue
        properties[name] = _field_schema(field)
        if field.get("required") is True:
            required.append(name)
    if not properties:
        return None
    if decides and "approved" not in properties:
        properties["approved"] = {"type": "boolean"}
        required.append("approved")
    return {"type": "object", "properties": properties, "required": required}


def _field_schema(field: Mapping[str, Any]) -> Schema:
    kind = field.get("type")
    schema = dict(_FIELD_SCHEMAS.get(kind if isinstance(kind, str) else "text", _FIELD_SCHEMAS["text"]))
    options = field.get("options")
    if isinstance(options, list) and options and kind in ("select", "radio", None):
        schema = {"oneOf": [_option_schema(option) for option in options]}
    if kind == "checkbox" and field.get("required") is True:
        schema = {"const": True}
    for key, keyword in (("label", "title"), ("description", "description")):
        if isinstance(field.get(key), str):
            schema[keyword] = field[key]
    if field.get("default") is not None:
        schema["default"] = field["default"]
        if "type" in schema and kind != "checkbox" and field.get("required") is not True:
            schema["type"] = [schema["type"], "null"]  # prefilled, but may be cleared
    return schema


def _option_schema(option: Any) -> Schema:
    if isinstance(option, Mapping) and "value" in option:
        label = option.get("label")
        return {
            "const": option["value"],
            "title": str(label) if label is not None else option_label(option["value"]),
        }
    return {"const": option, "title": option_label(option)}
