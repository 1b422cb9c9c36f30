"""What the executions of a worker share: clients of other services, made at first use, closed when it
stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Resources:
    """Things by name. `async with` it; what was made is closed at the end, the last first."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()

    async def get(self, name: Any, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """The thing of a name; it is made and entered when it is asked for first."""
        async with self._lock:
            if name not in self._made:
                self._made[name] = await self._stack.enter_async_context(make())
        return cast("T", self._made[name])

    async def close(self) -> None:
        """Close everything."""
        self._made.clear()
        await self._stack.aclose()
