"""Errors of a plain JSON answer against the type or JSON schema of its suspension.

If the type is imported, it decides, including its own validators; otherwise the JSON schema does. Both are
bounded, because answers come from outside: see bounded_type.py and schema_check.py. pydantic is imported at
first use.
"""

from __future__ import annotations

import json
from typing import Any

from polos_redis import failures
from polos_redis.errors import InvalidInputError, ValueTooLargeError
from polos_redis.values import bounds, schema_check, type_names
from polos_redis.values.bounded_type import MAX_FIELD, MAX_MESSAGE, MismatchError, shortened
from polos_redis.values.schema_nodes import compiled
from polos_redis.values.validation import bounded_type


def errors_in(schema: dict[str, Any], type_name: str, answer: Any) -> bounds.Work[list[dict[str, str]]]:
    """The errors of an answer, each as `{"field": ..., "message": ...}`; an empty list if it is valid.

    The field is a path such as `limit.amount`, or "" for the whole answer. There are at most 50 errors, with
    messages of at most 300 characters.
    """
    cls = type_names.find_type(type_name) if type_name else None
    try:
        bounds.parts_of(answer)
        return (yield from _by_schema(schema, answer) if cls is None else _by_type(cls, answer))
    except (InvalidInputError, ValueTooLargeError) as error:
        return [{"field": "", "message": str(error)}]


def _by_type(cls: type, answer: Any) -> bounds.Work[list[dict[str, str]]]:
    declared = bounded_type(cls)
    assert declared is not None  # a model or a dataclass
    try:
        yield from declared.json(answer)
    except MismatchError as error:
        return error.errors
    except (InvalidInputError, ValueTooLargeError):
        raise
    except Exception as error:  # from a user's validator
        return [{"field": "", "message": shortened(failures.line_of(error), MAX_MESSAGE)}]
    return []


def _by_schema(schema: dict[str, Any], answer: Any) -> bounds.Work[list[dict[str, str]]]:
    node = compiled(json.dumps(schema, sort_keys=True))
    errors = yield from schema_check.errors_of(node, answer)
    return [
        {
            "field": shortened(".".join(map(str, error.path)), MAX_FIELD),
            "message": shortened(error.message, MAX_MESSAGE),
        }
        for error in errors
    ]
