"""The complete JSON form of a value: every field, under the name by which its type reads it.

plain.py shows a value as its type wants it shown: a model's own serializers may leave a field out, or mask
it. Where a person decides about a value, or edits it, the form has to be complete. It asks no serializer.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
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


def hidden_part(value: object, shown: object) -> str | None:
    """Says which part of a value people don't see, a model's field or an entry of a dict; None if they see
    all. `shown` is the value with models and dataclasses as the dicts that people see.

    A model hides a field if JSON excludes it, if a serializer or `model_dump` leaves it out, if another field
    has its name in JSON, and if its class is derived from the declared one, of which JSON has the fields
    only. A dict hides an entry if another key is the same text. A field that is shown as another value, such
    as a mask, is shown.
    """
    stack = [(value, shown)]
    while stack:
        item, seen = stack.pop()
        cls: Any = type(item)
        if cls in _JSON:
            continue
        kind = records.kind_of(cls)
        if isinstance(item, dict):
            if not all(type(key) is str for key in item):
                texts = Counter(map(_key, item))
                twice = next((key for key, count in texts.items() if count > 1), None)
                if twice is not None:
                    return f"two keys that are both shown as {twice!r}"
            for key, one in item.items():
                stack += [(key, _UNSEEN), (one, _seen(seen, key, _key(key)))]
        elif isinstance(item, list | tuple) and isinstance(seen, list | tuple) and len(item) == len(seen):
            stack += zip(item, seen, strict=True)
        elif isinstance(item, list | tuple | set | frozenset):
            stack += [(one, _UNSEEN) for one in item]
        elif kind == records.MODEL:
            hidden = _hidden_field(item, codec.plain(item) if seen is _UNSEEN else seen, stack)
            if hidden is not None:
                return f"{cls.__name__}.{hidden}, which is not in its JSON"
        elif kind == records.DATACLASS:
            names = [field.name for field in dataclasses.fields(item)]  # type: ignore[arg-type]
            stack += [(getattr(item, name, None), _seen(seen, name)) for name in names]
    return None


_UNSEEN = object()  # of what a person sees of a value, whatever that is


def _seen(seen: object, *names: Any) -> Any:
    """What a person sees of a part that has one of these names."""
    found = [seen[name] for name in names if name in seen] if isinstance(seen, dict) else []
    return found[0] if found else _UNSEEN


def _hidden_field(model: Any, seen: Any, stack: list[tuple[Any, Any]]) -> str | None:
    """The first field of a model that `seen`, the model as shown, does not have. Adds the others' values to
    the stack. A model that its type shows as something else than an object, such as a text, is shown."""
    cls = type(model)
    if cls.__pydantic_root_model__:
        stack.append((model.root, seen))
        return None
    extra = model.__pydantic_extra__ or {}
    shown_as = {name: name for name in extra}
    for name, info in {**cls.model_computed_fields, **shapes.model_fields(cls)}.items():
        if getattr(info, "exclude", None) or getattr(info, "exclude_if", None) is not None:
            return str(name)
        alias = getattr(info, "serialization_alias", None) or info.alias
        shown_as[name] = name if not alias or (isinstance(seen, dict) and name in seen) else alias
    if isinstance(seen, dict):
        names = Counter(shown_as.values())
        for name in [*shapes.model_fields(cls), *extra]:
            if shown_as[name] not in seen or names[shown_as[name]] > 1:
                return str(name)
    values = {**model.__dict__, **extra}
    stack += [(values[name], _seen(seen, text)) for name, text in shown_as.items() if name in values]
    return None


def secret_field(annotation: Any) -> str | None:
    """Names the first field of a type that is secret, as `SecretStr`; None if there is none, or if the type
    has no JSON schema to say so."""
    try:
        schema, _ = schemas.describe("it", annotation)
    except ConfigurationError:
        return None
    return next((_field(path) for path in _secrets(schema, ())), None)


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
