"""The parameters of callables: names, kinds, annotations as written, defaults.

One reader for every callable that users decorate or pass: functions, methods, partials, decorated functions,
objects with `__call__`, classes. Annotations are resolved one by one, when they are needed, and keep their
`Annotated` metadata. So a context or return type that is imported for type checkers only is never looked at.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, get_origin

from polos_redis.errors import ConfigurationError
from polos_redis.values import type_hints

if sys.version_info >= (3, 14):
    import annotationlib

NOTHING = inspect.Parameter.empty  # no annotation, or no default
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a callable. `kind` is that of `inspect`, `written` the annotation before its names are
    resolved."""

    name: str
    kind: Any
    written: Any
    _default: Any
    _namespaces: type_hints.Namespaces = field(repr=False)

    @property
    def is_positional(self) -> bool:
        return self.kind in _POSITIONAL

    def annotation(self, what: str) -> Any:
        """The annotation with its names resolved; `Any` if there is none.

        Raises `ConfigurationError`, whose message begins with `what`, if a name in it is undefined.
        """
        if self.written is NOTHING:
            found: Any = Any
        else:
            try:
                found = type_hints.resolve(self.written, self._namespaces)
            except Exception as error:  # a name is undefined, or the text is no type
                raise ConfigurationError(
                    f"{what}: can't resolve the annotation of {self.name!r}: {error}: define or import its "
                    "names at the top of the module, not under TYPE_CHECKING"
                ) from None
        return Annotated[found, self._default] if _is_field(self._default) else found

    def is_annotated_as(self, cls: type) -> bool:
        """Whether the annotation is this class; False if it can't be resolved."""
        return type_hints.resolved(self.written, self._namespaces) is cls

    @property
    def has_default(self) -> bool:
        """Whether a caller may leave it out. `Field(default=...)` counts, also inside `Annotated`."""
        return self._found_default() is not NOTHING

    def default(self) -> Any:
        """The default, copied, so that no call sees what another has changed in it; NOTHING for none."""
        return copy.deepcopy(self._found_default())

    def _found_default(self) -> Any:
        if self._default is not NOTHING and not _is_field(self._default):
            return self._default
        fields = [self._default] if _is_field(self._default) else []
        found = type_hints.resolved(self.written, self._namespaces)
        if get_origin(found) is Annotated:
            fields += [item for item in found.__metadata__ if _is_field(item)]
        for info in fields:
            if not info.is_required():
                if info.default_factory is not None:
                    raise ConfigurationError(
                        f"the default of {self.name!r} must be the same at every replay: give it "
                        "Field(default=...) instead of a default_factory"
                    )
                return info.default
        return NOTHING


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a callable, without the bound ones of a method or partial.

    Called while a function is being defined inside another one, as by a decorator, this also finds the local
    names that its annotations use. Raises `ConfigurationError` for a callable without a signature.
    """
    try:
        signature = _signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{function!r} has no signature that can be read: {error}") from None
    code = underlying(function)
    cells = zip(code.__code__.co_freevars, code.__closure__ or (), strict=True)
    closure = {name: cell.cell_contents for name, cell in cells if not _is_empty(cell)}
    type_parameters = getattr(code, "__type_params__", ())
    namespaces = type_hints.Namespaces(code.__globals__, {**closure, **_local_names(code)}, type_parameters)
    return [
        Parameter(one.name, one.kind, one.annotation, one.default, namespaces)
        for one in signature.parameters.values()
    ]


def signature_text(function: Callable[..., Any]) -> str:
    """The signature of a callable, for messages."""
    return str(_signature(function))


def underlying(function: Any) -> types.FunctionType:
    """The function in which a callable is written: below partials, methods, decorators and `__call__`.

    Raises `ConfigurationError` if there is none, as for a builtin.
    """
    found = function
    while not isinstance(found, types.FunctionType) or hasattr(found, "__wrapped__"):
        if isinstance(found, functools.partial):
            found = found.func
        elif isinstance(found, types.MethodType):
            found = found.__func__
        elif hasattr(found, "__wrapped__"):
            found = found.__wrapped__
        elif isinstance(found, type):
            found = inspect.getattr_static(found, "__init__")
        elif isinstance(getattr(type(found), "__call__", None), types.FunctionType):  # noqa: B004
            found = type(found).__call__
        else:
            raise ConfigurationError(f"{function!r} is not written in Python, so it can't be used here")
    return found


def is_async(function: Any) -> bool:
    """Whether calling it returns a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True
    called = getattr(type(function), "__call__", None)  # noqa: B004 - its kind, not whether it has one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _local_names(function: types.FunctionType) -> dict[str, Any]:
    """The local names of the call that defines a function, as far as its annotations are text and use them.
    Text keeps no reference to them."""
    if sys.version_info >= (3, 14):
        return {}  # annotations are evaluated in their scope
    enclosing, local, _ = function.__qualname__.rpartition(".<locals>.")
    words = {word for text in function.__annotations__.values() for word in re.findall(r"\w+", str(text))}
    frame: types.FrameType | None = sys._getframe() if local else None
    while frame is not None:
        if frame.f_code.co_qualname == enclosing and frame.f_globals is function.__globals__:
            return {word: frame.f_locals[word] for word in words if word in frame.f_locals}
        frame = frame.f_back
    return {}


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _is_field(default: Any) -> bool:
    fields = sys.modules.get("pydantic.fields")  # without pydantic there are none
    return fields is not None and isinstance(default, fields.FieldInfo)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
