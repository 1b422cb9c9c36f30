"""The complete JSON form of a value: every field, under the name by which its type reads it.

plain.py shows a value as its type wants it shown: a model's own serializers may leave a field out, or mask
it. Where a person decides about a value, or edits it, the form has to be complete. It asks no serializer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

from polos_redis.errors import ConfigurationError
from polos_redis.values import bounds, codec, records, schemas, shapes
from polos_redis.values.bounded_type import MismatchError

_JSON = frozenset((type(None), bool, int, float, str))
_NO_SCHEMAS = {"cls", "config", "metadata", "default", "computed_fields", "serialization"}


def complete_form(value: object, *, floats: bool = False) -> Any:
    """The complete form of a storable value, as plain JSON; with `floats`, nan and inf stay floats.

    Read by its type, it gives an equal value, unless JSON can't express it (bytes that are not UTF-8) or
    validators change what they accept.
    """
    return _form(value, Leaves.FLOATS if floats else Leaves.JSON)


def is_record(value: object) -> bool:
    """Whether a value is a model or a dataclass."""
    return records.kind_of(type(value)) in (records.MODEL, records.DATACLASS)


def fields_of(value: object) -> Any:
    """The complete form of a storable value, but of Python values: only models and dataclasses are dicts."""
    return _form(value, Leaves.PYTHON)


def accept(annotation: Any, value: Any) -> bounds.Work[Any]:
    """Converts a Python value to a type. An instance of the type stays as it is, and any other model or
    dataclass counts as the dict of its fields. Raises as `schemas.parse`."""
    if isinstance(annotation, type) and isinstance(value, annotation):
        return value
    try:
        return (yield from schemas.validate(annotation, value))
    except MismatchError:
        return (yield from schemas.validate(annotation, fields_of(value)))


class Leaves(Enum):
    """What a form is made of: plain JSON, the same but with nan and inf, or Python values."""

    JSON = auto()
    FLOATS = auto()
    PYTHON = auto()


def _form(value: object, leaves: Leaves) -> Any:
    cls = type(value)
    if cls in _JSON:
        return codec.plain(value) if cls is float and leaves is Leaves.JSON else value
    is_json = leaves is not Leaves.PYTHON
    if isinstance(value, list | tuple | set | frozenset):
        return [_form(item, leaves) for item in value]
    if isinstance(value, dict):
        return {_key(key) if is_json else key: _form(item, leaves) for key, item in value.items()}
    kind = records.kind_of(cls)
    if kind == records.ENUM and is_json:
        return _form(value._value_, leaves)  # type: ignore[attr-defined]
    if kind == records.MODEL:
        return _of_model(cls, value, leaves)
    if kind == records.DATACLASS:
        fields = [field.name for field in dataclasses.fields(value) if field.init]  # type: ignore[arg-type]
        return {name: _form(getattr(value, name), leaves) for name in fields}
    return codec.plain(value) if is_json else value


def _of_model(cls: Any, model: Any, leaves: Leaves) -> Any:
    if cls.__pydantic_root_model__:
        return _form(model.root, leaves)
    by_alias = cls.model_config.get("validate_by_alias") is not False
    form = {
        _input_name(name, info) if by_alias else name: _form(model.__dict__[name], leaves)
        for name, info in shapes.model_fields(cls).items()
    }
    return form | {name: _form(extra, leaves) for name, extra in (model.__pydantic_extra__ or {}).items()}


def _input_name(name: str, info: Any) -> str:
    """The name of a field in input, as JSON schemas have it."""
    alias = info.validation_alias
    for one in getattr(alias, "choices", (alias,)):
        path = getattr(one, "path", (one,))
        if len(path) == 1 and isinstance(path[0], str):
            return str(path[0])
    return name


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    (text,) = codec.plain({key: None})
    return str(text)


# --- types ------------------------------------------------------------------------------


def check_type(what: str, annotation: Any) -> None:
    """Raises ConfigurationError, which begins with `what`, for a type whose complete form would show what the
    type hides, or could not be read: a secret, a serializer of the user's own, a field read from inside
    another. The message names the field."""
    schema, _ = schemas.describe(what, annotation)
    for path in _secrets(schema, ()):
        raise ConfigurationError(
            f"{what}: {_field(path)} is secret, but a person has to see what they approve: pass a reference "
            "to the secret instead"
        )
    for path, trouble in _troubles(schemas.core_schema(annotation), ()):
        if trouble == "alias":
            raise ConfigurationError(
                f"{what}: {_field(path)} is read from inside another (AliasPath), so a person can't edit it: "
                "give it a name of its own"
            )
        raise ConfigurationError(
            f"{what}: {_field(path)} has a serializer, so what is shown need not be what a person approves: "
            "take an input type without it"
        )


def excluded_field(value: object) -> str | None:
    """The first field inside a value that a model leaves out of its JSON (`Field(exclude=True)`), as
    `Model.field`; None if there is none."""
    stack = [value]
    while stack:
        item = stack.pop()
        cls: Any = type(item)
        if cls in _JSON:
            continue
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            stack += item
        elif (kind := records.kind_of(cls)) == records.MODEL:
            for name, info in shapes.model_fields(cls).items():
                if info.exclude or getattr(info, "exclude_if", None) is not None:
                    return f"{cls.__name__}.{name}"
            stack += item.__dict__.values()
            stack += (item.__pydantic_extra__ or {}).values()  # type: ignore[attr-defined]
        elif kind == records.DATACLASS:
            stack += [getattr(item, field.name, None) for field in dataclasses.fields(item)]  # type: ignore[arg-type]
    return None


def _field(path: tuple[str, ...]) -> str:
    return f"field {'.'.join(path)!r}" if path else "the type"


def _secrets(schema: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths of the parts of a JSON schema that are only written, never shown."""
    if isinstance(schema, list):
        for part in schema:
            yield from _secrets(part, path)
    if not isinstance(schema, dict):
        return
    if schema.get("writeOnly") is True:
        yield path
    for key, part in schema.items():
        if key == "properties":
            for name, field in part.items():
                yield from _secrets(field, (*path, name))
        elif key == "$defs":
            for name, definition in part.items():
                yield from _secrets(definition, (name,))
        elif key not in ("default", "examples", "const", "enum"):
            yield from _secrets(part, path)


def _troubles(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths inside a pydantic core schema, each with "alias" or "serializer"."""
    if isinstance(node, list | tuple):
        for part in node:
            yield from _troubles(part, path)
    if not isinstance(node, dict):
        return
    if _is_users_serializer(node.get("serialization")):
        yield path, "serializer"
    alias = node.get("validation_alias")
    if isinstance(alias, list):
        paths = alias if isinstance(alias[0], list) else [alias]
        if all(len(one) > 1 for one in paths):
            yield path, "alias"
    for key, part in node.items():
        if key in _NO_SCHEMAS:
            continue
        if key == "definitions":
            for one in part:
                name = getattr(one.get("cls"), "__name__", None)
                yield from _troubles(one, (name,) if name else path)
        elif key == "fields" and isinstance(part, dict):
            for name, field in part.items():
                yield from _troubles(field, (*path, str(name)))
        elif key == "fields":
            for field in part:
                name = str(field.get("name", "")) if isinstance(field, dict) else ""
                yield from _troubles(field, (*path, name))
        else:
            yield from _troubles(part, path)


def _is_users_serializer(serialization: Any) -> bool:
    """Whether a core schema's serialization calls a function that is not pydantic's own."""
    if not isinstance(serialization, dict) or "function" not in serialization:
        return False
    module = getattr(serialization["function"], "__module__", None) or ""
    return module.partition(".")[0] != "pydantic"
