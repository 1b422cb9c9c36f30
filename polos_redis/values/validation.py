"""Validation of workflow inputs against their declared types.

pydantic is imported when the first type needs it.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from polos_redis.errors import ConfigurationError, InvalidInputError, ValueTooLargeError
from polos_redis.values import bounds
from polos_redis.values.bounded_type import UNCHECKED, BoundedType, MismatchError


class GeneratedInput:
    """Marker for input the runtime generates: a workflow started by a schedule or event may take no input."""

    __slots__ = ()


def bounded_type(annotation: Any) -> BoundedType | None:
    """The bounded type of an annotation, built once per type at first use; None if it accepts every value.

    Raises ConfigurationError if pydantic can't validate the type.
    """
    if annotation in (None, inspect.Parameter.empty, Any, object):
        return None
    try:
        return _cached(annotation)
    except TypeError:  # unhashable annotations are built each time
        return _build(annotation)


def quickly_validated(annotation: Any, value: object) -> object:
    """The input as its declared type if it is valid and its check is surely short; else UNCHECKED."""
    if type(value) is annotation or annotation is Any:
        return value
    try:
        declared = bounded_type(annotation)
    except ConfigurationError:
        return UNCHECKED
    return value if declared is None else declared.quickly(value)


def validate_input(annotation: Any, value: object, *, workflow_id: str, name: str = "input") -> object:
    """Converts an input, or another value called `name`, to the workflow's declared type.

    Instances of the declared class pass unchanged; a dict (JSON from the CLI or REST) becomes the model or
    dataclass. Raises InvalidInputError naming the workflow and each invalid field, and ValueTooLargeError
    beyond the bounds of values/bounds.py.
    """
    quick = quickly_validated(annotation, value)
    if quick is not UNCHECKED:
        return quick
    return bounds.at_once(validation_of(annotation, value, workflow_id=workflow_id, name=name))


def validation_of(
    annotation: Any, value: object, *, workflow_id: str, name: str = "input"
) -> bounds.Work[object]:
    """As `validate_input`, as work that can be done in turns."""
    try:
        declared = bounded_type(annotation)
    except ConfigurationError as error:
        raise ConfigurationError(f"workflow {workflow_id!r}: {error}") from error.__cause__
    try:
        if declared is None:  # without importing pydantic
            return value
        return (yield from declared.python(value))
    except MismatchError as error:
        fields = "; ".join(
            f"{'.'.join(filter(None, (name, one['field'])))}: {one['message']}" for one in error.errors
        )
        raise InvalidInputError(f"workflow {workflow_id!r}: {fields}") from None
    except (InvalidInputError, ValueTooLargeError) as error:
        raise type(error)(f"workflow {workflow_id!r}: {name}: {error}") from None
    except Exception as error:  # a user's own validator
        raise InvalidInputError(f"workflow {workflow_id!r}: {name}: {error!r}") from error


@functools.lru_cache(maxsize=1024)
def _cached(annotation: Any) -> BoundedType:
    return _build(annotation)


def _build(annotation: Any) -> BoundedType:
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
    return BoundedType(adapter)
