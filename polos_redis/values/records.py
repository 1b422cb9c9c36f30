"""Conversion of models, dataclasses and enum members to plain state, and back.

State, not constructor arguments: a restored object gets the attribute values it had. Validators, `__init__`
and `__post_init__` don't run, because they need not be idempotent. That holds while the class has the shape
it was stored with (shapes.py); the fields of another shape are validated or refused (changed.py).

Bodies, the lists that are packed (trailing items without information are left out):
    model      [tag, fields, names of the fields that were set, extra fields or nil, private or nil]
    dataclass  [tag, fields, other attributes]
    enum       [type name, member name, value, unless that can't be stored]
A tag is `<type name>#<fingerprint of the shape>`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Set
from enum import Flag
from functools import cached_property
from types import MemberDescriptorType
from typing import Any

from polos_redis.errors import NotStorableError, UnknownTypeError, UnreadableValueError
from polos_redis.values import changed, shapes, type_names
from polos_redis.values.view import View

Body = Callable[[Any], list[Any]]
Restore = Callable[[list[Any]], Any]

MODEL, DATACLASS, ENUM = "model", "dataclass", "enum"

_BUILTIN = frozenset((type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset))
_new = object.__new__
_set = object.__setattr__  # past frozen classes and pydantic's own __setattr__
# tag or enum's type name -> (type name, type, kind, function)
_RESTORERS: dict[str, tuple[str, type, str, Restore]] = {}


def kind_of(cls: type) -> str | None:
    """MODEL, DATACLASS or ENUM; None for other classes. An enum may mix in a dataclass and is an enum."""
    if cls in _BUILTIN:  # nearly always
        return None
    if type_names.is_enum(cls):
        return ENUM
    if type_names.is_model(cls):
        return MODEL
    return DATACLASS if type_names.is_dataclass(cls) else None


def tag_of(cls: type) -> str:
    """The tag that a model's or dataclass's instances are stored with."""
    return f"{type_names.type_name(cls)}#{shapes.fingerprint(cls)}"


def name_in(tag: str) -> str:
    """The type name in a tag."""
    return tag.partition("#")[0]


def body_of(cls: type) -> Body:
    """The function that converts an instance of cls to its body.

    Raises NotStorableError if another process could not find or restore cls.
    """
    name = _findable_name(cls)
    kind = kind_of(cls)
    if kind == ENUM:
        return lambda member: [name, member._name_, member._value_]
    if kind == MODEL:
        return _model_body(cls, tag_of(cls))
    try:
        if not issubclass(cls, View):
            _new(cls)
    except TypeError as error:
        raise NotStorableError(
            f"a {cls.__qualname__} can't be stored, because it holds more than its fields ({error})"
        ) from None
    return _dataclass_body(cls, tag_of(cls))


def restore(kind: str, body: Any) -> Any:
    """Restores an instance from its body. Raises UnreadableValueError, or anything if the body is damaged."""
    tag = body[0]
    known = _RESTORERS.get(tag)
    if known is None or type_names.find_type(known[0]) is not known[1]:
        known = _restorer(tag)
        if len(_RESTORERS) >= 4096:  # names of parametrised models and damaged tags are unlimited
            _RESTORERS.clear()
        _RESTORERS[tag] = known
    if known[2] != kind:
        raise UnreadableValueError(f"the stored {kind} {known[0]!r} is a {known[2]} here")
    return known[3](body)


def _restorer(tag: str) -> tuple[str, type, str, Restore]:
    name, _, shape = tag.partition("#")
    cls = type_names.find_type(name)
    if cls is None:
        missing = next(iter(type_names.missing_types(name)), name)
        inner = f", with {missing!r}," if missing != name else ""
        raise UnknownTypeError(
            f"the type {name!r}{inner} is not imported in this process: import its module; if the class was "
            f"moved or renamed, declare it with @stored_as({missing!r})"
        )
    kind = kind_of(cls)
    assert kind is not None  # find_type finds only these kinds
    if kind == ENUM:
        return name, cls, kind, _enum_restorer(cls, name)
    if issubclass(cls, View):
        return name, cls, kind, lambda body: cls.restored(_named(body[1]))
    is_same = shape == shapes.fingerprint(cls)
    if kind == MODEL:
        return name, cls, kind, _model_restorer(cls) if is_same else _changed_model_restorer(cls, name)
    return name, cls, kind, _dataclass_restorer(cls) if is_same else _changed_dataclass_restorer(cls, name)


def restore_or_fields(kind: str, body: Any) -> Any:
    """As `restore`; for a type that is not imported, the dict of its fields, or an enum member's value. If
    that is not stored, its name."""
    if type_names.find_type(name_in(body[0])) is not None:
        return restore(kind, body)
    if kind == ENUM:
        return body[-1]
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
    place = type_names.place_of(cls)
    if found is not None and place != (other := type_names.place_of(found)):
        if type_names.is_same_source(found, cls):
            raise NotStorableError(
                f"the class {name} exists twice, as {place} and as {other}: import its module by one name"
            )
        raise NotStorableError(
            f"the class {place} can't be stored as {name}, the name of {other}: give it another with "
            "@stored_as"
        )
    raise NotStorableError(
        f"the class {cls.__qualname__} can't be found as {place}: assign it to that name in its module"
    )


# --- pydantic models --------------------------------------------------------------------


def _model_body(cls: Any, tag: str) -> Body:
    names = dict.fromkeys(shapes.model_fields(cls)).keys()

    def body(model: Any) -> list[Any]:
        state = model.__dict__
        if state.keys() != names:
            # More: cached properties. Fewer: model_construct() without a required field.
            for field in names:
                if field not in state:
                    raise NotStorableError(_unset(cls, field))
            state = {field: state[field] for field in names}
        were_set = model.__pydantic_fields_set__
        extra = model.__pydantic_extra__
        private = model.__pydantic_private__
        if private is not None or extra:
            return [tag, state, list(were_set), extra or None, private]
        return [tag, state] if were_set == names else [tag, state, list(were_set)]

    return body


def _model_restorer(cls: Any) -> Restore:
    names = dict.fromkeys(shapes.model_fields(cls)).keys()
    all_set = frozenset(names)
    is_root = cls.__pydantic_root_model__
    has_private = bool(cls.__private_attributes__)
    allows_extra = cls.model_config.get("extra") == "allow"

    def restore_model(body: list[Any]) -> Any:
        state = body[1]
        if state.keys() != names:
            raise UnreadableValueError(f"it is damaged (a {cls.__qualname__} without all of its fields)")
        model = _new(cls)
        _set(model, "__dict__", state)
        if len(body) == 2:
            _set(model, "__pydantic_fields_set__", set(all_set))
        else:
            were_set = set(body[2])
            if not were_set <= all_set:  # names of extra fields, or damage
                were_set = {n for n in were_set if type(n) is str}
            _set(model, "__pydantic_fields_set__", were_set)
        if is_root:  # root models have class attributes instead of the two slots
            return model
        stored_extra, stored_private = (body[3], body[4]) if len(body) > 3 else (None, None)
        _set(model, "__pydantic_extra__", _named(stored_extra) if allows_extra else None)
        _set(model, "__pydantic_private__", _named(stored_private) if has_private else None)
        return model

    return restore_model


def _changed_model_restorer(cls: Any, name: str) -> Restore:
    def restore_changed(body: list[Any]) -> Any:
        extra, private = (_named(body[3]), _named(body[4])) if len(body) > 3 else ({}, {})
        fields = _named(body[1])
        model = changed.validated(cls, name, {**extra, **fields}, private)
        if len(body) > 2:
            unset = fields.keys() - set(body[2])
            _set(model, "__pydantic_fields_set__", model.__pydantic_fields_set__ - unset)
        return model

    return restore_changed


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


# --- dataclasses ------------------------------------------------------------------------


def _in_slots(cls: type, names: list[str]) -> bool:
    attributes: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        attributes.update(vars(base))
    return any(isinstance(attributes.get(name), MemberDescriptorType) for name in names)


def _dataclass_body(cls: Any, tag: str) -> Body:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    names = fields.keys()
    slots = _in_slots(cls, list(names))
    # Not worth storing: cached properties, and the attribute that typing sets on instances of a Generic.
    ignored = {n for base in cls.__mro__ for n, v in vars(base).items() if isinstance(v, cached_property)}
    ignored |= {"__orig_class__", *names}

    def body(value: Any) -> list[Any]:
        if not slots and value.__dict__.keys() == names:
            return [tag, value.__dict__]
        state = {}
        for field, info in fields.items():
            try:
                state[field] = getattr(value, field)
            except AttributeError:
                if info.init:
                    raise NotStorableError(_unset(cls, field)) from None
        others = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in ignored}
        return [tag, state, others] if others else [tag, state]

    return body


def _dataclass_restorer(cls: Any) -> Restore:
    required = {field.name for field in dataclasses.fields(cls) if field.init}
    names = {field.name: None for field in dataclasses.fields(cls)}.keys()
    in_dict = not _in_slots(cls, list(names)) and hasattr(_new(cls), "__dict__")

    def restore_dataclass(body: list[Any]) -> Any:
        state = body[1]
        value = _new(cls)
        if in_dict and type(state) is dict and state.keys() == names and len(body) == 2:
            _set(value, "__dict__", state)
            return value
        if not required <= _named(state).keys() <= names:
            raise UnreadableValueError(f"it is damaged (a {cls.__qualname__} without all of its fields)")
        for field, stored in state.items():
            _set(value, field, stored)
        if len(body) > 2:
            _set_others(value, body[2], names)
        return value

    return restore_dataclass


def _changed_dataclass_restorer(cls: Any, name: str) -> Restore:
    names = {field.name for field in dataclasses.fields(cls)}

    def restore_changed(body: list[Any]) -> Any:
        others = _named(body[2]) if len(body) > 2 else {}
        now_fields = {attribute: stored for attribute, stored in others.items() if attribute in names}
        value = changed.validated(cls, name, {**now_fields, **_named(body[1])})
        _set_others(value, others, names)
        return value

    return restore_changed


def _set_others(value: Any, others: Any, names: Set[str]) -> None:
    """Restore the attributes of an instance that are not fields."""
    if hasattr(value, "__dict__"):
        for attribute, stored in _named(others).items():
            if attribute not in names:
                value.__dict__[attribute] = stored


# --- enums ------------------------------------------------------------------------------


def _enum_restorer(cls: Any, name: str) -> Restore:
    members = cls._member_map_

    def by_name(member: Any) -> Any:
        found = members.get(member)
        if found is None and issubclass(cls, Flag) and type(member) is str:
            parts = [members.get(part) for part in member.split("|")]  # A|B is no member of its own
            found = None if None in parts else functools.reduce(operator.or_, parts)
        return found

    def by_value(value: Any) -> Any:
        try:
            return cls(value)  # a renamed member, a combination of flags, or what the class's _missing_ finds
        except BaseException:  # a user's _missing_ may raise anything
            return None

    def restore_enum(body: list[Any]) -> Any:
        member = body[1]
        found = members.get(member)
        if found is not None and len(body) == 2:
            return found  # its value can't be stored
        value = body[2] if len(body) > 2 else member
        if found is not None and type(found._value_) is type(value) and found._value_ == value:
            return found
        found, same = by_name(member), by_value(value)
        if same is not None and found in (None, same):
            return same
        if found is None:
            raise UnreadableValueError(
                f"the enum {name} no longer has a member {member!r}: restore it to read older values"
            )
        other = "" if same is None else f", and {value!r} is {same._name_!r}"
        raise UnreadableValueError(
            f"the enum {name} has changed: {member!r} was stored with the value {value!r}, but is "
            f"{found._value_!r} now{other}: restore its value, or map the stored one in _missing_"
        )

    return restore_enum
