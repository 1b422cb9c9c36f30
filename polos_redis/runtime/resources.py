"""Resources that a worker's executions share, such as HTTP clients: opened at first use, closed when the
worker stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Resources:
    """Resources by name; `close` closes them in reverse order."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()

    async def get(self, name: Any, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Returns the resource of a name; the first call makes it and enters it."""
        async with self._lock:
            if name not in self._made:
                self._made[name] = await self._stack.enter_async_context(make())
        return cast("T", self._made[name])

    async def close(self) -> None:
        """Close all resources."""
        self._made.clear()
        await self._stack.aclose()
