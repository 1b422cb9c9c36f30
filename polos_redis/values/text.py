"""Texts as Redis holds them: UTF-8, lone surrogates included."""

from __future__ import annotations

import unicodedata


def text(value: bytes | None) -> str:
    """A stored text; empty for None."""
    return "" if value is None else value.decode("utf-8", "surrogatepass")


def raw(value: str) -> bytes:
    """The bytes a text is stored as."""
    return value.encode("utf-8", "surrogatepass")


def canonical(name: str) -> str:
    """The form in which people's names are compared: two spellings of one name are one person."""
    return unicodedata.normalize("NFKC", name).strip().casefold()
