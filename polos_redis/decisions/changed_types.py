"""Answers to a suspension whose type has changed since it opened.

A plain answer was checked against the schema of that time, and is read by the type of today. What pydantic
refuses then, or what would vanish while another field takes its default, is a stored value that can't be
read: a later deployment may read it. (An answer that is an instance of a class has a shape of its own.)
"""

from __future__ import annotations

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
    lost = _lost(codec.decode(stored), before.schema or {}, types, found) if changed else ""
    if lost:
        raise UnreadableValueError(f"the answer's type has changed since: {lost}")
    return found


def _schemas_of(types: AnswerTypes) -> tuple[Any, Any]:
    schema, _, reject_schema, _ = types.describe("schema")
    as_stored: list[Any] = json.loads(json.dumps([schema, reject_schema]))
    return as_stored[0], as_stored[1]


def _lost(answer: Any, before: dict[str, Any], types: AnswerTypes, found: Any) -> str:
    """Which fields of a plain answer nothing reads now, while new fields have their defaults; "" for none."""
    config = getattr(type(found), "model_config", None) or getattr(type(found), "__pydantic_config__", None)
    if not isinstance(answer, dict) or not is_json(answer) or (config or {}).get("extra") is not None:
        return ""
    old, now = schemas.properties(before), schemas.properties(_schemas_of(types)[0] or {})
    unread = [name for name in answer if name in old and name not in now]
    fields = shapes.model_fields(type(found)) if type_names.is_model(type(found)) else {}
    were_set = {
        fields[name].alias or name for name in getattr(found, "model_fields_set", ()) if name in fields
    }
    added = [name for name in now if name not in old and name not in answer and name not in were_set]
    if not unread or not added:
        return ""
    return f"{', '.join(unread)} would be lost, and {', '.join(added)} set to a default"
