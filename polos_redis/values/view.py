"""Views: frozen dataclasses that read like the dict of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, ClassVar, NoReturn, Self


class View(dict[str, Any]):
    """The base of frozen dataclasses that are also the dict of their fields.

    `x.status` is `x["status"]`; `in`, `.get`, iteration, `==`, `**x` and `json.dumps` are those of a dict, so
    no field may have the name of a method of `dict`. A view can't be changed: `dict(x)` and
    `dataclasses.replace(x, ...)` make copies.

    A stored view can be read by every version: fields that it lacks are their default or None, and unknown
    ones are left out.
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]
    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True}

    def __post_init__(self) -> None:
        dict.update(self, {name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Self:
        """Returns an instance with stored fields."""
        missing = {
            field.name: None
            for field in fields(cls)
            if field.default is MISSING and field.default_factory is MISSING
        }
        known = {name: value for name, value in stored.items() if name in cls.__dataclass_fields__}
        return cls(**{**missing, **known})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).restored, ({name: getattr(self, name) for name in self.__dataclass_fields__},)

    def _refuse(self, *args: object, **options: object) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"this {name} can't be changed: change a copy of it, dict(...) or replace(...)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse
