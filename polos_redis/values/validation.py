"""Validation of workflow inputs against their declared types.

pydantic is imported when the first type needs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from polos_redis import failures
from polos_redis.errors import ConfigurationError, InvalidInputError

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

    Instances of the declared class pass unchanged; a dict (JSON from the CLI or REST) becomes the model or
    dataclass. Raises InvalidInputError naming the workflow and each invalid field.
    """
    if type(value) is annotation:
        return value
    try:
        check = validator(annotation)
    except ConfigurationError as error:
        raise ConfigurationError(f"workflow {workflow_id!r}: {error}") from error.__cause__
    if check is _anything:  # without importing pydantic
        return value
    from pydantic import ValidationError

    try:
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


def _build(annotation: Any) -> Validator:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    adapter: TypeAdapter[Any]
    try:
        adapter = TypeAdapter(annotation)
        if not getattr(adapter, "pydantic_complete", True):  # a name in the annotation is still undefined
            adapter.rebuild(raise_errors=True)
    except (PydanticUserError, NameError):
        try:  # a class that pydantic doesn't know: accept its instances
            adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
            if not getattr(adapter, "pydantic_complete", True):
                adapter.rebuild(raise_errors=True)
        except (PydanticUserError, NameError) as error:
            raise ConfigurationError(f"its input type {annotation!r} can't be validated: {error}") from error
    validate: Validator = adapter.validate_python
    return validate
