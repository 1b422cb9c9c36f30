"""Rate limits: counted in the memory of a process, and in Redis for all servers of a namespace together."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from ipaddress import IPv6Address, ip_address

from polos_redis.client import PolosClient
from polos_redis.errors import ConfigurationError, PolosError

UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
MAX_CALLERS = 10_000  # beyond that, idle callers are forgotten
SHARE = 20  # a server takes this part of a burst from Redis at once, so that few requests need a call


class Rate:
    """A rate limit per caller: a number of requests per unit of time, in a burst or spread out.

    Implements GCRA, with one number per caller: the time at which the requests so far are paid off.
    """

    def __init__(self, text: str) -> None:
        """Parse a limit such as "600/minute". Raises `ConfigurationError`."""
        found = re.fullmatch(r"\s*([1-9]\d{0,8})\s*/\s*([a-z]+?)s?\s*", text)
        if found is None or found[2] not in UNITS:
            raise ConfigurationError(
                f"a rate limit must be a number per {', '.join(UNITS)}, such as 600/minute, not {text!r}"
            )
        self.burst = int(found[1])
        self.window = UNITS[found[2]]
        self.interval = self.window / self.burst
        self._paid: dict[str, float] = {}

    def wait(self, caller: str) -> float:
        """The seconds until a request is within the limit; counts nothing."""
        wait = self._paid.get(caller, 0.0) + self.interval - time.monotonic() - self.window
        return wait if wait > 1e-9 else 0.0

    def take(self, caller: str) -> float:
        """Count a request; return 0. At the limit, count nothing and return the seconds to wait."""
        if wait := self.wait(caller):
            return wait
        now = time.monotonic()
        self._note(caller, max(self._paid.get(caller, now), now) + self.interval)
        return 0.0

    def block(self, caller: str, seconds: float) -> None:
        """Put a caller at the limit for some seconds."""
        self._note(caller, time.monotonic() + self.window - self.interval + seconds)

    def _note(self, caller: str, paid: float) -> None:
        if len(self._paid) >= MAX_CALLERS and caller not in self._paid:
            now = time.monotonic()
            self._paid = {one: due for one, due in self._paid.items() if due > now}
        self._paid[caller] = paid


class SharedRate:
    """A rate limit that all servers of a namespace count together.

    This process counts first, by itself, so a caller at the limit costs no call to Redis; without Redis, its
    own count is all there is. A server takes requests of a burst from Redis some at a time. What it does not
    use of them is at most a twentieth of the burst.
    """

    def __init__(self, client: PolosClient, kind: str, text: str) -> None:
        """Parse a limit such as "600/minute"; limits of different kinds are counted apart. Raises
        `ConfigurationError`."""
        self._client = client
        self._kind = kind
        self._own = Rate(text)
        self._taken: dict[str, int] = {}
        self._asking: dict[str, asyncio.Future[tuple[bool, float]]] = {}

    def wait(self, caller: str) -> float:
        """The seconds until a request is within the limit, as far as this process knows."""
        return self._own.wait(caller)

    async def take(self, caller: str) -> float:
        """Count a request; return 0. At the limit, count nothing and return the seconds to wait."""
        if wait := self._own.take(caller):
            return wait
        while not self._spend(caller):
            asking = self._asking.get(caller)
            if asking is None or asking.done():  # done, and others were quicker to spend what it took
                asking = self._asking[caller] = asyncio.ensure_future(self._ask(caller))
                asking.add_done_callback(functools.partial(self._forget, caller))
            allowed, wait = await asyncio.shield(asking)
            if not allowed:
                return wait
        return 0.0

    def _forget(self, caller: str, asked: asyncio.Future[tuple[bool, float]]) -> None:
        if self._asking.get(caller) is asked:
            del self._asking[caller]

    def _spend(self, caller: str) -> bool:
        """Use a request that was taken before."""
        left = self._taken.pop(caller, 0)
        if left > 1:
            self._taken[caller] = left - 1
        return left > 0

    async def _ask(self, caller: str) -> tuple[bool, float]:
        """Take requests from Redis: whether there are any, else the seconds to wait."""
        own, some = self._own, max(1, self._own.burst // SHARE)
        try:
            store = await self._client.store()
            taken, wait = await store.rates.take(f"{self._kind} {caller}", own.interval, own.window, some)
        except PolosError:
            taken, wait = some, 0.0
        if not taken:
            own.block(caller, wait)
            return False, wait
        if len(self._taken) >= MAX_CALLERS:
            self._taken.clear()
        self._taken[caller] = taken
        return True, 0.0


def network_of(address: str) -> str:
    """The network that counts as one caller without a key: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address
