"""Allowances: how much of something one caller, and all callers together, may use at a time."""

from __future__ import annotations

from collections import Counter

from polos_redis.server import problems
from polos_redis.server.problems import Problem

RETRY_SECONDS = 1


class Allowance:
    """A number of `things` (bytes, streams) that the callers of this process may use at a time: `each` per
    caller, and `total` together."""

    def __init__(self, things: str, each: int, total: int) -> None:
        self._things = things
        self._each = each
        self._total = total
        self._used: Counter[str] = Counter()
        self._all = 0

    def take(self, caller: str, amount: int = 1) -> None:
        """Use some. Raises `Problem` 429 if the caller has too much in use, 503 if all callers have."""
        if self._used[caller] + amount > self._each:
            raise problems.too_many(RETRY_SECONDS, f"{self._each} {self._things} are in use by this caller")
        if self._all + amount > self._total:
            raise Problem(
                503,
                f"the server is busy: {self._total} {self._things} are in use; try again in 1 s",
                kind="busy",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        self._used[caller] += amount
        self._all += amount

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Stop using some."""
        self._all -= amount
        self._used[caller] -= amount
        if self._used[caller] <= 0:
            del self._used[caller]
