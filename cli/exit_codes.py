"""Exit codes of commands, beyond 0 for success, 1 for failure and 2 for wrong usage."""

from __future__ import annotations

from polos_redis.errors import PolosError, ReleaseTooOldError

from .usage import UsageError

BLOCKED = 70  # the event loop was blocked for too long
TOO_OLD = 78  # the namespace needs a newer release: a restart of this one won't help


def exit_code(error: PolosError) -> int:
    """Returns the exit code of a command that ends with an error."""
    if isinstance(error, ReleaseTooOldError):
        return TOO_OLD
    return 2 if isinstance(error, UsageError) else 1
