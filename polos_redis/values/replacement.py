"""JSON in the place of a stored value: it gets the types of that value."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from msgpack import ExtType

from polos_redis.errors import InvalidInputError
from polos_redis.values import codec, packing, plain, records, validation

_LEAVES: dict[int, type] = {
    packing.DATETIME: datetime,
    packing.DATE: date,
    packing.TIME: time,
    packing.TIMEDELTA: timedelta,
    packing.DECIMAL: Decimal,
    packing.UUID_: UUID,
}
_COLLECTIONS = (packing.TUPLE, packing.SET, packing.FROZENSET)


def encode_like(stored: bytes, json: Any, *, limit: int) -> bytes:
    """Returns JSON encoded, with the types of the stored value that it replaces.

    Dates, numbers and collections become what they were; models and dataclasses keep the name of their class,
    which need not be imported here and checks the fields when it reads them. null, and JSON in the place of
    plain JSON, is stored as it is. Raises `InvalidInputError`, with the place, if JSON does not fit the
    type there; `NotStorableError` and `ValueTooLargeError`.
    """
    codec.encode(json, limit=limit)  # its depth is checked
    return codec.encode(_like(plain.neutral(stored), json, "$"), limit=limit)


def _like(old: Any, new: Any, path: str) -> Any:
    if new is None or old is None:
        return new
    if type(old) is ExtType:
        return _typed(old, new, path)
    if type(old) is bytes:
        raise InvalidInputError(f"{path}: it was bytes, which JSON does not have")
    if type(old) is float and type(new) is int:
        return float(new)
    if type(old) is dict and type(new) is dict:
        return {key: _like(old.get(key), one, f"{path}.{key}") for key, one in new.items()}
    if type(old) is list and type(new) is list:
        return _items(old, new, path)
    return new


def _items(old: list[Any], new: list[Any], path: str) -> list[Any]:
    """Returns the items of a list; those beyond the end of the old list are like its last one."""
    if not old:
        return new
    last = len(old) - 1
    return [_like(old[min(i, last)], one, f"{path}[{i}]") for i, one in enumerate(new)]


def _typed(old: ExtType, new: Any, path: str) -> Any:
    code = old.code
    if code in (packing.INT, packing.JSON):
        return new
    if code in _LEAVES:
        try:
            return validation.adapter(_LEAVES[code]).validate_python(new)
        except ValueError:
            raise InvalidInputError(
                f"{path}: expected a {_LEAVES[code].__name__}, as it was, not {new!r}"
            ) from None
    body = plain.neutral(old.data)
    if code in _COLLECTIONS:
        if type(new) is not list:
            raise InvalidInputError(f"{path}: expected a list, not {new!r}")
        return ExtType(code, packing.pack(_items(body, new, path)))
    if code == packing.ENUM:
        return ExtType(code, packing.pack([body[0], "", new]))
    name = records.name_in(body[0])
    if type(new) is not dict:
        raise InvalidInputError(f"{path}: expected an object with the fields of {name}, not {new!r}")
    return ExtType(code, packing.pack([name, _like(body[1], new, path)]))
