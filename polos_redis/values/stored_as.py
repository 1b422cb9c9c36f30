"""`@stored_as`: the name under which values of a class are stored, wherever the class is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from polos_redis.errors import ConfigurationError
from polos_redis.values import type_names

C = TypeVar("C", bound=type)

_NAME = re.compile(r"[^\s:#\[\],]+:[^\s:#\[\],]+")
_MAX_NAME = 200  # characters


def stored_as(name: str, *earlier: str) -> Callable[[C], C]:
    """Fixes the name under which values of a class are stored, so that it can be moved or renamed.

    A decorator for pydantic models, dataclasses (above `@dataclass`) and enums. A class without it is stored
    as `module:Class`; after it was moved, give it this name. Values are also found under the class's present
    `module:Class`, and under `earlier` names. Subclasses have their own names. The name of a generic model is
    that of all its parametrised forms. For example, put `@stored_as("shop:Order")` above a class `Order` that
    has left the module `shop`.

    Raises `ConfigurationError` for a name of another form, one that another class has, a class whose values
    are not stored by a name, and a class inside a function.
    """
    names = (name, *earlier)
    for one in names:
        if not (
            isinstance(one, str) and len(one) <= _MAX_NAME and one.isprintable() and _NAME.fullmatch(one)
        ):
            raise ConfigurationError(
                f"stored_as({one!r}): a name is 'module:Class' of at most {_MAX_NAME} printable characters, "
                "without spaces, '#', commas and brackets"
            )

    def give(cls: C) -> C:
        _check_kind(cls, name)
        for one in names:
            _check_free(cls, one)
        type_names.give_names(cls, names)
        return cls

    return give


def _check_kind(cls: Any, name: str) -> None:
    if not isinstance(cls, type):
        raise ConfigurationError(f"stored_as({name!r}) decorates a class, not {cls!r}")
    start = f"stored_as({name!r}) of {cls.__qualname__}"
    if not (type_names.is_model(cls) or type_names.is_dataclass(cls) or type_names.is_enum(cls)):
        raise ConfigurationError(
            f"{start}: only pydantic models, dataclasses and enums are stored by a name; put it above "
            "@dataclass"
        )
    if "[" in cls.__qualname__:
        raise ConfigurationError(f"{start}: give the name to the generic model, not to one of its forms")
    if "<locals>" in cls.__qualname__:
        raise ConfigurationError(
            f"{start}: the class is defined inside a function, where other processes can't find it; move it "
            "to module level"
        )


def _check_free(cls: type, name: str) -> None:
    """Whether no other class has the name. The same class may come again, when its module is reloaded or
    imported under two names."""
    known = type_names.find_type(name)
    if known is None or known is cls or type_names.is_same_source(known, cls):
        return
    if name in type_names.given_names(known) or type_names.type_name(known) == name:
        raise ConfigurationError(
            f"stored_as({name!r}) of {type_names.place_of(cls)}: {type_names.place_of(known)} is stored "
            "under this name; give one of them another"
        )
