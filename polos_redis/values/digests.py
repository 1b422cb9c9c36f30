"""Digests that are equal for equal values."""

from __future__ import annotations

import math
from hashlib import blake2b, sha256
from typing import Any

from msgpack import ExtType, unpackb

from polos_redis.errors import NotStorableError
from polos_redis.values import codec, packing, records
from polos_redis.values.packing import pack

_CANONICAL_DICT, _CANONICAL_SET = 64, 65  # extension types used in digests, never stored


def canonical_digest(value: object) -> bytes:
    """16-byte digest of a value, independent of the order of dicts and sets.

    1, 1.0 and True have different digests, and so have a model and the dict of its fields. As for `==`, it
    makes no difference which fields of a model were set explicitly, nor which shape their class had. Raises
    NotStorableError.
    """
    return stored_digest(codec.encode(value, limit=codec.UNLIMITED))


def stored_digest(data: bytes) -> bytes:
    """`canonical_digest` of an encoded value. Its types need not be imported."""
    return blake2b(_canonical_bytes(data), digest_size=16).digest()


def shown_digest(data: bytes, form: bytes = b"") -> bytes:
    """32-byte digest of what a suspension shows, both encoded: its data, as given, and the form that it
    declares. Different values that look alike when shown have different digests. As independent of order as
    `canonical_digest`."""
    found = sha256(_canonical_bytes(data))
    if form:
        found.update(_canonical_bytes(form))
    return found.digest()


def _canonical_bytes(data: bytes) -> bytes:
    try:
        return pack(_canonical(_neutral(data)))
    except (RecursionError, ValueError) as error:
        if isinstance(error, NotStorableError):
            raise
        raise NotStorableError(f"$: {packing.TOO_DEEP}") from None


def _neutral(data: bytes) -> Any:
    # Without a hook, extensions stay ExtTypes: no type has to be imported and no user code runs.
    return unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")


def _canonical(value: Any) -> Any:
    """The value with each dict and set replaced by its sorted packed entries."""
    cls = type(value)
    if cls is list:
        return [_canonical(item) for item in value]
    if cls is dict:
        entries = (pack(_canonical(k)) + pack(_canonical(v)) for k, v in value.items())
        return ExtType(_CANONICAL_DICT, b"".join(sorted(entries)))
    if cls is float and math.isnan(value):
        return math.nan  # whatever its sign and its payload
    if cls is not ExtType:
        return value
    code, payload = value
    if code == packing.JSON:  # the same value, however it came
        return _canonical(_neutral(payload))
    if code in (packing.SET, packing.FROZENSET):
        entries = (pack(_canonical(item)) for item in _neutral(payload))
        return ExtType(_CANONICAL_SET, bytes([code]) + b"".join(sorted(entries)))
    if code == packing.TUPLE or code in packing.RECORD_KINDS:
        body = _neutral(payload)
        if code in packing.RECORD_KINDS:
            body[0] = records.name_in(body[0])
        if code == packing.MODEL and len(body) > 2:
            body = [body[0], body[1], *(body[3:] if any(body[3:]) else ())]
        return ExtType(code, pack(_canonical(body)))
    return value
