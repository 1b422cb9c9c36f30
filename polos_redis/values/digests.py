"""Digests that recognise the same value again."""

from __future__ import annotations

import json
from hashlib import blake2b, sha256
from typing import Any

from msgpack import ExtType, packb, unpackb

from polos_redis.errors import NotStorableError
from polos_redis.values import codec, packing

_CANONICAL_DICT, _CANONICAL_SET = 64, 65  # extension types that only digests see


def canonical_digest(value: object) -> bytes:
    """16 bytes that are the same for the same value, whatever the order of its dicts and sets.

    1, 1.0 and True differ, and so do a model and the dict of its fields; which fields of a model were
    set explicitly makes no difference, as for `==`. Raises NotStorableError.
    """
    return stored_digest(codec.encode(value, limit=codec.UNLIMITED))


def stored_digest(data: bytes) -> bytes:
    """`canonical_digest` of a value that is encoded already; its types need not be known here."""
    try:
        canonical = _canonical(_neutral(data))
        return blake2b(_pack_neutral(canonical), digest_size=16).digest()
    except (RecursionError, ValueError) as error:
        if isinstance(error, NotStorableError):
            raise
        raise NotStorableError(f"$: {packing.TOO_DEEP}") from None


def shown_digest(shown: bytes) -> bytes:
    """SHA-256 of what a suspension shows: its JSON in UTF-8, keys sorted, without blanks."""
    plain = json.dumps(codec.to_plain(shown), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(plain.encode("utf-8", "surrogatepass")).digest()


def _neutral(data: bytes) -> Any:
    # Without a hook an extension stays an ExtType: no type is needed and no user's code runs.
    return unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")


def _pack_neutral(value: Any) -> bytes:
    packed: bytes = packb(value, unicode_errors="surrogatepass")
    return packed


def _canonical(value: Any) -> Any:
    """The same tree with dicts and sets as sorted sequences of their packed entries."""
    cls = type(value)
    if cls is list:
        return [_canonical(item) for item in value]
    if cls is dict:
        entries = (_pack_neutral(_canonical(k)) + _pack_neutral(_canonical(v)) for k, v in value.items())
        return ExtType(_CANONICAL_DICT, b"".join(sorted(entries)))
    if cls is not ExtType:
        return value
    code, payload = value
    if code in (packing.SET, packing.FROZENSET):
        entries = (_pack_neutral(_canonical(item)) for item in _neutral(payload))
        return ExtType(_CANONICAL_SET, bytes([code]) + b"".join(sorted(entries)))
    if code == packing.TUPLE or code in packing.RECORD_KINDS:
        body = _neutral(payload)
        if code == packing.MODEL and len(body) > 2:
            body = [body[0], body[1], *(body[3:] if any(body[3:]) else ())]
        return ExtType(code, _pack_neutral(_canonical(body)))
    return value
