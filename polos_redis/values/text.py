"""Strings as stored in Redis (UTF-8 with lone surrogates), and the form in which names are compared."""

from __future__ import annotations

import unicodedata


def text(value: bytes | None) -> str:
    """Decodes a stored string; None gives an empty string."""
    return "" if value is None else value.decode("utf-8", "surrogatepass")


def raw(value: str) -> bytes:
    """Encodes a string for the store."""
    return value.encode("utf-8", "surrogatepass")


def canonical(name: str) -> str:
    """Normal form of a person's name, equal for all spellings that count as the same person."""
    return unicodedata.normalize("NFKC", name).strip().casefold()
