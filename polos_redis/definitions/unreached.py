"""What happens at the end of an execution whose journal has steps, children and events that its code skipped,
because the code has changed since. Accepted decisions are never skipped, whatever is chosen here."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from polos_redis.errors import ConfigurationError

Unreached: TypeAlias = Literal["stop", "warn", "ignore"]

STOP: Unreached = "stop"  # the execution is stuck
WARN: Unreached = "warn"  # it completes; the log and its report name them
IGNORE: Unreached = "ignore"  # it completes


def checked(value: Any, workflow_id: str) -> Unreached:
    """Returns the option of a workflow. Raises `ConfigurationError` for another value."""
    if isinstance(value, str) and value in (STOP, WARN, IGNORE):
        return value
    raise ConfigurationError(
        f'workflow {workflow_id!r}: unreached must be "stop", "warn" or "ignore", not {value!r}'
    )
