"""Names of stored types, and the lookup of a type by its name.

A name is `module:qualname`. A module that runs as `__main__` is named as if it were imported, so that
`python shop/charge.py` and a worker that imports `shop.charge` agree on its types. Without a
`shop/__init__.py` the file does not show its package: then `charge:X` and `shop.charge:X` are the same type
to whoever has only one of the two modules. A parametrised pydantic model is `module:Box[int,other:Item]`;
its arguments are builtins from a fixed list, containers and unions of them, and named types.
`@stored_as` (stored_as.py) gives a class another name than that of its place, `module:qualname`.

Names come from the store and are not trusted. The lookup covers only modules that are already imported,
reads only plain dictionaries (no import, no module `__getattr__`, no descriptor) and finds only pydantic
models, dataclasses and enums.
"""

from __future__ import annotations

import functools
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

from polos_redis.errors import NotStorableError

_MAIN = ("__main__", "__mp_main__")  # the second in child processes of multiprocessing
_ARGUMENTS: dict[str, Any] = {
    t.__name__: t
    for t in [
        *(bool, int, float, str, bytes, list, dict, tuple, set, frozenset),
        *(datetime, date, time, timedelta, Decimal, UUID),
    ]
} | {"None": type(None), "Any": Any, "...": ...}
_ARGUMENT_NAMES = {id(t): name for name, t in _ARGUMENTS.items()}
_MAX_NAME = 1000  # characters; the parser below recurses once per bracket

# Read a class's own dictionary and bases without involving its metaclass.
_class_dict = type.__dict__["__dict__"].__get__
_class_mro = type.__dict__["__mro__"].__get__

# name -> (type, its module's key and object, that module's dict, top-level name, top-level object):
# enough to notice cheaply that a reload replaced the class.
_FOUND: dict[str, tuple[type, str, types.ModuleType, dict[str, Any], str, object]] = {}
_MAX_FOUND = 4096  # there is no limit to the names of parametrised models

_GIVEN = "__polos_stored_as__"  # attribute of a class: its given names, of which the first is stored
_PLACES: dict[str, str] = {}  # given name -> the place of its class


def type_name(cls: type) -> str:
    """The name under which a type is stored.

    Raises NotStorableError for a parametrised model whose argument has no name.
    """
    parameters = _parameters(cls)
    if parameters:
        origin, arguments = parameters
        return f"{type_name(origin)}[{','.join(_argument_name(a) for a in arguments)}]"
    names = given_names(cls)
    return names[0] if names else place_of(cls)


def place_of(cls: type) -> str:
    """Where a class is defined, as `module:qualname`: its name, unless it was given one."""
    return f"{module_name(cls.__module__)}:{cls.__qualname__}"


def given_names(cls: type) -> tuple[str, ...]:
    """The names that `stored_as` has given to this class; its bases' names are not its own."""
    names: tuple[str, ...] = _class_dict(cls).get(_GIVEN, ())
    return names


def give_names(cls: type, names: tuple[str, ...]) -> None:
    """Give names to a class. The attribute is copied with the class by `@dataclass(slots=True)`."""
    type.__setattr__(cls, _GIVEN, names)
    _PLACES.update(dict.fromkeys(names, place_of(cls)))
    _FOUND.clear()


def find_type(name: str) -> type | None:
    """The imported pydantic model, dataclass or enum with this name, or None.

    A given name comes before a place of the same name. Imports nothing and calls nothing that the name refers
    to. Finds the new class after a module is reloaded, and the class in `__main__` if the same file is also
    imported as a module.
    """
    known = _FOUND.get(name)
    if known is not None:
        cls, key, module, namespace, attribute, top = known
        if sys.modules.get(key) is module and namespace.get(attribute) is top:
            return cls
    return _search(name) if len(name) <= _MAX_NAME else None


def module_name(module: str) -> str:
    """The name of a module as another process would import it: `__main__` has that of its file."""
    return main_name() if module in _MAIN else module


def main_name() -> str:
    """The name that `__main__` would have as an imported module, or `__main__` if it has no file."""
    main = sys.modules.get("__main__")
    if main is None:
        return "__main__"
    facts = object.__getattribute__(main, "__dict__")
    name = getattr(facts.get("__spec__"), "name", None)  # only `python -m` leaves a spec
    if isinstance(name, str) and name != "__main__":
        return name
    file = facts.get("__file__")
    return name_of_file(file) if isinstance(file, str) else "__main__"


@functools.lru_cache(1024)
def name_of_file(file: str) -> str:
    """The name under which a source file is imported: folders with an `__init__.py` are its packages."""
    path = Path(file)
    name, folder = path.stem, path.parent
    while (folder / "__init__.py").is_file() and folder.name:
        name = folder.name if name == "__init__" else f"{folder.name}.{name}"
        folder = folder.parent
    return name


def is_same_source(one: type, other: type) -> bool:
    """Whether two classes come from the same lines of code: a module was reloaded or imported twice."""
    return _source(one) == _source(other)


def is_model(cls: type) -> bool:
    """Whether cls is a pydantic model. Does not import pydantic: without it, no model exists."""
    return _base_model() in _class_mro(cls)


def is_dataclass(cls: type) -> bool:
    return any("__dataclass_fields__" in _class_dict(base) for base in _class_mro(cls))


def is_enum(cls: type) -> bool:
    return Enum in _class_mro(cls)


def _source(cls: type) -> tuple[str, str]:
    module = sys.modules.get(cls.__module__)
    file = None if module is None else object.__getattribute__(module, "__dict__").get("__file__")
    return file if isinstance(file, str) else module_name(cls.__module__), cls.__qualname__


def _base_model() -> Any:
    main = sys.modules.get("pydantic.main")
    return getattr(main, "BaseModel", is_model)  # without pydantic: an object that is in no MRO


def _parameters(cls: type) -> tuple[type, tuple[Any, ...]] | None:
    """(Box, (int,)) for the class Box[int]; None for a class that is not parametrised."""
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


def missing_types(name: str) -> list[str]:
    """The named types that are not found, of those in the name of a parametrised model; or this type."""
    return [part for part in re.split(r"[\[\],]", name) if ":" in part and find_type(part) is None]


def _search(name: str) -> type | None:
    head, bracket, rest = name.partition("[")
    for key, module, namespace, path, given in _candidates(head):
        found = _walk(namespace, path)
        if found is None or (given and head not in given_names(found)):
            continue
        if bracket:
            found = _parametrise(found, rest)
        if found is not None:
            if len(_FOUND) >= _MAX_FOUND:
                _FOUND.clear()
            _FOUND[name] = (found, key, module, namespace, path[0], namespace.get(path[0]))
            return found
    return None


def _candidates(name: str) -> Iterator[tuple[str, types.ModuleType, dict[str, Any], list[str], bool]]:
    """Where a class of this name may be, and whether it must have been given the name: first its place as a
    given name, then the place that the name is."""
    for place in dict.fromkeys((_PLACES.get(name, name), name)):
        module, colon, qualname = place.partition(":")
        if not colon:
            continue
        keys = ["__main__", module] if module == main_name() else [module]
        for key in keys if module in sys.modules or len(keys) > 1 else _keys_of_its_file(module):
            found = _module(key)
            if found is not None:
                namespace = object.__getattribute__(found, "__dict__")
                yield key, found, namespace, qualname.split("."), place != name


def _module(key: str) -> types.ModuleType | None:
    module = sys.modules.get(key)
    # `type(...)` and object's __getattribute__, because a lookup must not load a lazy module.
    return module if module is not None and issubclass(type(module), types.ModuleType) else None


def _keys_of_its_file(name: str) -> Sequence[str]:
    """The key of the imported module whose file can also be imported as `name`, if there is only one.

    `pkg/charge.py` is `charge` and `pkg.charge` if its folder has no `__init__.py`.
    """
    wanted = name.split(".")
    files: dict[str, str] = {}
    for key in _keys_by_tail(len(sys.modules), next(reversed(sys.modules))).get(wanted[-1], ()):
        module = _module(key)
        file = None if module is None else object.__getattribute__(module, "__dict__").get("__file__")
        if not isinstance(file, str) or name_of_file(file).count(".") >= len(wanted):
            continue
        if list(PurePath(file).with_suffix("").parts[-len(wanted) :]) == wanted:
            files[file] = key
    return list(files.values()) if len(files) == 1 else ()


@functools.lru_cache(1)
def _keys_by_tail(count: int, newest: str) -> dict[str, list[str]]:
    """Last part of a module's name -> keys of `sys.modules`; the arguments say when it has changed."""
    found: dict[str, list[str]] = {}
    for key in list(sys.modules):
        found.setdefault(module_name(key).rpartition(".")[2], []).append(key)
    return found


def _walk(namespace: dict[str, Any], path: list[str]) -> type | None:
    found: Any = None
    for part in path:
        found = namespace.get(part)
        if not issubclass(type(found), type):
            return None
        namespace = _class_dict(found)
    return found if is_model(found) or is_enum(found) or is_dataclass(found) else None


def _parametrise(origin: type, rest: str) -> type | None:
    """Box[int]: the existing class, or a new one created by pydantic's own code."""
    arguments, end = _parse_arguments(rest, 0)
    if end != len(rest) or arguments is None or not is_model(origin):
        return None
    subclasses: list[type] = type.__subclasses__(origin)
    for cls in subclasses:
        if _parameters(cls) == (origin, tuple(arguments)):
            return cls
    base, bases = _base_model(), _class_mro(origin)
    if any("__class_getitem__" in _class_dict(cls) for cls in bases[: bases.index(base)]):
        return None  # never call a user's __class_getitem__
    try:
        created = base.__class_getitem__.__func__(origin, tuple(arguments))
    except Exception:  # not generic, wrong number of arguments, or a bound is violated
        return None
    return created if isinstance(created, type) and is_model(created) else None


def _parse_arguments(text: str, start: int) -> tuple[list[Any] | None, int]:
    """Parses `int,list[str]]` up to its closing bracket: the types (None if one is unknown), and the end."""
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
