"""Before a worker starts: wait for the Redis server, and check it."""

from __future__ import annotations

import asyncio
import logging

from polos_redis.errors import ConfigurationError, RedisRefusedError, RedisUnavailableError
from polos_redis.state.needed_commands import find_missing
from polos_redis.state.store import Store
from polos_redis.values.text import text
from polos_redis.wire.replies import NotRedisError
from polos_redis.wire.routing import AnyWire
from polos_redis.wire.wire import Wire

logger = logging.getLogger("polos.worker")

MIN_REDIS, MIN_VALKEY = (7, 0), (8, 0)
NEEDED = f"Redis {MIN_REDIS[0]}.{MIN_REDIS[1]} or Valkey {MIN_VALKEY[0]}.{MIN_VALKEY[1]}, or newer"
FIRST_SECONDS, REPORT_SECONDS = 5.0, 30.0  # until the first report that Redis is away, and between reports
ATTEMPT_SECONDS, PAUSE_SECONDS = 1.0, 0.5  # patience of the checks, and the pause between two attempts
# Servers that speak Redis' protocol and say so in INFO, by their field there.
UNSUITABLE = {
    "dragonfly_version": ("Dragonfly", "it keeps no log of its writes, so its restart would lose executions"),
    "garnet_version": ("Garnet", "it has no streams, so it can't keep the queues"),
}


async def wait_for_servers(wire: AnyWire, namespace: str, partitions: int) -> None:
    """Wait until Redis can be reached, and check that a worker can use it. The log says what it waits for.

    Raises at once where waiting does not help: `ConfigurationError` as `check_servers` does, or for a
    namespace with another number of partitions, `RedisRefusedError` for a wrong password or a missing right,
    and `NotRedisError`.
    """
    store = Store(wire, namespace, partitions, patience=ATTEMPT_SECONDS)
    now = asyncio.get_running_loop().time
    report_at, waited = now() + FIRST_SECONDS, False
    while True:
        try:
            await store.partitions.check()
            await check_servers(store)
        except NotRedisError:
            raise
        except RedisUnavailableError as error:
            if now() >= report_at:
                logger.warning("waiting for Redis", extra={"error": str(error)})
                report_at, waited = now() + REPORT_SECONDS, True
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            if waited:
                logger.info("Redis is back", extra={"redis": wire.address})
            return


async def check_servers(store: Store) -> None:
    """Raises `ConfigurationError` for a server that is too old, is none of Redis' kind, lacks commands,
    refuses them to this user, or may evict keys; warns of one that does not persist."""
    for node in await store.wire.nodes():
        await _check(node, store.partitions.patience)
    checked: set[Wire | None] = set()
    for prefix in store.prefixes:
        node_of = store.wire.node(prefix)
        if node_of not in checked:
            checked.add(node_of)
            await _check_commands(store, prefix, (node_of or store.wire).address)


async def _check_commands(store: Store, prefix: bytes, address: str) -> None:
    missing = await find_missing(store.wire, prefix, store.partitions.patience)
    if missing is None:
        raise ConfigurationError(
            f"the server at {address} can't run the scripts of polos-redis: use {NEEDED}"
        )
    unknown, denied = missing
    if unknown:
        raise ConfigurationError(
            f"the server at {address} does not know {', '.join(unknown)}: use {NEEDED}, with its commands "
            "under their own names"
        )
    if denied:
        raise ConfigurationError(
            f"this user of Redis at {address} may not run {', '.join(denied)} on the keys {text(prefix)}*: "
            f"grant the ACL user ~polos:* &polos:* and the command{'s' if len(denied) > 1 else ''}"
        )


async def _check(wire: Wire, patience: float | None) -> None:
    try:
        info = text(await wire.call("INFO", "server", patience=patience))
        facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        check_version(facts)
    except RedisRefusedError:
        logger.warning("the server's version could not be checked: the user may not call INFO")
    try:
        flat = await wire.call("CONFIG", "GET", "maxmemory-policy", patience=patience)
        policy = text(flat[1]) if len(flat) > 1 else "noeviction"
        flat = await wire.call("CONFIG", "GET", "appendonly", patience=patience)
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


def check_version(facts: dict[str, str]) -> None:
    for field, (server, reason) in UNSUITABLE.items():
        if field in facts:
            raise ConfigurationError(f"this is {server} {facts[field]}: {reason}; use {NEEDED}")
    name, least = ("valkey", MIN_VALKEY) if "valkey_version" in facts else ("redis", MIN_REDIS)
    version = facts.get(f"{name}_version", "")
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if len(numbers) == 2 and tuple(numbers) < least:
        raise ConfigurationError(f"this is {name} {version}: polos-redis needs {NEEDED}")
