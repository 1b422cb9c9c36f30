"""Answers to a suspension whose type has changed since it opened.

A plain answer was checked against the schema of that time, and is read by the type of today. What pydantic
refuses then, or what would vanish while another field takes its default, is a stored value that can't be
read: a later deployment may read it. (An answer that is an instance of a class has a shape of its own.)
"""

from __future__ import annotations

import functools
import json
from typing import Any

from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.decisions.answer_types import AnswerTypes
from polos_redis.errors import UnreadableValueError
from polos_redis.values import bounds, codec, schemas, shapes, type_names
from polos_redis.values.changed import problem_in
from polos_redis.values.plain import is_json


def read_answer(stored: bytes, types: AnswerTypes, packed_policy: bytes) -> bounds.Work[Any]:
    """The stored answer as its type, by the policy that the suspension opened with.

    Raises `UnreadableValueError` if the type has changed so that the answer can't be read or would lose a
    field; otherwise as `AnswerTypes.read`.
    """
    before = AnswerPolicy.unpack(packed_policy)
    changed = _schemas_of(types) != (before.schema, before.reject_schema)
    try:
        found = yield from types.read(stored)
    except UnreadableValueError:
        raise
    except Exception as error:
        if not changed:
            raise
        why = f"the answer does not fit its type, which has changed since: {problem_in(error)}"
        raise UnreadableValueError(why) from error
    answer = codec.decode(stored) if changed else None
    lost = ""
    if changed and is_json(answer):
        lost = yield from _lost(answer, before.schema, _schemas_of(types)[0], found)
    if lost:
        raise UnreadableValueError(f"the answer's type has changed since: {lost}")
    return found


def _schemas_of(types: AnswerTypes) -> tuple[Any, Any]:
    schema, _, reject_schema, _ = types.describe("schema")
    as_stored: list[Any] = json.loads(json.dumps([schema, reject_schema]))
    return as_stored[0], as_stored[1]


def _lost(answer: Any, before: Any, now: Any, found: Any) -> bounds.Work[str]:
    """Which fields of a plain answer, at any level, nothing reads now, while new fields beside them have
    their defaults; "" for none.

    `before` and `now` are JSON schemas, `found` is what the answer was read as.
    """
    stack: list[tuple[Any, _Parts, _Parts, Any, str]] = [(answer, _Parts(before), _Parts(now), found, "")]
    while stack:
        value, old, new, read, path = stack.pop()
        yield
        if isinstance(value, list):
            several = isinstance(read, list | tuple) and len(read) == len(value)
            parts = read if several else [None] * len(value)
            stack += [(one, old.items, new.items, part, path) for one, part in zip(value, parts, strict=True)]
        if not isinstance(value, dict):
            continue
        was, fields, names = old.fields, new.fields, _names_in(read)
        if fields and _ignores_others(read):
            unread = [name for name in value if name in was and name not in fields]
            were_set = {names.get(name, name) for name in getattr(read, "model_fields_set", ())}
            added = [one for one in fields if one not in was and one not in value and one not in were_set]
            if unread and added:
                lost, filled = (", ".join(path + name for name in some) for some in (unread, added))
                return f"{lost} would be lost, and {filled} set to a default"
        in_python = {shown: name for name, shown in names.items()}
        for name, one in value.items():
            field = str(in_python.get(name, name))
            part = read.get(name) if isinstance(read, dict) else getattr(read, field, None)
            stack.append((one, old.of(name), new.of(name), part, f"{path}{name}."))
    return ""


class _Parts:
    """The parts of a JSON schema, each made once; of a union, those of all its members."""

    def __init__(self, schema: Any, definitions: Any = None) -> None:
        whole = schema if isinstance(schema, dict) else {}
        self._definitions = whole.get("$defs", definitions or {})
        self._members = schemas.alternatives({**whole, "$defs": self._definitions}) if whole else []

    @functools.cached_property
    def fields(self) -> dict[str, _Parts]:
        """The fields of an object."""
        found: dict[str, _Parts] = {}
        for member in self._members:
            for name, field in schemas.properties(member).items():
                found.setdefault(name, _Parts(field, self._definitions))
        return found

    @functools.cached_property
    def items(self) -> _Parts:
        """The items of a list."""
        return self._inside("items")

    @functools.cached_property
    def others(self) -> _Parts:
        """The values of an object that are no fields."""
        return self._inside("additionalProperties")

    def of(self, name: str) -> _Parts:
        """The value of an object under a name."""
        return self.fields.get(name) or self.others

    def _inside(self, keyword: str) -> _Parts:
        found = [one[keyword] for one in self._members if isinstance(one.get(keyword), dict)]
        return _Parts(found[0] if found else None, self._definitions)


def _names_in(read: Any) -> dict[str, str]:
    """The names that the fields of a model have in JSON."""
    cls = type(read)
    fields = shapes.model_fields(cls) if type_names.is_model(cls) else {}
    return {name: info.alias or name for name, info in fields.items()}


def _ignores_others(read: Any) -> bool:
    """Whether a type drops the fields that it does not declare, as pydantic does unless told otherwise."""
    config = getattr(type(read), "model_config", None) or getattr(type(read), "__pydantic_config__", None)
    return (config or {}).get("extra") is None
