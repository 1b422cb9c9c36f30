"""Asking who is where: the master of a service, the owners of a cluster's slots."""

from __future__ import annotations

from typing import Any

from polos_redis.errors import ConfigurationError, PolosError, RedisUnavailableError
from polos_redis.wire.replies import RefusedReplyError
from polos_redis.wire.urls import RedisUrl, parse
from polos_redis.wire.wire import Wire

ASK_SECONDS = 1.0  # for one server to be reached, and to answer


async def ask(url: str, *command: str) -> Any:
    """One question to one server, over a connection of its own."""
    wire = Wire(url, name="", timeout=ASK_SECONDS, connect_timeout=ASK_SECONDS)
    try:
        await wire.connect()
        return await wire.send(*command)
    finally:
        await wire.close()


async def find_master(target: RedisUrl) -> str:
    """The URL of the service's master, from the first sentinel that knows it."""
    troubles = []
    for sentinel in target.seeds:
        try:
            found = await ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service)
        except PolosError as error:
            troubles.append(str(error))
            continue
        if found is not None:
            return target.server(found[0].decode(), int(found[1]))
        troubles.append(f"{parse(sentinel).address} knows no service {target.service!r}")
    raise RedisUnavailableError(f"no sentinel named the master: {'; '.join(troubles)}")


async def read_slots(target: RedisUrl, node: Wire | str) -> dict[int, str]:
    """Slot -> URL of its master, as a node sees it: asked over its wire, or over a connection made for it."""
    command = ("CLUSTER", "SLOTS")
    try:
        rows = await (node.send(*command) if isinstance(node, Wire) else ask(node, *command))
    except RefusedReplyError as error:
        if "cluster support disabled" in str(error):
            raise ConfigurationError(f"{target.address} is no cluster: write redis:// in the URL") from None
        raise
    slots: dict[int, str] = {}
    for first, last, (host, port, *_), *_ in rows:
        owner = target.server((host or b"").decode(), port)
        slots.update(dict.fromkeys(range(first, last + 1), owner))
    return slots
