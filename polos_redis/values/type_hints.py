"""Annotations as they were written, with the names in them resolved one annotation at a time.

A name that is imported for type checkers only is undefined at run time. So an annotation that is not needed
is never resolved, and one that can't be resolved spoils no other.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

if sys.version_info >= (3, 14):
    import annotationlib


class Namespaces(NamedTuple):
    """The names that an annotation may use: of its module, of what encloses it, its type parameters."""

    module: dict[str, Any]
    enclosing: Mapping[str, Any] = {}
    type_parameters: tuple[Any, ...] = ()


def resolve(annotation: Any, namespaces: Namespaces) -> Any:
    """Resolve the names in an annotation, at every level; `Annotated` is kept. Raises `NameError`."""

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    if namespaces.type_parameters:
        vars(holder)["__type_params__"] = namespaces.type_parameters
    parameters = {one.__name__: one for one in namespaces.type_parameters}
    names = {**parameters, **namespaces.enclosing}
    return typing.get_type_hints(holder, namespaces.module, names, include_extras=True)["it"]


def resolved(annotation: Any, namespaces: Namespaces) -> Any:
    """As `resolve`, but returns the annotation itself if it can't be resolved."""
    try:
        return resolve(annotation, namespaces)
    except Exception:  # a name is undefined, or the text is no type
        return annotation


def namespaces_of(cls: type) -> Namespaces:
    """The names that the annotations in a class may use. Of its own attributes these are the classes only: a
    field may be named like its type."""
    enclosing = {name: value for name, value in vars(cls).items() if isinstance(value, type)}
    enclosing[cls.__name__] = cls
    return Namespaces(_module(cls), enclosing, getattr(cls, "__type_params__", ()))


def of_class(cls: type) -> dict[str, Any]:
    """The annotations in the body of a class, unresolved."""
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    found: dict[str, Any] = vars(cls).get("__annotations__", {})
    return found


def of_attribute(cls: type, name: str) -> Any:
    """The annotation of a class's attribute, resolved where possible; `Any` if there is none."""
    for base in cls.__mro__[:-1]:
        found = of_class(base)
        if name in found:
            return resolved(found[name], namespaces_of(base))
    return Any


def _module(cls: type) -> dict[str, Any]:
    module = sys.modules.get(cls.__module__)
    return {} if module is None else vars(module)
