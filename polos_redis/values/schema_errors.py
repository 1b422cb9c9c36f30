"""Errors of a plain JSON answer against the type or JSON schema of its suspension.

If the type is imported, it decides, including its own validators; otherwise the JSON schema does. pydantic
and jsonschema are imported at first use.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

from polos_redis import failures
from polos_redis.values import type_names
from polos_redis.values.schemas import parse

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator
    from pydantic import TypeAdapter

MAX_ERRORS = 50  # errors listed for one answer
MAX_MESSAGE = 300  # characters of a message, which may repeat the answer
MAX_DEPTH = 100  # levels of an answer
TOO_DEEP = {"field": "", "message": f"nested deeper than {MAX_DEPTH} levels"}


def errors_in(schema: dict[str, Any], type_name: str, answer: Any) -> list[dict[str, str]]:
    """The errors of an answer, each as `{"field": ..., "message": ...}`; an empty list if it is valid.

    The field is a path such as `limit.amount`, or "" for the whole answer.
    """
    if _is_too_deep(answer):
        return [TOO_DEEP]
    cls = type_names.find_type(type_name) if type_name else None
    errors = _by_schema(schema, answer) if cls is None else _by_type(cls, answer)
    return [{**error, "message": _shortened(error["message"])} for error in errors[:MAX_ERRORS]]


def _is_too_deep(answer: Any) -> bool:
    level = [answer]
    for _ in range(MAX_DEPTH):
        parts = [
            item.values() if isinstance(item, dict) else item
            for item in level
            if isinstance(item, (dict, list))
        ]
        level = [*itertools.chain.from_iterable(parts)]
    return bool(level)


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + " ..."


def _by_type(cls: type, answer: Any) -> list[dict[str, str]]:
    from pydantic import ValidationError as InvalidAnswer

    try:
        parse(cls, answer)
    except InvalidAnswer as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        return [{"field": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in details]
    except BaseException as error:  # from a user's validator
        return [{"field": "", "message": failures.line_of(error)}]
    return []


def _by_schema(schema: dict[str, Any], answer: Any) -> list[dict[str, str]]:
    from referencing.exceptions import Unresolvable

    try:
        errors = _validator(json.dumps(schema, sort_keys=True)).iter_errors(answer)
        return [_described(error) for error in itertools.islice(errors, MAX_ERRORS)]
    except RecursionError:
        return [TOO_DEEP]
    except Unresolvable as error:
        return [
            {"field": "", "message": f"the schema refers to {error.ref}, but references are never fetched"}
        ]


def _described(error: ValidationError) -> dict[str, str]:
    """Field and message of an error; for a union, those of the member that matches best."""
    from jsonschema.exceptions import best_match

    best = best_match(_of_tagged_member(error)) or error
    path = list(best.absolute_path)
    if best.validator == "required" and isinstance(best.instance, dict):
        required: Any = best.validator_value
        path += [name for name in required if best.message.startswith(repr(name))][:1]
    return {"field": ".".join(map(str, path)), "message": best.message}


def _of_tagged_member(error: ValidationError) -> list[ValidationError]:
    """For a discriminated union, the errors of the member that the answer's tag selects."""
    schema, answer, union = error.schema, error.instance, cast(Any, error.validator_value)
    tags = schema.get("discriminator") if isinstance(schema, dict) else None
    if error.validator == "oneOf" and isinstance(tags, dict) and isinstance(answer, dict):
        member = {"$ref": tags.get("mapping", {}).get(answer.get(tags.get("propertyName")))}
        selected = [one for one in error.context or () if union[one.relative_schema_path[0]] == member]
        return selected or [error]
    return [error]


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Validator:
    from referencing import Registry

    # With an empty registry, jsonschema never fetches what a schema refers to.
    validator: Validator = _dialect()(json.loads(schema), registry=Registry(), format_checker=_formats())
    return validator


@functools.cache
def _dialect() -> Any:
    """JSON schema 2020-12 with linear-time keywords: a hostile answer must not block the event loop."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    def pattern(validator: Any, regex: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not _matches(regex, instance):
            yield ValidationError(f"{instance!r} does not match {regex!r}")

    def unique_items(validator: Any, unique: bool, instance: Any, schema: Any) -> Iterator[ValidationError]:
        items = instance if unique and isinstance(instance, list) else []
        if len({json.dumps(item, sort_keys=True) for item in items}) < len(items):
            yield ValidationError(f"{instance!r} contains an item twice")

    def pattern_properties(
        validator: Any, patterns: dict[str, Any], instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        for key, value in instance.items() if isinstance(instance, dict) else ():
            for regex, subschema in patterns.items():
                if _matches(regex, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=regex)

    keywords = {"pattern": pattern, "uniqueItems": unique_items, "patternProperties": pattern_properties}
    return extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]


def _matches(pattern: str, text: str) -> bool:
    """Whether the text contains the pattern. pydantic's engine decides this in linear time.

    True for a pattern that the engine can't express, such as a lookahead; the type itself checks those.
    """
    from pydantic import ValidationError as NoMatch

    adapter = _pattern(pattern)
    try:
        if adapter is not None:
            adapter.validate_python(text)
    except NoMatch:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _pattern(pattern: str) -> TypeAdapter[str] | None:
    from pydantic import StringConstraints, TypeAdapter
    from pydantic_core import SchemaError

    try:
        return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError:
        return None


@functools.cache
def _formats() -> Any:
    """Checker of the formats in pydantic's schemas, using pydantic's own types."""
    from datetime import date, datetime, time, timedelta
    from uuid import UUID

    from jsonschema import FormatChecker
    from pydantic import AnyUrl, TypeAdapter

    def by_type(annotation: Any) -> Callable[[object], bool]:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)

        def check(value: object) -> bool:
            if isinstance(value, str):
                adapter.validate_json(json.dumps(value))
            return True

        return check

    def email(value: object) -> bool:
        return not isinstance(value, str) or re.fullmatch(r"[^@\s]+@[^@\s]+", value) is not None

    checker = FormatChecker(formats=())
    for name, annotation in {
        "date-time": datetime,
        "date": date,
        "time": time,
        "duration": timedelta,
        "uuid": UUID,
        "uri": AnyUrl,
    }.items():
        checker.checks(name, raises=ValueError)(by_type(annotation))
    checker.checks("email")(email)
    return checker
