"""Codec for users' values. The rest of the package encodes and decodes through this module only.

- `encode`, `decode`: a value to bytes and back, with equal value and type (packing.py defines the format)
- `encode_record`, `encode_list`: a record or list of values that are already encoded
- `to_plain`, `plain`: values as plain JSON (plain.py)
- `validate_input`: workflow inputs (validation.py)
"""

from __future__ import annotations

from typing import Any

from polos_redis import failures
from polos_redis.errors import NotStorableError, UnreadableValueError, ValueTooLargeError
from polos_redis.values import packing, refusals
from polos_redis.values.packing import pack_list as encode_list
from polos_redis.values.packing import pack_record as encode_record
from polos_redis.values.plain import to_plain
from polos_redis.values.validation import validate_input

__all__ = [
    "decode",
    "encode",
    "encode_list",
    "encode_record",
    "plain",
    "to_plain",
    "validate_input",
]

DEFAULT_LIMIT = 1_048_576  # bytes
UNLIMITED = 1 << 40  # bytes: for values that are not stored, or whose size was already checked


def encode(value: object, *, limit: int = DEFAULT_LIMIT) -> bytes:
    """Encodes a value in at most `limit` bytes. `decode` returns an equal value of the same type.

    Storable are None, bool, int of any size, float, str, bytes, list, tuple, set, frozenset, dict with any
    hashable keys, datetime, date, time, timedelta, Decimal, UUID, enum members, module-level pydantic models
    and dataclasses, and any nesting of these. Subclasses of builtins are refused; bytearray and memoryview
    are decoded as bytes.

    Raises NotStorableError with the path inside the value (`$.items[3].file: ...`) and ValueTooLargeError.
    """
    try:
        data = packing.pack(value)
    except BaseException as error:  # from msgpack, from packing.py, or anything from a user's class
        cause = None if isinstance(error, NotStorableError) else error
        raise NotStorableError(refusals.explain(value, error)) from cause
    if len(data) > limit:
        raise ValueTooLargeError(
            f"the value takes {len(data):,} bytes, and the limit is {limit:,}: store it elsewhere and pass a "
            "reference, or raise max_value_bytes (POLOS_MAX_VALUE_BYTES)"
        )
    return data


def decode(data: bytes, *, or_fields: bool = False) -> Any:
    """Decodes a value that `encode` returned. With `or_fields`, a model or dataclass whose type is not
    imported is the dict of its fields, and such an enum member its value.

    Types are looked up among imported modules. Stored bytes can't cause an import or a call, except to
    create records of known classes. Raises only UnreadableValueError: for damaged or truncated bytes, for a
    newer format, for a class that has changed so that it refuses the stored fields (changed.py), and, as
    UnknownTypeError, for a type that this process has not imported.
    """
    try:
        return packing.unpack(data, 0, packing.HOOKS_OR_FIELDS) if or_fields else packing.unpack(data)
    except UnreadableValueError as error:
        raise type(error)(f"a stored value can't be read: {error}") from None
    except BaseException as error:  # a user's class may raise anything, SystemExit too
        raise UnreadableValueError(
            f"a stored value can't be read: it is damaged ({failures.repr_of(error)})"
        ) from error


def plain(value: object) -> Any:
    """The plain JSON form of a storable value, the same that `to_plain` returns for its stored bytes.

    Raises NotStorableError.
    """
    return to_plain(encode(value, limit=UNLIMITED))
