"""What a wrong command line raises."""

from __future__ import annotations

from polos_redis.errors import PolosError


class UsageError(PolosError):
    """The command line is wrong. Reported in one sentence, like every error, but with exit code 2."""
