"""Checks of the Redis server before a worker starts."""

from __future__ import annotations

import logging

from polos_redis.errors import ConfigurationError, RedisRefusedError
from polos_redis.values.text import text
from polos_redis.wire.routing import AnyWire
from polos_redis.wire.wire import Wire

logger = logging.getLogger("polos.worker")

MIN_REDIS, MIN_VALKEY = (7, 0), (8, 0)


async def check_servers(wire: AnyWire) -> None:
    """Raises `ConfigurationError` for a server that is too old or may evict keys; warns of one that does not
    persist."""
    for node in await wire.nodes():
        await _check(node)


async def _check(wire: Wire) -> None:
    try:
        info = text(await wire.call("INFO", "server"))
        facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        _check_version(facts)
    except RedisRefusedError:
        logger.warning("the server's version could not be checked: the user may not call INFO")
    try:
        flat = await wire.call("CONFIG", "GET", "maxmemory-policy")
        policy = text(flat[1]) if len(flat) > 1 else "noeviction"
        flat = await wire.call("CONFIG", "GET", "appendonly")
        durable = len(flat) < 2 or text(flat[1]) == "yes"
    except RedisRefusedError:
        logger.warning("eviction and persistence could not be checked: the user may not call CONFIG")
        return
    if policy != "noeviction":
        raise ConfigurationError(
            f"Redis at {wire.address} may drop keys (maxmemory-policy {policy}): executions would be lost; "
            "set it to noeviction"
        )
    if not durable:
        logger.warning(
            "Redis has appendonly off: a restart of Redis loses executions; set appendonly to yes",
            extra={"redis": wire.address},
        )


def _check_version(facts: dict[str, str]) -> None:
    name, least = ("valkey", MIN_VALKEY) if "valkey_version" in facts else ("redis", MIN_REDIS)
    version = facts.get(f"{name}_version", "")
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if len(numbers) == 2 and tuple(numbers) < least:
        raise ConfigurationError(
            f"this is {name} {version}: polos-redis needs Redis {MIN_REDIS[0]}.{MIN_REDIS[1]} or "
            f"Valkey {MIN_VALKEY[0]}.{MIN_VALKEY[1]}, or newer"
        )
