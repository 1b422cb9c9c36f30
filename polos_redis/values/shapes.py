"""Shapes of stored classes: the names of their fields with their annotations, as text and as a fingerprint.

Each stored model and dataclass carries the fingerprint of its class's shape, so that a reader whose class has
another shape validates the stored fields instead of trusting their names (changed.py). An enum needs none: a
stored member carries its name and its value.

The text is the same in every process, on every Python and for every way of writing one annotation
(`Optional[int]`, `int | None`, `"int | None"`). Where that fails, two equal shapes differ, which costs a
validation. Two different shapes must never have one text, or a changed value would be taken as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import sys
import types
import typing
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from polos_redis.errors import NotStorableError
from polos_redis.values import type_hints, type_names

SIZE = 5  # characters of a fingerprint: 30 bits

Fields = dict[str, str]


def fingerprint(cls: type) -> str:
    """The fingerprint of a model's or dataclass's shape: SIZE letters, digits, - and _."""
    marks, fields = _shape(cls)
    text = "\n".join([*marks, *(f"{name}: {annotation}" for name, annotation in sorted(fields.items()))])
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return urlsafe_b64encode(digest)[:SIZE].decode("ascii")


def fields_of(cls: type) -> Fields:
    """The fields of a model or dataclass, private attributes of models included, with their annotations."""
    return _shape(cls)[1]


def _shape(cls: Any) -> tuple[list[str], Fields]:
    if not type_names.is_model(cls):
        text = _Text(type_hints.namespaces_of(cls))
        return [], {name: text.of(one) for name, one in dataclass_annotations(cls).items()}
    config = cls.model_config
    namespaces = type_hints.namespaces_of(cls)
    fields = {}
    for name, info in model_fields(cls).items():
        text = _Text(namespaces, enum_values=bool(config.get("use_enum_values")))
        fields[name] = text.annotated(info.annotation, info.metadata)
    for name in cls.__private_attributes__:
        fields[name] = _Text(namespaces).of(type_hints.of_attribute(cls, name))
    return ["extra"] if config.get("extra") == "allow" else [], fields


def model_fields(cls: Any) -> dict[str, Any]:
    """The fields of a model, with their FieldInfo."""
    fields: dict[str, Any] = getattr(cls, "__pydantic_fields__", None) or cls.model_fields
    return fields


def dataclass_annotations(cls: Any) -> dict[str, Any]:
    """The annotations of a dataclass's fields, resolved where possible."""
    return {field.name: type_hints.of_attribute(cls, field.name) for field in dataclasses.fields(cls)}


class _Text:
    """The text of one annotation. `enum_values`: an enum's members count, because models store their values.

    Definitions whose instances carry no type name when stored (TypedDict, aliases, NewType) are spelled out.
    """

    def __init__(self, namespaces: type_hints.Namespaces, *, enum_values: bool = False) -> None:
        self._namespaces = namespaces
        self._enum_values = enum_values
        self._open: set[int] = set()  # definitions being spelled out: they may refer to themselves

    def of(self, annotation: Any) -> str:
        if isinstance(annotation, str | typing.ForwardRef):
            return self._reference(annotation)
        if annotation is None or annotation is type(None):
            return "None"
        if annotation is ...:
            return "..."
        if isinstance(annotation, list):  # the parameters of a Callable
            return f"[{','.join(map(self.of, annotation))}]"
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._parametrised(annotation, origin, typing.get_args(annotation))
        if isinstance(annotation, type):
            return self._class(annotation)
        if hasattr(annotation, "__supertype__"):  # NewType
            return self._spelled_out(annotation, lambda: self.of(annotation.__supertype__))
        if hasattr(annotation, "__value__"):  # `type X = ...`
            return self._spelled_out(annotation, lambda: self.of(annotation.__value__))
        return getattr(annotation, "__name__", None) or getattr(annotation, "_name", None) or repr(annotation)

    def annotated(self, annotation: Any, metadata: typing.Iterable[Any]) -> str:
        """The text of `Annotated[annotation, *metadata]`."""
        constraints = sorted(filter(None, map(self._constraint, metadata)))
        return self.of(annotation) + (f"[{';'.join(constraints)}]" if constraints else "")

    def _parametrised(self, annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> str:
        if origin is typing.Annotated:
            return self.annotated(arguments[0], annotation.__metadata__)
        if origin in (typing.Union, types.UnionType):
            return "|".join(sorted({self.of(one) for one in arguments}))
        if origin is typing.Literal:
            return f"Literal[{','.join(sorted(map(self._literal, arguments)))}]"
        inner = ",".join(map(self.of, arguments))
        return f"{self.of(origin)}[{inner}]" if inner else self.of(origin)

    def _class(self, cls: type) -> str:
        if typing.is_typeddict(cls):
            return self._spelled_out(cls, lambda: self._typed_dict(cls))
        name = class_name(cls)
        if self._enum_values and type_names.is_enum(cls):
            members = typing.cast("Mapping[str, Any]", cls.__dict__["_member_map_"])
            return f"{name}{{{','.join(f'{m}={one._value_!r}' for m, one in members.items())}}}"
        return name

    def _typed_dict(self, cls: Any) -> str:
        here = _Text(type_hints.namespaces_of(cls), enum_values=self._enum_values)
        here._open = self._open
        found = type_hints.of_class(cls)
        fields = ",".join(f"{name}:{here.of(found[name])}" for name in sorted(found))
        return f"{{{fields};{','.join(sorted(cls.__required_keys__))}}}"

    def _spelled_out(self, definition: Any, text: typing.Callable[[], str]) -> str:
        if id(definition) in self._open:
            return str(definition.__name__)
        self._open.add(id(definition))
        try:
            return text()
        except NameError:  # a lazily evaluated alias of a name that is undefined here
            return str(definition.__name__)
        finally:
            self._open.discard(id(definition))

    def _reference(self, reference: str | typing.ForwardRef) -> str:
        found = type_hints.resolved(reference, self._namespaces)
        if not isinstance(found, str | typing.ForwardRef):
            return self.of(found)
        source = found if isinstance(found, str) else found.__forward_arg__
        try:
            return "?" + ast.unparse(ast.parse(source, mode="eval"))
        except SyntaxError:
            return "?" + source

    @staticmethod
    def _literal(value: Any) -> str:
        if type_names.is_enum(type(value)):
            return f"{class_name(type(value))}.{value._name_}={value._value_!r}"
        return repr(value)

    def _constraint(self, item: Any) -> str:
        """The text of an item of Annotated; "" if it constrains nothing. Functions count by name."""
        name = type(item).__name__
        if name == "FieldInfo":
            return ";".join(sorted(filter(None, map(self._constraint, item.metadata))))
        function = item if callable(item) else getattr(item, "func", None)
        if callable(function):
            return f"{name}({getattr(function, '__qualname__', type(function).__qualname__)})"
        facts = getattr(item, "__dict__", None)
        if dataclasses.is_dataclass(item):
            facts = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        if not facts:
            return item if isinstance(item, str) else ""
        simple = {k: v for k, v in facts.items() if isinstance(v, _SIMPLE)}
        return f"{name}({','.join(f'{k}={v!r}' for k, v in sorted(simple.items()))})"


_SIMPLE = (int, float, str, bytes, Decimal, date, time, timedelta)


def class_name(cls: type) -> str:
    """The name of a class in the text of a shape, with its module unless it is a builtin."""
    if cls.__module__ == "builtins":
        return "None" if cls is type(None) else cls.__qualname__
    package = cls.__module__.partition(".")[0]
    if package in sys.stdlib_module_names:  # pathlib.Path was pathlib._local.Path for a while
        return f"{package}:{cls.__qualname__}"
    try:
        return type_names.type_name(cls)
    except NotStorableError:  # a parametrised model whose argument has no name
        return f"{cls.__module__}:{cls.__qualname__}"
