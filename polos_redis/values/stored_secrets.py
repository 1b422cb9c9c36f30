"""Removes tokens and secrets from stored bytes, for copies of them that leave Redis."""

from __future__ import annotations

from typing import Any

from msgpack import ExtType, packb, unpackb

from polos_redis.redaction import may_have_secrets, redact_text

_BYTES_AS_TEXT = "surrogateescape"  # reversible: records have encoded values where values have texts


def redact_stored(stored: bytes) -> bytes:
    """Returns a value, a journal record or a stored error without tokens and secrets (see redaction.py), and
    otherwise the same."""
    if not may_have_secrets(stored):
        return stored
    try:
        value = unpackb(stored, strict_map_key=False, unicode_errors=_BYTES_AS_TEXT)
    except ValueError:  # no msgpack: a text
        return redact_text(stored.decode("utf-8", _BYTES_AS_TEXT)).encode("utf-8", _BYTES_AS_TEXT)
    packed: bytes = packb(_redacted(value), unicode_errors=_BYTES_AS_TEXT)
    return packed


def _redacted(value: Any) -> Any:
    cls = type(value)
    if cls is str:
        return redact_stored(value.encode("utf-8", _BYTES_AS_TEXT)).decode("utf-8", _BYTES_AS_TEXT)
    if cls is bytes:
        return redact_stored(value)
    if cls is ExtType:
        return ExtType(value.code, redact_stored(value.data))
    if cls is list:
        return [_redacted(item) for item in value]
    if cls is dict:
        return {_redacted(key): _redacted(item) for key, item in value.items()}
    return value
