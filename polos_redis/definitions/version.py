"""The version of a workflow's code, which its executions are marked with when they start, and whether only
workers with this version run them."""

from __future__ import annotations

from typing import Any, Literal

from polos_redis.errors import ConfigurationError
from polos_redis.state import keys

VersionPolicy = Literal["any", "pin"]
ANY: VersionPolicy = "any"
PIN: VersionPolicy = "pin"


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


def pinned(policy: Any, version: str | None, workflow_id: str) -> str | None:
    """Returns the version that executions are pinned to as they start; None for those that any worker may
    continue. Raises `ConfigurationError` for an unknown policy, or for one that needs a version."""
    if policy not in (ANY, PIN):
        raise ConfigurationError(
            f"workflow {workflow_id!r}: version_policy must be {ANY!r} or {PIN!r}, not {policy!r}"
        )
    if policy == PIN and version is None:
        raise ConfigurationError(
            f"workflow {workflow_id!r}: version_policy={PIN!r} needs a version: give it version=..."
        )
    return version if policy == PIN else None
