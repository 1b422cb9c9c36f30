"""Types of answers as JSON schemas: made where the workflow runs, checked anywhere.

Where the type itself is imported it has the last word, its own validators included; elsewhere the JSON
schema has.
pydantic and jsonschema are imported by the first use.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

from polos_redis.errors import ConfigurationError, NotStorableError
from polos_redis.values import type_names

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema

MOST_ERRORS = 50  # that one refusal tells
LONGEST_MESSAGE = 300  # characters: it may repeat what was given
DECIMAL = r"^\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*$"
DEEPEST = 100  # levels of an answer
TOO_DEEP = {"field": "", "message": f"nested deeper than {DEEPEST} levels"}


def describe(what: str, annotation: Any) -> tuple[dict[str, Any], str]:
    """The JSON schema of a type, and its name in the store ("" when other processes can't find it).

    Raises `ConfigurationError` for what has none.
    """
    try:
        schema = _schema(annotation)
        json.dumps(schema)  # a type may add to it what it likes
    except Exception as error:  # pydantic's several, and those of the type's own hooks
        why = str(error).partition("\n")[0]  # pydantic goes on with advice and addresses
        raise ConfigurationError(f"{what}: schema={annotation!r} has no JSON schema: {why}") from error
    name = ""
    if isinstance(annotation, type) and (
        type_names.is_model(annotation) or type_names.is_dataclass(annotation)
    ):
        try:
            name = type_names.type_name(annotation)
        except NotStorableError:
            name = ""
    return schema, name if name and type_names.find_type(name) is annotation else ""


def parse(annotation: Any, answer: Any) -> Any:
    """A plain JSON answer as the type wants it. Raises pydantic's ValidationError."""
    return parse_json(annotation, json.dumps(answer))


def parse_json(annotation: Any, text: str) -> Any:
    """JSON as the type wants it. Raises pydantic's ValidationError."""
    return _adapter(annotation).validate_json(text)


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The fields of an object's schema, behind a reference too."""
    found = resolved(schema).get("properties", {})
    return found if isinstance(found, dict) else {}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """What a schema that is but a reference, as that of a recursive model, refers to."""
    reference = str(schema.get("$ref", ""))
    if not reference.startswith("#/$defs/"):
        return schema
    found = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    return found if isinstance(found, dict) else {}


def sample(schema: dict[str, Any]) -> Any:
    """What an answer looks like: the fields that are needed, with a value of about their type."""
    fields = properties(schema)
    if not fields:
        return _SAMPLES.get(str(schema.get("type")))
    needed = resolved(schema).get("required", [])
    return {name: _SAMPLES.get(str(fields[name].get("type"))) for name in needed if name in fields}


_SAMPLES: dict[str, Any] = {
    "boolean": True,
    "integer": 1,
    "number": 1,
    "string": "...",
    "array": [],
    "object": {},
}


def errors_in(schema: dict[str, Any], type_name: str, answer: Any) -> list[dict[str, str]]:
    """What is wrong with a plain JSON answer: field ("" for the whole) and message; empty when it fits."""
    if _is_deep(answer):
        return [TOO_DEEP]
    known = type_names.find_type(type_name) if type_name else None
    found = _by_schema(schema, answer) if known is None else _by_type(known, answer)
    return [{**one, "message": _shortened(one["message"])} for one in found[:MOST_ERRORS]]


def _is_deep(answer: Any) -> bool:
    level = [answer]
    for _ in range(DEEPEST):
        parts = [
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))
        ]
        level = [*itertools.chain.from_iterable(parts)]
    return bool(level)


def _shortened(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + " ..."


def _by_type(cls: type, answer: Any) -> list[dict[str, str]]:
    from pydantic import ValidationError as Refusal

    try:
        parse(cls, answer)
    except Refusal as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [{"field": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in found]
    except Exception as error:  # a validator of the user's own
        return [{"field": "", "message": f"{type(error).__name__}: {error}"}]
    return []


def _by_schema(schema: dict[str, Any], answer: Any) -> list[dict[str, str]]:
    from referencing.exceptions import Unresolvable

    try:
        errors = _validator(json.dumps(schema, sort_keys=True)).iter_errors(answer)
        return [_told(error) for error in itertools.islice(errors, MOST_ERRORS)]
    except RecursionError:
        return [TOO_DEEP]
    except Unresolvable as error:
        return [
            {"field": "", "message": f"the schema refers to {error.ref}, and nothing is fetched from there"}
        ]


def _told(error: ValidationError) -> dict[str, str]:
    """What is wrong, and in which field: of several possibilities that which fits best."""
    from jsonschema.exceptions import best_match

    best = best_match(_meant(error)) or error
    path = list(best.absolute_path)
    if best.validator == "required" and isinstance(best.instance, dict):
        needed: Any = best.validator_value
        path += [name for name in needed if best.message.startswith(repr(name))][:1]
    return {"field": ".".join(map(str, path)), "message": best.message}


def _meant(error: ValidationError) -> list[ValidationError]:
    """Of a union whose members have a tag, what is wrong with the member that was meant."""
    schema, answer, union = error.schema, error.instance, cast(Any, error.validator_value)
    tags = schema.get("discriminator") if isinstance(schema, dict) else None
    if error.validator == "oneOf" and isinstance(tags, dict) and isinstance(answer, dict):
        member = {"$ref": tags.get("mapping", {}).get(answer.get(tags.get("propertyName")))}
        found = [one for one in error.context or () if union[one.relative_schema_path[0]] == member]
        return found or [error]
    return [error]


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Validator:
    from referencing import Registry

    # An empty registry: nothing that a schema refers to is ever fetched.
    made: Validator = _dialect()(json.loads(schema), registry=Registry(), format_checker=_formats())
    return made


@functools.cache
def _dialect() -> Any:
    """JSON schema, but in linear time whatever the answer is: one person's answer must not hold up others."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    def pattern(validator: Any, wanted: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not _matches(wanted, instance):
            yield ValidationError(f"{instance!r} does not match {wanted!r}")

    def unique_items(validator: Any, wanted: bool, instance: Any, schema: Any) -> Iterator[ValidationError]:
        found = instance if wanted and isinstance(instance, list) else []
        if len({json.dumps(one, sort_keys=True) for one in found}) < len(found):
            yield ValidationError(f"{instance!r} has the same item twice")

    def pattern_properties(
        validator: Any, wanted: dict[str, Any], instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        for key, part in instance.items() if isinstance(instance, dict) else ():
            for one, below in wanted.items():
                if _matches(one, key):
                    yield from validator.descend(part, below, path=key, schema_path=one)

    keywords = {"pattern": pattern, "uniqueItems": unique_items, "patternProperties": pattern_properties}
    return extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]


def _matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text, by pydantic's engine, which takes linear time. One that it does
    not know (lookahead, say) is left to the type itself."""
    from pydantic import ValidationError as Refusal

    adapter = _pattern(pattern)
    try:
        if adapter is not None:
            adapter.validate_python(text)
    except Refusal:
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
    """The formats that pydantic's schemas name, checked by pydantic's own types."""
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


def _schema(annotation: Any) -> dict[str, Any]:
    try:
        return _kept_schema(annotation)
    except TypeError:  # an annotation that can't be hashed is looked at each time
        return _adapter(annotation).json_schema(schema_generator=_generator())


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _kept_adapter(annotation)
    except TypeError:
        return _kept_adapter.__wrapped__(annotation)


@functools.lru_cache(maxsize=256)
def _kept_schema(annotation: Any) -> dict[str, Any]:
    return _adapter(annotation).json_schema(schema_generator=_generator())


@functools.cache
def _generator() -> type[GenerateJsonSchema]:
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        """As pydantic's, but not every text is a decimal number."""

        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            found = super().decimal_schema(schema)
            for one in found.get("anyOf", ()):
                if one.get("type") == "string":
                    one.setdefault("pattern", DECIMAL)
            return found

    return Generator


@functools.lru_cache(maxsize=256)
def _kept_adapter(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)
