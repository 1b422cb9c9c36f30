"""Stored tuples: lists that begin with the version of their format.

A version may append items, which older readers ignore. What they would misread gets a new version, which they
refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from polos_redis.errors import UnreadableValueError

VERSION: Final = 1


def items_of(what: str, stored: Sequence[Any]) -> Sequence[Any]:
    """Returns the items after the version. Raises `UnreadableValueError` for another version."""
    if not stored or stored[0] != VERSION:
        version = stored[0] if stored else None
        raise UnreadableValueError(
            f"{what} is of version {version!r}, which this release can't read: deploy the release that "
            "wrote it"
        )
    return stored[1:]
