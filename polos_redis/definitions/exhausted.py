"""What becomes of an execution that has failed and has no retries left."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from polos_redis.errors import ConfigurationError

OnExhausted: TypeAlias = Literal["fail", "pause"]

FAIL: OnExhausted = "fail"  # it ends
PAUSE: OnExhausted = "pause"  # it waits for somebody to retry or cancel it


def checked(value: Any, workflow_id: str) -> OnExhausted:
    """Returns the option of a workflow. Raises `ConfigurationError` for another value."""
    if isinstance(value, str) and value in (FAIL, PAUSE):
        return value
    raise ConfigurationError(
        f'workflow {workflow_id!r}: on_exhausted must be "fail" or "pause", not {value!r}'
    )
