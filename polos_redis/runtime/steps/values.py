"""`ctx.step.uuid`, `now`, `random`: values that are the same at every replay; and idempotency keys."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Coroutine
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

from polos_redis.runtime.call_sites import CallSite, caller
from polos_redis.runtime.steps.run import Runs

T = TypeVar("T")


async def _uuid() -> str:
    return str(uuid.uuid4())


async def _random() -> float:
    return random.random()


async def _recorded(values: dict[tuple[str, str], Any], name: tuple[str, str], make: Any) -> Any:
    """Returns the recorded value of a step; one that has none is recorded."""
    if name not in values:
        values[name] = await make()
    return values[name]


class Values(Runs):
    """Steps that journal a value instead of the result of a user's function."""

    __slots__ = ()

    def uuid(self, key: str) -> Coroutine[Any, Any, str]:
        """A random UUID (version 4) as text, the same at every replay."""
        return self._value(key, _uuid, caller())

    def now(self, key: str) -> Coroutine[Any, Any, int]:
        """The time in ms since 1970 by the worker's clock when this was first reached."""
        return self._value(key, self._activation.host.store.clock.now_ms, caller())

    def random(self, key: str) -> Coroutine[Any, Any, float]:
        """A random number from 0 to 1 (1 excluded), the same at every replay. Not for secrets."""
        return self._value(key, _random, caller())

    def _value(
        self, key: str, make: Callable[[], Coroutine[Any, Any, T]], call_site: CallSite
    ) -> Coroutine[Any, Any, T]:
        recorded = self._activation.host.recorded_values
        if recorded is not None:
            make = partial(_recorded, recorded, (self._activation.id, self._of_this_run(key)), make)
        return self._run(key, True, make, 0, 0.0, 0.0, call_site)

    def idempotency_key(self, key: str) -> str:
        """A stable key (32 hex digits) for the far side of a step: the same at every attempt, replay and
        retry, and another one after `ctx.continue_as_new`."""
        name = f"{self._activation.id}\0{self._of_this_run(key)}".encode("utf-8", "surrogatepass")
        return blake2b(name, digest_size=16).hexdigest()

    def _of_this_run(self, key: str) -> str:
        """A step key, told apart from the same one before `ctx.continue_as_new`."""
        since = self._activation.origin.since_run
        return key if since == 1 else f"{key}\0{since}"
