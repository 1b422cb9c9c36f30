"""What a server says about itself, as far as its user may ask."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from polos_redis.errors import RedisRefusedError
from polos_redis.values.text import text
from polos_redis.wire.wire import Wire

INFO = ("server", "clients", "memory", "persistence", "stats", "replication", "cluster")
SETTINGS = (
    *("appendfsync", "appendonly", "hash-max-listpack-entries", "hash-max-listpack-value"),
    *("lazyfree-lazy-expire", "lazyfree-lazy-user-del", "maxclients", "maxmemory-policy"),
    *("min-replicas-to-write", "no-appendfsync-on-rewrite", "save", "stream-node-max-bytes"),
)
NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
CLOCK_READINGS = 5  # the quickest one counts


@dataclass(slots=True)
class ServerFacts:
    """The facts about one server.

    `info` has the fields of INFO and `settings` those of CONFIG GET; they are empty if the user may not call
    these commands. `clock_ahead` is how many seconds the server's clock is ahead of this machine's, at most
    `round_trip` / 2 off; `round_trip` is the shortest time a command took, in seconds.
    """

    address: str
    info: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    clock_ahead: float = 0.0
    round_trip: float = float("inf")

    def number(self, name: str) -> int:
        """Returns a field of INFO as a number; 0 if it is not there."""
        return whole(self.info.get(name, ""))


def whole(text: str) -> int:
    """Returns a number that a server sent, up to 18 digits; 0 for any other text."""
    return int(text) if NUMBER.fullmatch(text) else 0


async def read_server(wire: Wire, patience: float | None) -> ServerFacts:
    """Ask a server. Raises `RedisUnavailableError`, or `RedisRefusedError` if it refuses the connection."""
    facts = ServerFacts(wire.address)
    for _ in range(CLOCK_READINGS):
        before, started = time.time(), time.perf_counter()
        seconds, micros = await wire.call("TIME", patience=patience)
        took = time.perf_counter() - started
        if took < facts.round_trip:
            facts.round_trip = took
            facts.clock_ahead = int(seconds) + int(micros) / 1e6 - (before + took / 2)
    try:
        found = text(await wire.call("INFO", *INFO, patience=patience))
        facts.info = dict(line.split(":", 1) for line in found.splitlines() if ":" in line)
    except RedisRefusedError:
        pass
    try:
        flat = list(map(text, await wire.call("CONFIG", "GET", *SETTINGS, patience=patience)))
        facts.settings = dict(zip(flat[::2], flat[1::2], strict=True))
    except RedisRefusedError:
        pass
    return facts
