"""Names of people and groups, and the form in which they are compared."""

from __future__ import annotations

import unicodedata


def canonical(name: str) -> str:
    """Normal form of a person's name, equal for all spellings that count as the same person."""
    return unicodedata.normalize("NFKC", name).strip().casefold()
