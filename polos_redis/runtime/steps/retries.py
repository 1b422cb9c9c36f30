"""The retry policy of a step: whether a failed attempt is retried, and after how long."""

from __future__ import annotations

from typing import Any

from polos_redis import failures
from polos_redis.errors import HookFailedError, NoRetryError, StoredValueError

LONGEST_RETRY_AFTER = 86_400.0

_FINAL = (StoredValueError, HookFailedError, NoRetryError)  # a retry would not help


def check_retries(key: str, max_retries: Any, base_delay: Any, max_delay: Any) -> None:
    """Raises `ValueError` unless these are a number of retries and two delays in seconds."""
    numbers = (int, float)
    if not (
        type(max_retries) is int
        and max_retries >= 0
        and type(base_delay) in numbers
        and type(max_delay) in numbers
        and 0 <= base_delay < 1e10
        and 0 <= max_delay < 1e10
    ):
        raise ValueError(
            f"step {key!r}: max_retries must be a whole number, base_delay and max_delay seconds, all at "
            f"least 0, not {max_retries!r}, {base_delay!r}, {max_delay!r}"
        )


def retry_delay(
    failure: BaseException, attempt: int, max_retries: int, base_delay: float, max_delay: float
) -> float | None:
    """Returns the seconds until the next attempt; None if this one (from 1) was the last.

    An exception group is final if one of the exceptions in it is.
    """
    if attempt > max_retries or any(failures.is_a(one, *_FINAL) for one in failures.members(failure)):
        return None
    requested = min(failures.retry_after(failure), LONGEST_RETRY_AFTER)
    return max(min(max_delay, base_delay * 2.0 ** min(attempt - 1, 60)), requested)
