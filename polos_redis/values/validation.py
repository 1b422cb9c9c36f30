"""Validation of workflow inputs against their declared types.

pydantic is imported when the first type needs it.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from polos_redis import failures
from polos_redis.errors import ConfigurationError, InvalidInputError
from polos_redis.values.json_value import JsonValue

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

Validator = Callable[[object], object]


class GeneratedInput:
    """Marker for input the runtime generates: a workflow started by a schedule or event may take no input."""

    __slots__ = ()


_VALIDATORS: dict[Any, Validator] = {}


def validator(annotation: Any) -> Validator:
    """The validator of a declared type, built once per type at first use.

    It converts a value to the type (a dict to the model; instances pass unchanged) or raises pydantic's
    ValidationError. Without an annotation, every value passes. Raises ConfigurationError if pydantic can't
    validate the type.
    """
    if annotation in (None, inspect.Parameter.empty, Any, object):
        return _anything
    try:
        known = _VALIDATORS.get(annotation)
    except TypeError:  # unhashable annotations are built each time
        return _build(annotation)
    if known is None:
        known = _VALIDATORS[annotation] = _build(annotation)
    return known


def validate_input(annotation: Any, value: object, *, workflow_id: str, name: str = "input") -> object:
    """Converts an input, or another value called `name`, to the workflow's declared type.

    Instances of the declared class pass unchanged; a dict becomes the model or dataclass. A `JsonValue`, from
    the CLI or REST, is validated as JSON, so that strict types accept it. Raises InvalidInputError naming the
    workflow and each invalid field.
    """
    if type(value) is annotation:
        return value
    try:
        check = validator(annotation)
    except ConfigurationError as error:
        raise ConfigurationError(f"workflow {workflow_id!r}: {error}") from error.__cause__
    if check is _anything:  # without importing pydantic
        return value.value if isinstance(value, JsonValue) else value
    from pydantic import ValidationError

    try:
        if isinstance(value, JsonValue):
            return json_adapter(annotation).validate_json(json.dumps(value.value))
        return check(value)
    except ValidationError as error:
        fields = "; ".join(
            f"{'.'.join((name, *map(str, e['loc'])))}: {e['msg']}"
            for e in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise InvalidInputError(f"workflow {workflow_id!r}: {fields}") from None
    except BaseException as error:  # a user's own validator may raise anything, SystemExit too
        raise InvalidInputError(f"workflow {workflow_id!r}: {name}: {failures.repr_of(error)}") from error


def _anything(value: object) -> object:
    return value


def adapter(annotation: Any) -> TypeAdapter[Any]:
    """pydantic's adapter of a type; a class that pydantic doesn't know accepts its instances.

    Raises ConfigurationError with pydantic's first reason if it can't validate the type.
    """
    from pydantic import ConfigDict, PydanticUserError

    try:
        return _complete(annotation, None)
    except (PydanticUserError, NameError) as error:
        try:
            return _complete(annotation, ConfigDict(arbitrary_types_allowed=True))
        except (PydanticUserError, NameError):
            why = str(error).partition("\n")[0]  # the rest is pydantic's advice with links
            raise ConfigurationError(f"the type {annotation!r} can't be validated: {why}") from error


def json_adapter(annotation: Any) -> TypeAdapter[Any]:
    """As `adapter`, built once per type."""
    try:
        return _cached_adapter(annotation)
    except TypeError:  # unhashable annotations are built each time
        return adapter(annotation)


@functools.lru_cache(maxsize=256)
def _cached_adapter(annotation: Any) -> TypeAdapter[Any]:
    return adapter(annotation)


def _complete(annotation: Any, config: ConfigDict | None) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    found: TypeAdapter[Any] = TypeAdapter(annotation, config=config)
    if not getattr(found, "pydantic_complete", True):  # a name in the annotation is still undefined
        found.rebuild(raise_errors=True)
    return found


def _build(annotation: Any) -> Validator:
    validate: Validator = adapter(annotation).validate_python
    return validate
