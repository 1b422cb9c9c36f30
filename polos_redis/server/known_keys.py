"""What a server process remembers of API keys, so that callers it refuses cause no look-ups."""

from __future__ import annotations

import hashlib
import time
from typing import TypeVar

T = TypeVar("T")

MOST = 10_000  # secrets of each sort; beyond that, the oldest are forgotten
REFUSED_SECONDS = 10.0


class KnownKeys:
    """Secrets that were accepted or refused before, as digests.

    A secret that was accepted is looked up again at every request, as its key may have been revoked. One that
    was refused is refused for ten seconds without a look-up.
    """

    def __init__(self) -> None:
        self._accepted: dict[bytes, str] = {}
        self._refused: dict[bytes, float] = {}

    def accepted(self, secret: str) -> str | None:
        """The id of the key that this secret belonged to when it was last accepted."""
        return self._accepted.get(_digest(secret))

    def is_refused(self, secret: str) -> bool:
        """Whether this secret was refused within the last seconds."""
        return self._refused.get(_digest(secret), 0.0) > time.monotonic()

    def accept(self, secret: str, key_id: str) -> None:
        """Note that a secret was found to be that of a key."""
        _note(self._accepted, _digest(secret), key_id)

    def refuse(self, secret: str) -> None:
        """Note that a secret was found to be of no valid key."""
        digest = _digest(secret)
        self._accepted.pop(digest, None)
        _note(self._refused, digest, time.monotonic() + REFUSED_SECONDS)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _note(known: dict[bytes, T], digest: bytes, value: T) -> None:
    known.pop(digest, None)
    known[digest] = value
    if len(known) > MOST:
        del known[next(iter(known))]
