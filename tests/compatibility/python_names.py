"""The Python surface: the names of the public modules, and what docs/reference/python lists."""

from __future__ import annotations

import ast
import enum
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_overloads, get_type_hints, is_typeddict

import yaml

import polos_redis
from polos_redis import PolosError, errors, results
from polos_redis.connection.clients import takes_client
from tests import ROOT
from tests.compatibility.snapshots import REQUIRED, THING, Facts

# The modules that users import from.
MODULES = (
    "polos_redis",
    *(
        f"polos_redis.{name}"
        for name in (
            *("agents", "apikeys", "client", "embedded", "events", "features.events", "links", "metrics"),
            *("notifications", "results", "schedules", "sync", "testing", "types", "worker", "workflow"),
            *("sync.apikeys", "sync.events", "sync.schedules"),
        )
    ),
)

# What only the library creates: its constructors may change.
CREATED = {
    *("AgentCall", "AgentResult", "AgentStream", "ApiKey", "Divergence", "Event", "History", "HookContext"),
    *("Link", "ModelRequest", "Notification", "OpenSuspension", "Page", "Restarted", "Resumed", "RunSoFar"),
    *("Schedule", "Stream", "ToolResult", "Usage", "Winner", "World"),
}

# The reference names the methods that it shares with the asynchronous client in a sentence.
EVERY_METHOD = "polos_redis.sync.PolosClient"

_ENTRY = re.compile(r"^::: (\S+)\n((?:    .*\n)*)", re.MULTILINE)


def facts() -> Facts:
    found: dict[str, dict[str, str]] = {}
    for module in MODULES:
        found[f"import {module}"] = dict.fromkeys(import_module(module).__all__, "name")
    catchable = {name for name in vars(errors) if name.endswith("Error") and name in polos_redis.__all__}
    found["import polos_redis.errors"] = dict.fromkeys(catchable, "name")
    for path, options in listed():
        found |= _of(path, _named(path), options)
    return found


def listed() -> Iterator[tuple[str, dict[str, Any]]]:
    """What the reference lists: paths, and how each is shown."""
    for page in sorted((ROOT / "docs/reference/python").glob("*.md")):
        for path, options in _ENTRY.findall(page.read_text("utf-8") + "\n"):
            yield path, (yaml.safe_load(options) or {}).get("options", {})


def _named(path: str) -> Any:
    """The object of a path: of the longest module in it, an attribute of an attribute."""
    names = path.split(".")
    for end in range(len(names), 0, -1):
        try:
            found: Any = import_module(".".join(names[:end]))
        except ModuleNotFoundError:
            continue
        for name in names[end:]:
            found = getattr(found, name)
        return found
    raise LookupError(path)


def _of(path: str, value: Any, options: dict[str, Any]) -> dict[str, dict[str, str]]:
    if inspect.isclass(value) and not is_typeddict(value):
        return _of_class(path, value, options)
    if is_typeddict(value):
        return {path: {THING: "typed dict", **_keys(value, "key")}}
    return {path: _of_call(value) if callable(value) and hasattr(value, "__code__") else {THING: "value"}}


def _keys(typed_dict: Any, kind: str) -> dict[str, str]:
    needed = typed_dict.__required_keys__
    return {key: f"{kind}, {REQUIRED if key in needed else 'optional'}" for key in get_type_hints(typed_dict)}


def _of_class(path: str, cls: type[Any], options: dict[str, Any]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    own: dict[str, str] = {THING: _kind(cls)}
    whole = options.get("inherited_members", False)
    members = None if path == EVERY_METHOD else options.get("members")
    for name in sorted(_members(cls, whole) if members is None else members):
        value = inspect.getattr_static(cls, name, None)
        if isinstance(value, (staticmethod, classmethod)):
            found[f"{path}.{name}"] = _of_call(getattr(cls, name), type(value).__name__)
        elif inspect.isroutine(value):
            found[f"{path}.{name}"] = _of_call(value, "method")
        else:
            own[name] = "attribute"
    if _is_constructed(cls, options):
        found[f"{path}()"] = _parameters(inspect.signature(cls))
    return {path: own, **found}


def _kind(cls: type[Any]) -> str:
    """What it is, with the bases that programs know."""
    bases = [
        one.__name__
        for one in cls.__mro__[1:]
        if one.__name__ in polos_redis.__all__
        or (one.__module__ == "builtins" and one is not object)
        or one is enum.Enum
        or one.__name__ == "BaseModel"
    ]
    return f"class ({', '.join(bases)})" if bases else "class"


def _is_constructed(cls: type[Any], options: dict[str, Any]) -> bool:
    if issubclass(cls, PolosError):
        return False  # those that users raise take a message, as exceptions do
    if not options.get("merge_init_into_class", True) or getattr(cls, "_is_protocol", False):
        return False
    return cls.__module__ != results.__name__ and cls.__name__ not in CREATED


def _members(cls: type[Any], whole: bool) -> set[str]:
    """Its public members, with what its constructor sets; if `whole`, those of our classes above it, too."""
    found: set[str] = set()
    for one in cls.__mro__ if whole else (cls,):
        if one.__module__.startswith("polos_redis"):
            found |= {*vars(one), *vars(one).get("__annotations__", {}), *_set_by_init(one)}
    return {name for name in found if not name.startswith(("_", "model_"))}


def _set_by_init(cls: type[Any]) -> Iterator[str]:
    init = vars(cls).get("__init__")
    code = getattr(init, "__code__", None)
    if code is None or not code.co_filename.endswith(".py"):  # of a dataclass
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def _of_call(function: Any, kind: str = "function") -> dict[str, str]:
    code = getattr(function, "__code__", None)
    if code is not None and code.co_qualname.startswith(takes_client.__name__):
        function = inspect.unwrap(function)
    if inspect.iscoroutinefunction(function):
        kind = f"async {kind}"
    elif inspect.isasyncgenfunction(function):
        kind = f"async generator {kind}"
    signature = inspect.signature(function)
    if kind.endswith("method") and not hasattr(function, "__self__"):
        first, *others = signature.parameters.values()
        assert first.name in ("self", "step"), f"{function}: {first}"
        signature = signature.replace(parameters=others)
    found = {THING: kind, **_parameters(signature)}
    if "**options" in found and (known := _options(function)):
        del found["**options"]
        found |= known
    return found


def _options(function: Any) -> dict[str, str]:
    """The keyword arguments that `**options` stands for: a typed dict's, or those of the overloads."""
    named = re.fullmatch(r"Unpack\[(\w+)\]", function.__annotations__.get("options", ""))
    if named:
        return _keys(function.__globals__[named[1]], "keyword")
    found: dict[str, str] = {}
    for one in get_overloads(function):
        parameters = _parameters(inspect.signature(one))
        found |= {name: fact for name, fact in parameters.items() if fact.startswith("keyword")}
    return found


def _parameters(signature: inspect.Signature) -> dict[str, str]:
    found = {}
    for position, one in enumerate(signature.parameters.values(), 1):
        if one.kind is one.VAR_POSITIONAL or one.kind is one.VAR_KEYWORD:
            found[str(one).partition(":")[0]] = "further ones"
            continue
        kind = {
            one.POSITIONAL_ONLY: f"positional {position}",
            one.POSITIONAL_OR_KEYWORD: f"positional {position} or keyword",
            one.KEYWORD_ONLY: "keyword",
        }[one.kind]
        default = REQUIRED if one.default is one.empty else f"default {_shown(one.default)}"
        found[one.name] = f"{kind}, {default}"
    return found


def _shown(default: Any) -> str:
    text = repr(default)
    return text if " at 0x" not in text else f"a {type(default).__name__}"
