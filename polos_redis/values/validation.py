"""Workflow inputs, checked against the declared type where they come in.

pydantic is imported by the first check that needs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from polos_redis.errors import ConfigurationError, InvalidInputError

Validator = Callable[[object], object]


class GeneratedInput:
    """An input that nobody wrote: what a schedule or an event begins a workflow with, which may take none."""

    __slots__ = ()


_VALIDATORS: dict[Any, Validator] = {}


def validator(annotation: Any) -> Validator:
    """The check of one declared type, built at its first use and once per type.

    It returns the value as the type wants it (a dict becomes the model, an instance stays itself), or
    raises pydantic's ValidationError; ConfigurationError if there is no way to check that type. Without
    an annotation everything passes.
    """
    if annotation in (None, inspect.Parameter.empty, Any, object):
        return _anything
    try:
        known = _VALIDATORS.get(annotation)
    except TypeError:  # an annotation that can't be hashed is built each time
        return _build(annotation)
    if known is None:
        known = _VALIDATORS[annotation] = _build(annotation)
    return known


def validate_input(annotation: Any, value: object, *, workflow_id: str, name: str = "input") -> object:
    """The input (or what else goes by a `name`) as the workflow's declared type wants it.

    An instance of the declared class is returned as it is; a dict (JSON from the CLI or REST) becomes the
    model or dataclass. Raises InvalidInputError naming the workflow and each field that does not fit.
    """
    if type(value) is annotation:
        return value
    try:
        check = validator(annotation)
    except ConfigurationError as error:
        raise ConfigurationError(f"workflow {workflow_id!r}: {error}") from error.__cause__
    if check is _anything:  # then pydantic need not be imported
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
    except Exception as error:  # a user's own validator
        raise InvalidInputError(f"workflow {workflow_id!r}: {name}: {error!r}") from error


def _anything(value: object) -> object:
    return value


def _build(annotation: Any) -> Validator:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    adapter: TypeAdapter[Any]
    try:
        adapter = TypeAdapter(annotation)
        if not getattr(adapter, "pydantic_complete", True):  # a name in the annotation is not known yet
            adapter.rebuild(raise_errors=True)
    except (PydanticUserError, NameError):
        try:  # a class pydantic knows nothing of: an instance of it will do
            adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
            if not getattr(adapter, "pydantic_complete", True):
                adapter.rebuild(raise_errors=True)
        except (PydanticUserError, NameError) as error:
            raise ConfigurationError(f"its input type {annotation!r} can't be checked: {error}") from error
    validate: Validator = adapter.validate_python
    return validate
