"""Encodes users' values for Redis and decodes them: the one door between the two.

- `encode`, `decode`: a value to bytes and back, typed and equal (packing.py has the format)
- `encode_record`, `encode_list`: around values that are encoded already
- `to_plain`, `plain`: the same as plain JSON values (plain.py)
- `validate_input`: workflow inputs (validation.py)
"""

from __future__ import annotations

from typing import Any

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
UNLIMITED = 1 << 40  # for a value that is not stored, or whose size was checked before


def encode(value: object, *, limit: int = DEFAULT_LIMIT) -> bytes:
    """The stored form of a value, at most `limit` bytes; `decode` gives it back typed and equal.

    Storable: None, bool, int of any size, float, str, bytes, list, tuple, set, frozenset, dict with any
    hashable keys, datetime, date, time, timedelta, Decimal, UUID, enum members, pydantic models and
    dataclasses at module level, and mixtures. Subclasses of the builtins are refused; a bytearray or
    memoryview comes back as bytes.

    Raises NotStorableError naming the path inside the value (`$.items[3].file: ...`), and
    ValueTooLargeError.
    """
    try:
        data = packing.pack(value)
    except Exception as error:  # msgpack's own, a refusal, or what a property of a user's class raised
        cause = None if isinstance(error, NotStorableError) else error
        raise NotStorableError(refusals.explain(value, error)) from cause
    if len(data) > limit:
        raise ValueTooLargeError(
            f"the value takes {len(data):,} bytes stored and the limit is {limit:,}: keep it elsewhere and "
            "pass a reference, or raise max_value_bytes (POLOS_MAX_VALUE_BYTES)"
        )
    return data


def decode(data: bytes) -> Any:
    """The value that was encoded, with its types.

    Types are found among imported modules only; nothing is imported, and nothing the store names is
    called, except that a record of a known class is made. Raises UnreadableValueError and nothing else:
    damaged or truncated bytes, a type that is not imported here, a newer format.
    """
    try:
        return packing.unpack(data)
    except UnreadableValueError as error:
        raise UnreadableValueError(f"a stored value can't be read: {error}") from None
    except Exception as error:
        raise UnreadableValueError(f"a stored value can't be read, it is damaged: {error!r}") from error


def plain(value: object) -> Any:
    """A storable value as plain JSON values, exactly as `to_plain` shows it once stored.

    Raises NotStorableError.
    """
    return to_plain(encode(value, limit=UNLIMITED))
