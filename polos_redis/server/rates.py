"""Rate limits of one server process, in its memory."""

from __future__ import annotations

import re
import time
from ipaddress import IPv6Address, ip_address

from polos_redis.errors import ConfigurationError

UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
MOST_KNOWN = 10_000  # then those who have been quiet are forgotten


class Rate:
    """So many per unit of time for each who asks; all at once or spread over it.

    Who asks is held to a steady flow with a burst (GCRA): one number for each, the time at which what was
    taken so far is paid off.
    """

    def __init__(self, text: str) -> None:
        """`text` as in "600/minute"; the units are second, minute, hour and day."""
        found = re.fullmatch(r"\s*([1-9]\d{0,8})\s*/\s*([a-z]+?)s?\s*", text)
        if found is None or found[2] not in UNITS:
            raise ConfigurationError(
                f"a rate limit is a number per {', '.join(UNITS)}, as in 600/minute, not {text!r}"
            )
        self._window = UNITS[found[2]]
        self._each = self._window / int(found[1])
        self._paid: dict[str, float] = {}

    def take(self, who: str) -> float:
        """Take one; returns 0, or in how many seconds there is one again (then nothing was taken)."""
        now = time.monotonic()
        paid = max(self._paid.get(who, now), now) + self._each
        wait = paid - now - self._window
        if wait > 1e-9:
            return wait
        if len(self._paid) >= MOST_KNOWN and who not in self._paid:
            self._paid = {one: due for one, due in self._paid.items() if due > now}
        self._paid[who] = paid
        return 0.0


def neighbourhood(address: str) -> str:
    """Who counts as one without a key: an IPv4 address, the /64 of an IPv6 one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address
