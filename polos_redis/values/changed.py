"""Stored fields of a class that has changed since: validated by pydantic, or refused.

The stored fields are read as pydantic reads a dict: each by its name or by an alias, with the class's
validators. A value is never lost silently:

- A field that the class no longer has is dropped, as pydantic drops it. But if the class also has a field
  that the stored value lacks and that falls back to its default, the one may be the other under a new name.
  That is refused, unless a validator takes the old name or the class says `extra="ignore"`. So is a field
  that has become a property or another attribute of the class.
- Validators run on values that the old class had already validated. A class whose validators change what
  they have returned is refused.

pydantic is imported here at first use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from polos_redis import failures
from polos_redis.errors import MAX_LISTED, ConfigurationError, UnreadableValueError
from polos_redis.values import shapes, type_hints, type_names
from polos_redis.values.bounded_type import MismatchError
from polos_redis.values.validation import adapter

_ADVICE = (
    "give a renamed field a validation_alias with the old name, convert old values in a validator, or deploy "
    "the class as it was"
)

_set = object.__setattr__


def validated(
    cls: Any, name: str, stored: dict[str, Any], private: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """An instance of a model or dataclass from the fields that another shape of the class has stored, and
    the private attributes of a model.

    Raises `UnreadableValueError`, which names both shapes.
    """
    try:
        found = _read(cls, stored)
        if not _same(found, _read(cls, _state(found))):
            raise _Refusal("its validators change values they have already returned")
        if private:
            _restore_private(found, private)
    except _Refusal as refusal:
        problem = str(refusal)
    except BaseException as error:  # pydantic's, or anything from the class's own validators
        problem = problem_in(error)
    else:
        return found
    before = {field: shapes.class_name(type(value)) for field, value in {**stored, **private}.items()}
    raise UnreadableValueError(
        f"the class {name} has changed: the value was stored with ({_listed(before)}), and the class now has "
        f"({_listed(shapes.fields_of(cls))}): {problem}; {_ADVICE}"
    )


def _restore_private(model: Any, private: Mapping[str, Any]) -> None:
    """Restore private attributes, which pydantic never validates, by their annotations."""
    cls = type(model)
    names = cls.__private_attributes__
    unread = [name for name in private if name not in names]
    added = [name for name in names if name not in private]
    if unread and added and cls.model_config.get("extra") != "ignore":
        raise _Refusal(_lost(unread, added))
    for name, value in private.items():
        if name in names:
            annotation = type_hints.of_attribute(cls, name)
            model.__pydantic_private__[name] = _adapter(annotation).validate_python(value)


def _lost(unread: list[str], added: list[str]) -> str:
    return f"{', '.join(unread)} would be lost, and {', '.join(added)} set to a default"


class _Refusal(Exception):
    """A reason to refuse a stored value."""


def _read(cls: Any, stored: dict[str, Any]) -> Any:
    from pydantic import BaseModel

    if type_names.is_model(cls):
        cls.model_rebuild()
        infos = shapes.model_fields(cls)
        config = cls.model_config
        if cls.__pydantic_root_model__:
            return cls.__pydantic_validator__.validate_python(stored.get("root"))
        validate = cls.__pydantic_validator__.validate_python
        later: dict[str, Any] = {}
    else:
        infos, later = _dataclass_fields(cls)
        config = getattr(cls, "__pydantic_config__", None) or {}
        validate = _adapter(cls).validate_python
    data, unread, absent = _fed(infos, later, config, stored)
    found = validate(data)
    for field, annotation in later.items():
        if field in stored:
            _set(found, field, _adapter(annotation).validate_python(stored[field]))
    absent += [field for field in later if field not in stored]
    defaulted = [field for field in absent if _is_default(found, field)]
    if unread and config.get("extra") != "ignore":
        if defaulted:
            raise _Refusal(_lost(unread, defaulted))
        replaced = [name for name in unread if hasattr(cls, name) and not hasattr(BaseModel, name)]
        if replaced:
            raise _Refusal(f"{', '.join(replaced)} would be replaced by what the class computes")
    return found


def _fed(
    infos: Mapping[str, Any],
    later: Mapping[str, Any],
    config: Mapping[str, Any],
    stored: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str], list[str]]:
    """What pydantic validates: stored values by the keys that the class accepts; the stored names that no
    field reads; the fields that no stored name feeds."""
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    keys = {field: _keys(info) or [field] for field, info in infos.items()}
    data: dict[str, Any] = {}
    for name, value in stored.items():
        if name in later:
            continue
        key = keys[name][0] if name in keys and not by_name else name
        if not key:
            raise _Refusal(f"{name} is read by a path only, {infos[name].validation_alias!r}")
        rivals = [field for field, names in keys.items() if field not in stored and name in names]
        if rivals and name in infos:
            raise _Refusal(f"{name} is a field and also an alias of {rivals[0]}")
        if key in data:
            raise _Refusal(f"two stored fields are read as {key}")
        data[key] = value
    accepted = {field: {*names, field} if by_name else {*names} for field, names in keys.items()}
    read = {name for names in accepted.values() for name in names}
    unread = [] if config.get("extra") == "allow" else [key for key in data if key not in read]
    return data, unread, [field for field in infos if not accepted[field] & data.keys()]


def _keys(info: Any) -> list[str]:
    """The keys that a field is read from instead of its name: aliases, then the starts of paths. The first is
    "" if there are paths only."""
    alias = info.validation_alias if info.validation_alias is not None else info.alias
    if alias is None:
        return []
    choices = getattr(alias, "choices", None) or [alias]
    names = [one for one in choices if isinstance(one, str)]
    return (names or [""]) + [str(one.path[0]) for one in choices if not isinstance(one, str)]


def _dataclass_fields(cls: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a dataclass that pydantic reads, and the annotations of those set outside `__init__`."""
    from pydantic.fields import FieldInfo

    known = vars(cls).get("__pydantic_fields__") or {}
    written = shapes.dataclass_annotations(cls)
    infos, later = {}, {}
    for field in dataclasses.fields(cls):
        annotation = written[field.name]
        if not field.init:
            later[field.name] = annotation
        elif field.name in known:
            infos[field.name] = known[field.name]
        elif isinstance(field.default, FieldInfo):
            infos[field.name] = FieldInfo.from_annotated_attribute(annotation, field.default)
        else:
            infos[field.name] = FieldInfo.from_annotation(annotation)
    return infos, later


def _adapter(annotation: Any) -> Any:
    try:
        return adapter(annotation)
    except ConfigurationError as error:
        raise _Refusal(str(error)) from error


def _is_default(found: Any, field: str) -> bool:
    """Whether nothing, such as a validator, has set a field that was not stored."""
    were_set = getattr(found, "__pydantic_fields_set__", None)
    if isinstance(were_set, set):
        return field not in were_set
    info = {one.name: one for one in dataclasses.fields(found)}[field]
    if info.default_factory is not dataclasses.MISSING:
        return bool(getattr(found, field) == info.default_factory())
    if info.default is dataclasses.MISSING:
        return info.init or not hasattr(found, field)  # `__post_init__` may have set it
    return bool(getattr(found, field) == info.default)


def _state(found: Any) -> dict[str, Any]:
    if type_names.is_model(type(found)):
        return {**found.__dict__, **(getattr(found, "__pydantic_extra__", None) or {})}
    names = [field.name for field in dataclasses.fields(found)]
    return {name: getattr(found, name) for name in names if hasattr(found, name)}


def _same(one: Any, other: Any) -> bool:
    """Equal at every level; a nan equals a nan."""
    if type(one) is not type(other):
        return False
    if type_names.is_model(type(one)) or type_names.is_dataclass(type(one)):
        return _same(_state(one), _state(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other or (one != one and other != other))


def _listed(fields: Mapping[str, str]) -> str:
    shown = [f"{name}: {kind}" for name, kind in fields.items()]
    more = len(shown) - MAX_LISTED
    return ", ".join(shown[:MAX_LISTED] + ([f"{more} more"] if more > 0 else []))


def problem_in(error: BaseException) -> str:
    """What is wrong with stored fields, by an error of their validation: in one line, without the values."""
    from pydantic import ValidationError

    if isinstance(error, MismatchError):
        return str(error)
    if not failures.is_a(error, ValidationError):
        return failures.line_of(error).partition("\n")[0]  # pydantic's advice with links may follow
    details = cast(ValidationError, error).errors(
        include_url=False, include_context=False, include_input=False
    )
    shown = [": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in details]
    return "; ".join(shown[:MAX_LISTED])
