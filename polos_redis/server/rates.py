"""Rate limits of one server process, in its memory."""

from __future__ import annotations

import re
import time
from ipaddress import IPv6Address, ip_address

from polos_redis.errors import ConfigurationError

UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
MAX_CALLERS = 10_000  # beyond that, idle callers are forgotten


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
        self._window = UNITS[found[2]]
        self._interval = self._window / int(found[1])
        self._paid: dict[str, float] = {}

    def take(self, caller: str) -> float:
        """Count a request; return 0. At the limit, count nothing and return the seconds to wait."""
        now = time.monotonic()
        paid = max(self._paid.get(caller, now), now) + self._interval
        wait = paid - now - self._window
        if wait > 1e-9:
            return wait
        if len(self._paid) >= MAX_CALLERS and caller not in self._paid:
            self._paid = {one: due for one, due in self._paid.items() if due > now}
        self._paid[caller] = paid
        return 0.0


def neighbourhood(address: str) -> str:
    """The network that counts as one caller without a key: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address
