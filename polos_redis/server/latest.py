"""Results that callers share: a flood of them costs no more than a few."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from polos_redis.server.rates import Rate

T = TypeVar("T")


class Latest(Generic[T]):
    """The result of a call that is made at most at a rate such as "10/second".

    Callers that come while a call is under way await its result. Beyond the rate, they get the latest one.
    Errors are results, too.
    """

    def __init__(self, call: Callable[[], Awaitable[T]], rate: str) -> None:
        self._call = call
        self._rate = Rate(rate)
        self._task: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """Returns the result, or raises the error of the call."""
        if self._task is None or (self._task.done() and not self._rate.take("")):
            self._task = asyncio.ensure_future(self._call())
        return await asyncio.shield(self._task)
