"""The version of a workflow's code, which its executions are marked with when they start."""

from __future__ import annotations

from typing import Any

from polos_redis.errors import ConfigurationError
from polos_redis.state import keys


def checked(version: Any, workflow_id: str) -> str | None:
    """Returns the option of a workflow. Raises `ConfigurationError` for anything but a short text."""
    if version is None:
        return None
    name = keys.check_text(
        f"workflow {workflow_id!r}: version", version, keys.LONGEST_VERSION, error=ConfigurationError
    )
    if not name.isprintable():
        raise ConfigurationError(
            f"workflow {workflow_id!r}: version must have printable characters only, not {name!r}"
        )
    return name
