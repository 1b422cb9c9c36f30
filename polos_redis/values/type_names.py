"""The names under which types are stored, and the way back from a name to a type.

A name is `module:qualname`. A module that runs as `__main__` goes by its own name, so that
`python charge.py` and a worker that imports `charge` mean the same type. A parametrised pydantic
model is `module:Box[int,other:Item]`: the arguments are builtins from a fixed list, containers and
unions of them, and named types.

Names come from the store, so they are not trusted: only modules that are already imported are
looked at, only through plain dictionaries (no import, no module `__getattr__`, no descriptor), and
only pydantic models, dataclasses and enums are found.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from polos_redis.errors import NotStorableError

_MAIN = ("__main__", "__mp_main__")  # the second is what multiprocessing's children call it
_ARGUMENTS: dict[str, Any] = {
    t.__name__: t
    for t in [
        *(bool, int, float, str, bytes, list, dict, tuple, set, frozenset),
        *(datetime, date, time, timedelta, Decimal, UUID),
    ]
} | {"None": type(None), "Any": Any, "...": ...}
_ARGUMENT_NAMES = {id(t): name for name, t in _ARGUMENTS.items()}
_MAX_NAME = 1000  # characters; the parser below recurses with the brackets in a name

# Read a class's own dictionary and bases whatever its metaclass says about attributes.
_class_dict = type.__dict__["__dict__"].__get__
_class_mro = type.__dict__["__mro__"].__get__

# name -> (type, its module's key and object, that module's dict, top-level name, top-level object):
# enough to see cheaply that a reload has put another class there.
_FOUND: dict[str, tuple[type, str, types.ModuleType, dict[str, Any], str, object]] = {}
_MAX_FOUND = 4096  # names of parametrised models are unlimited


def type_name(cls: type) -> str:
    """The name of a type in the store.

    Raises NotStorableError for a parametrised model with an argument that has no name.
    """
    parameters = _parameters(cls)
    if parameters:
        origin, arguments = parameters
        return f"{type_name(origin)}[{','.join(_argument_name(a) for a in arguments)}]"
    module = cls.__module__
    return f"{main_name() if module in _MAIN else module}:{cls.__qualname__}"


def find_type(name: str) -> type | None:
    """The imported pydantic model, dataclass or enum of that name, else None.

    Imports nothing and calls nothing of what the name leads to. After a module was reloaded, its new
    class is found. When `__main__` and an imported module are the same file, `__main__`'s counts.
    """
    known = _FOUND.get(name)
    if known is not None:
        cls, key, module, namespace, attribute, top = known
        if sys.modules.get(key) is module and namespace.get(attribute) is top:
            return cls
    return _search(name) if len(name) <= _MAX_NAME else None


def main_name() -> str:
    """The name `__main__` would have if it were imported; `__main__` where there is no file."""
    main = sys.modules.get("__main__")
    if main is None:
        return "__main__"
    facts = object.__getattribute__(main, "__dict__")
    name = getattr(facts.get("__spec__"), "name", None)  # only `python -m` leaves a spec
    if isinstance(name, str) and name != "__main__":
        return name
    file = facts.get("__file__")
    return PurePath(file).stem if isinstance(file, str) else "__main__"


def is_model(cls: type) -> bool:
    """Whether cls is a pydantic model (without importing pydantic: no model exists before it)."""
    return _base_model() in _class_mro(cls)


def is_dataclass(cls: type) -> bool:
    return any("__dataclass_fields__" in _class_dict(base) for base in _class_mro(cls))


def is_enum(cls: type) -> bool:
    return Enum in _class_mro(cls)


def _base_model() -> Any:
    main = sys.modules.get("pydantic.main")
    return getattr(main, "BaseModel", is_model)  # before pydantic is imported: something in no mro


def _parameters(cls: type) -> tuple[type, tuple[Any, ...]] | None:
    """(Box, (int,)) for the class Box[int]; None for a class that is not parametrised itself."""
    metadata = _class_dict(cls).get("__pydantic_generic_metadata__")
    if not metadata or metadata["origin"] is None:
        return None
    return metadata["origin"], metadata["args"]


def _argument_name(argument: Any) -> str:
    name = _ARGUMENT_NAMES.get(id(argument))
    if name is not None:
        return name
    origin = typing.get_origin(argument)
    union = origin in (typing.Union, types.UnionType)
    if union or origin in (list, dict, tuple, set, frozenset):
        inner = ",".join(_argument_name(a) for a in typing.get_args(argument))
        return f"{'Union' if union else origin.__name__}[{inner}]"
    if argument is None:
        return "None"
    if isinstance(argument, type) and (is_model(argument) or is_dataclass(argument) or is_enum(argument)):
        return type_name(argument)
    raise NotStorableError(f"the type argument {argument!r} can't be stored: give the model a named subclass")


def _search(name: str) -> type | None:
    head, bracket, rest = name.partition("[")
    for key, module, namespace, path in _places(head):
        found = _walk(namespace, path)
        if found is not None and bracket:
            found = _parametrise(found, rest)
        if found is not None:
            if len(_FOUND) >= _MAX_FOUND:
                _FOUND.clear()
            _FOUND[name] = (found, key, module, namespace, path[0], namespace.get(path[0]))
            return found
    return None


def _places(name: str) -> Iterator[tuple[str, types.ModuleType, dict[str, Any], list[str]]]:
    module_name, colon, qualname = name.partition(":")
    if not colon:
        return
    for key in ("__main__", module_name) if module_name == main_name() else (module_name,):
        module = sys.modules.get(key)
        # `type(...)` and object's own getattribute: a lazy module must not load because of a lookup.
        if module is not None and issubclass(type(module), types.ModuleType):
            yield key, module, object.__getattribute__(module, "__dict__"), qualname.split(".")


def _walk(namespace: dict[str, Any], path: list[str]) -> type | None:
    found: Any = None
    for part in path:
        found = namespace.get(part)
        if not issubclass(type(found), type):
            return None
        namespace = _class_dict(found)
    return found if is_model(found) or is_enum(found) or is_dataclass(found) else None


def _parametrise(origin: type, rest: str) -> type | None:
    """Box[int]: the class that is there already, else one made by pydantic's own code."""
    arguments, end = _parse_arguments(rest, 0)
    if end != len(rest) or arguments is None or not is_model(origin):
        return None
    subclasses: list[type] = type.__subclasses__(origin)
    for cls in subclasses:
        if _parameters(cls) == (origin, tuple(arguments)):
            return cls
    base, bases = _base_model(), _class_mro(origin)
    if any("__class_getitem__" in _class_dict(cls) for cls in bases[: bases.index(base)]):
        return None  # a user's own is not called
    try:
        made = base.__class_getitem__.__func__(origin, tuple(arguments))
    except Exception:  # not generic, the wrong number of arguments, a bound that does not fit
        return None
    return made if isinstance(made, type) and is_model(made) else None


def _parse_arguments(text: str, start: int) -> tuple[list[Any] | None, int]:
    """Parse `int,list[str]]` up to its closing bracket: the types (None if one is unknown), and the end."""
    arguments: list[Any] = []
    while True:
        end = start
        while end < len(text) and text[end] not in "[],":
            end += 1
        name, argument = text[start:end], None
        if end < len(text) and text[end] == "[":
            inner, end = _parse_arguments(text, end + 1)
            argument = None if inner is None else _with_arguments(name, inner, text[start:end])
        else:
            argument = _ARGUMENTS[name] if name in _ARGUMENTS else find_type(name)
        if argument is None:
            return None, end
        arguments.append(argument)
        if end >= len(text) or text[end] not in ",]":
            return None, end
        start = end + 1
        if text[end] == "]":
            return arguments, start


def _with_arguments(name: str, arguments: list[Any], whole: str) -> Any:
    if name == "Union":
        return typing.Union[tuple(arguments)]  # noqa: UP007 - built from data
    if name in ("list", "dict", "tuple", "set", "frozenset"):
        return types.GenericAlias(_ARGUMENTS[name], tuple(arguments))
    return find_type(whole)
