"""Rates: the requests of callers, counted for all servers of a namespace together."""

from __future__ import annotations

from hashlib import blake2b

from polos_redis.state import scripts
from polos_redis.state.partitions import Partitions

PATIENCE_SECONDS = 1.0  # without Redis, a server goes on with its own count


class Rates:
    """All rates of the namespace. A caller has one key with a TTL, named by a hash of who they are."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def take(self, caller: str, interval: float, window: float, wanted: int) -> tuple[int, float]:
        """Count up to `wanted` requests of a caller: one per `interval` (s), in bursts of one `window` (s).

        Returns how many were counted, and if none, how many seconds to wait.
        """
        name = blake2b(caller.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        taken, wait = await self._wire.call_script(
            scripts.TAKE_REQUESTS,
            self._partitions.rate_prefix(name),
            name,
            round(interval * 1e6),
            round(window * 1e6),
            wanted,
            patience=PATIENCE_SECONDS,
        )
        return taken, wait / 1e6
