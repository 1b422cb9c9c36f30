"""Validation of workflow inputs against their declared types.

pydantic is imported when the first type needs it.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from polos_redis import failures
from polos_redis.errors import ConfigurationError, InvalidInputError, ValueTooLargeError
from polos_redis.values import bounds
from polos_redis.values.bounded_type import UNCHECKED, BoundedType, MismatchError
from polos_redis.values.json_value import JsonValue

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter


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
    if isinstance(value, JsonValue):
        return UNCHECKED
    if type(value) is annotation or annotation is Any:
        return value
    try:
        declared = bounded_type(annotation)
    except ConfigurationError:
        return UNCHECKED
    return value if declared is None else declared.quickly(value)


def validate_input(annotation: Any, value: object, *, workflow_id: str, name: str = "input") -> object:
    """Converts an input, or another value called `name`, to the workflow's declared type.

    Instances of the declared class pass unchanged; a dict becomes the model or dataclass. A `JsonValue`, from
    the CLI or REST, is validated as JSON, so that strict types accept it. Raises InvalidInputError naming the
    workflow and each invalid field, and ValueTooLargeError beyond the bounds of values/bounds.py.
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
    is_json = isinstance(value, JsonValue)
    plain = value.value if isinstance(value, JsonValue) else value
    try:
        if declared is None:  # without importing pydantic
            return plain
        return (yield from declared.json(plain) if is_json else declared.python(plain))
    except MismatchError as error:
        fields = "; ".join(
            f"{'.'.join(filter(None, (name, one['field'])))}: {one['message']}" for one in error.errors
        )
        raise InvalidInputError(f"workflow {workflow_id!r}: {fields}") from None
    except (InvalidInputError, ValueTooLargeError) as error:
        raise type(error)(f"workflow {workflow_id!r}: {name}: {error}") from None
    except Exception as error:  # a user's own validator
        raise InvalidInputError(f"workflow {workflow_id!r}: {name}: {failures.repr_of(error)}") from error


@functools.lru_cache(maxsize=1024)
def _cached(annotation: Any) -> BoundedType:
    return _build(annotation)


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


def _complete(annotation: Any, config: ConfigDict | None) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    found: TypeAdapter[Any] = TypeAdapter(annotation, config=config)
    if not getattr(found, "pydantic_complete", True):  # a name in the annotation is still undefined
        found.rebuild(raise_errors=True)
    return found


def _build(annotation: Any) -> BoundedType:
    return BoundedType(adapter(annotation))
