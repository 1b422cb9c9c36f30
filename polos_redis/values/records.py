"""Conversion of models, dataclasses and enum members to plain state, and back.

State, not constructor arguments: a restored object gets the attribute values it had. Validators, `__init__`
and `__post_init__` don't run, because they need not be idempotent. If the class has changed since, removed
fields are dropped and new fields take their default; a new field without a default makes the value
unreadable.

Bodies, the lists that are packed (trailing items without information are left out):
    model      [type name, fields, names of the fields that were set, extra fields or nil, private or nil]
    dataclass  [type name, fields, other attributes]
    enum       [type name, member name, value]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Flag
from functools import cached_property
from types import MemberDescriptorType
from typing import Any

from polos_redis.errors import NotStorableError, UnreadableValueError
from polos_redis.values import type_names

Body = Callable[[Any], list[Any]]
Restore = Callable[[list[Any]], Any]

MODEL, DATACLASS, ENUM = "model", "dataclass", "enum"

_new = object.__new__
_set = object.__setattr__  # past frozen classes and pydantic's own __setattr__
_RESTORERS: dict[str, tuple[type, str, Restore]] = {}


def kind_of(cls: type) -> str | None:
    """MODEL, DATACLASS or ENUM; None for other classes. An enum may mix in a dataclass and is an enum."""
    if type_names.is_enum(cls):
        return ENUM
    if type_names.is_model(cls):
        return MODEL
    return DATACLASS if type_names.is_dataclass(cls) else None


def body_of(cls: type) -> Body:
    """The function that converts an instance of cls to its body.

    Raises NotStorableError if another process could not find or restore cls.
    """
    name = _findable_name(cls)
    kind = kind_of(cls)
    if kind == ENUM:
        return lambda member: [name, member._name_, member._value_]
    if kind == MODEL:
        return _model_body(cls, name)
    try:
        _new(cls)
    except TypeError as error:
        raise NotStorableError(
            f"a {cls.__qualname__} can't be stored, because it holds more than its fields ({error})"
        ) from None
    return _dataclass_body(cls, name)


def restore(kind: str, body: Any) -> Any:
    """Restores an instance from its body. Raises UnreadableValueError, or anything if the body is damaged."""
    name = body[0]
    cls = type_names.find_type(name)
    if cls is None:
        raise UnreadableValueError(
            f"the type {name!r} is not imported in this process: import its module, or restore the class if "
            "it was renamed or removed"
        )
    known = _RESTORERS.get(name)
    if known is None or known[0] is not cls:
        restorer_of = {ENUM: _enum_restorer, MODEL: _model_restorer, DATACLASS: _dataclass_restorer}
        actual = kind_of(cls)
        assert actual is not None  # find_type finds only these kinds
        known = (cls, actual, restorer_of[actual](cls, name))
        if len(_RESTORERS) >= 4096:  # names of parametrised models are unlimited
            _RESTORERS.clear()
        _RESTORERS[name] = known
    if known[1] != kind:
        raise UnreadableValueError(f"the stored {kind} {name!r} is a {known[1]} here")
    return known[2](body)


def restore_or_fields(kind: str, body: Any) -> Any:
    """As `restore`; for a type that is not imported, the dict of its fields, or an enum member's value."""
    if type_names.find_type(body[0]) is not None:
        return restore(kind, body)
    if kind == ENUM:
        return body[2]
    extra = body[3] if kind == MODEL and len(body) > 3 else None
    return {**_named(body[1]), **_named(extra)}


def _findable_name(cls: type) -> str:
    name = type_names.type_name(cls)
    if "<locals>" in name:
        raise NotStorableError(
            f"the class {cls.__qualname__} is defined inside a function, where other processes can't find "
            "it: move it to module level"
        )
    found = type_names.find_type(name)
    if found is cls or (found is not None and "[" in name):  # pydantic may have several equal Box[int]
        return name
    if found is not None and found.__module__ in ("__main__", "__mp_main__"):
        raise NotStorableError(
            f"the class {name} exists twice, in the running program and in an imported copy of its module: "
            "move it to a module that is only imported"
        )
    raise NotStorableError(
        f"the class {cls.__qualname__} can't be found as {name}: assign it to that name in its module"
    )


# --- pydantic models --------------------------------------------------------------------


def _model_fields(cls: Any) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(cls, "__pydantic_fields__", None) or cls.model_fields
    return fields


def _model_body(cls: Any, name: str) -> Body:
    names = dict.fromkeys(_model_fields(cls)).keys()

    def body(model: Any) -> list[Any]:
        state = model.__dict__
        if state.keys() != names:
            # More: cached properties. Fewer: model_construct() without a required field; when read back, it
            # would look like a field added to the class since.
            for field in names:
                if field not in state:
                    raise NotStorableError(_unset(cls, field))
            state = {field: state[field] for field in names}
        were_set = model.__pydantic_fields_set__
        extra = model.__pydantic_extra__
        private = model.__pydantic_private__
        if private is not None or extra:
            return [name, state, list(were_set), extra or None, private]
        return [name, state] if were_set == names else [name, state, list(were_set)]

    return body


def _model_restorer(cls: Any, name: str) -> Restore:
    fields = _model_fields(cls)
    names = dict.fromkeys(fields).keys()
    all_set = frozenset(names)
    is_root = cls.__pydantic_root_model__
    has_private = bool(cls.__private_attributes__)
    allows_extra = cls.model_config.get("extra") == "allow"

    def restore_model(body: list[Any]) -> Any:
        state = body[1]
        if type(state) is not dict or state.keys() != names:
            state = fit(state)
        model = _new(cls)
        _set(model, "__dict__", state)
        if len(body) == 2:
            _set(model, "__pydantic_fields_set__", set(all_set))
        else:
            were_set = set(body[2])
            if not were_set <= all_set:  # names of extra fields, of removed fields, or damage
                were_set = {n for n in were_set if type(n) is str}
            _set(model, "__pydantic_fields_set__", were_set)
        if is_root:  # root models have class attributes instead of the two slots
            return model
        stored_extra, stored_private = (body[3], body[4]) if len(body) > 3 else (None, None)
        _set(model, "__pydantic_extra__", _named(stored_extra) if allows_extra else None)
        _set(model, "__pydantic_private__", private(_named(stored_private)) if has_private else None)
        return model

    def fit(state: Any) -> dict[str, Any]:
        state, fitted = _named(state), {}
        for field, info in fields.items():
            if field in state:
                fitted[field] = state[field]
            elif info.is_required():
                raise UnreadableValueError(_lacks(name, field))
            else:
                takes_data = getattr(info, "default_factory_takes_validated_data", False)  # pydantic >= 2.10
                data = {"validated_data": fitted} if takes_data else {}
                fitted[field] = info.get_default(call_default_factory=True, **data)
        return fitted

    def private(stored: dict[str, Any]) -> dict[str, Any]:
        from pydantic_core import PydanticUndefined  # already imported, since cls is a model

        values = {}
        for attribute, info in cls.__private_attributes__.items():
            value = stored[attribute] if attribute in stored else info.get_default()
            if value is not PydanticUndefined:
                values[attribute] = value
        return values

    return restore_model


def _named(values: Any) -> dict[str, Any]:
    """Checks stored attributes: None means none, otherwise they must be a dict with string keys."""
    if values is None:
        return {}
    if type(values) is not dict or not all(type(key) is str for key in values):
        raise UnreadableValueError(
            "it is damaged (expected a stored object's attributes to have string names)"
        )
    return values


def _unset(cls: type, field: str) -> str:
    return f"a {cls.__qualname__} whose field {field!r} was never set can't be stored"


def _lacks(name: str, field: str) -> str:
    return (
        f"the stored {name} lacks the field {field!r}, which the class now requires: "
        "give the field a default so that older values can be read"
    )


# --- dataclasses ------------------------------------------------------------------------


def _in_slots(cls: type, names: list[str]) -> bool:
    attributes: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        attributes.update(vars(base))
    return any(isinstance(attributes.get(name), MemberDescriptorType) for name in names)


def _dataclass_body(cls: Any, name: str) -> Body:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    names = fields.keys()
    slots = _in_slots(cls, list(names))
    # Not worth storing: cached properties, and the attribute that typing sets on instances of a Generic.
    ignored = {n for base in cls.__mro__ for n, v in vars(base).items() if isinstance(v, cached_property)}
    ignored |= {"__orig_class__", *names}

    def body(value: Any) -> list[Any]:
        if not slots and value.__dict__.keys() == names:
            return [name, value.__dict__]
        state = {}
        for field, info in fields.items():
            try:
                state[field] = getattr(value, field)
            except AttributeError:
                if info.init:
                    raise NotStorableError(_unset(cls, field)) from None
        others = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in ignored}
        return [name, state, others] if others else [name, state]

    return body


def _dataclass_restorer(cls: Any, name: str) -> Restore:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    names = fields.keys()
    in_dict = not _in_slots(cls, list(names)) and hasattr(_new(cls), "__dict__")

    def restore_dataclass(body: list[Any]) -> Any:
        state = body[1]
        value = _new(cls)
        if in_dict and type(state) is dict and state.keys() == names and len(body) == 2:
            _set(value, "__dict__", state)
            return value
        for field, stored in fit(_named(state)).items():
            _set(value, field, stored)
        if len(body) > 2 and hasattr(value, "__dict__"):
            for attribute, stored in _named(body[2]).items():
                if attribute not in names:
                    value.__dict__[attribute] = stored
        return value

    def fit(state: dict[str, Any]) -> dict[str, Any]:
        fitted = {}
        for field, info in fields.items():
            if field in state:
                fitted[field] = state[field]
            elif info.default_factory is not dataclasses.MISSING:
                fitted[field] = info.default_factory()
            elif info.default is not dataclasses.MISSING:
                fitted[field] = info.default
            elif info.init:
                raise UnreadableValueError(_lacks(name, field))
        return fitted

    return restore_dataclass


# --- enums ------------------------------------------------------------------------------


def _enum_restorer(cls: Any, name: str) -> Restore:
    members = cls._member_map_
    is_flag = issubclass(cls, Flag)

    def restore_enum(body: list[Any]) -> Any:
        _, member, value = body
        found = members.get(member)  # by name first: a member may change its value
        if found is None and is_flag and type(value) is int:
            found = cls(value)  # A|B has no name of its own
        if found is None:
            same = (m for m in members.values() if type(m._value_) is type(value) and m._value_ == value)
            found = next(same, None)
        if found is None:
            raise UnreadableValueError(
                f"the enum {name} no longer has a member {member!r}: restore it to read older values"
            )
        return found

    return restore_enum
