"""Converts the form that a suspension declares, or the `_form` in its data, to a JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polos_redis.server.pages.field_builder import APPROVED, MAX_FIELDS, MAX_HELP, MAX_LABEL, MAX_NAME
from polos_redis.server.pages.labels import cut
from polos_redis.server.pages.schema_reader import Schema, option_label

MAX_OPTIONS = 500  # of one field
MAX_DEFAULT = 10_000  # characters; a longer one is not filled in

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


def form_in_data(suspension: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the form that the data of a suspension declares; None if its code declares a form or a
    schema."""
    if suspension.get("schema") is not None or suspension.get("form") is not None:
        return None
    data = suspension.get("data")
    found = suspension.get("data_form") or (data.get("_form") if isinstance(data, Mapping) else None)
    return found if isinstance(found, Mapping) else None


def schema_of_form(form: Any, *, decides: bool = False) -> Schema | None:
    """Returns the schema of a declared form; None if it declares no fields. With `decides`, adds a missing
    property `approved`. Never fails: a field of unknown type becomes a text, and what is too long is cut or
    left out.

    A field `approved` is only a boolean, whatever else it declares: the buttons Approve and Reject set it.
    """
    declared = form.get("fields") if isinstance(form, Mapping) else None
    if not isinstance(declared, list):
        return None
    properties: dict[str, Schema] = {}
    required = []
    for field in declared[:MAX_FIELDS]:
        name = field.get("name") if isinstance(field, Mapping) else None
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            continue
        properties[name] = {"type": "boolean"} if name == APPROVED else _field_schema(field)
        if name == APPROVED or field.get("required") is True:
            required.append(name)
    if not properties:
        return None
    if decides and APPROVED not in properties:
        properties[APPROVED] = {"type": "boolean"}
        required.append(APPROVED)
    return {"type": "object", "properties": properties, "required": required}


def _field_schema(field: Mapping[str, Any]) -> Schema:
    kind = field.get("type")
    schema = dict(_FIELD_SCHEMAS.get(kind if isinstance(kind, str) else "text", _FIELD_SCHEMAS["text"]))
    options = field.get("options")
    if isinstance(options, list) and options and kind in ("select", "radio", None):
        schema = {"oneOf": [_option_schema(option) for option in options[:MAX_OPTIONS]]}
    if kind == "checkbox" and field.get("required") is True:
        schema = {"const": True}
    for key, keyword, longest in (("label", "title", MAX_LABEL), ("description", "description", MAX_HELP)):
        if isinstance(field.get(key), str):
            schema[keyword] = cut(field[key], longest)
    default = field.get("default")
    if default is not None and not _is_long(default):
        schema["default"] = default
        if "type" in schema and kind != "checkbox" and field.get("required") is not True:
            schema["type"] = [schema["type"], "null"]  # prefilled, but may be cleared
    return schema


def _is_long(default: Any) -> bool:
    return isinstance(default, dict | list) or (isinstance(default, str) and len(default) > MAX_DEFAULT)


def _option_schema(option: Any) -> Schema:
    if isinstance(option, Mapping) and "value" in option:
        label = option.get("label")
        shown = str(label) if isinstance(label, str | int | float) else option_label(option["value"])
        return {"const": option["value"], "title": cut(shown, MAX_LABEL)}
    return {"const": option, "title": cut(option_label(option), MAX_LABEL)}
