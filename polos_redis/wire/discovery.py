"""Discovery of servers: the master of a sentinel service, and the owners of a cluster's slots."""

from __future__ import annotations

from functools import partial
from typing import Any

from polos_redis.errors import ConfigurationError, PolosError, RedisRefusedError, RedisUnavailableError
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.replies import RefusedReplyError
from polos_redis.wire.urls import RedisUrl, parse
from polos_redis.wire.wire import Wire

ASK_SECONDS = 1.0  # timeout for reaching one server, and for its answer


async def ask(url: str, *command: str, credentials: CredentialProvider | None = None) -> Any:
    """Sends one command to a server over a temporary connection."""
    wire = Wire(url, name="", timeout=ASK_SECONDS, connect_timeout=ASK_SECONDS, credentials=credentials)
    try:
        await wire.connect()
        return await wire.send(*command)
    finally:
        await wire.close()


def server_at(url: str, **options: Any) -> Wire:
    """The wire to the server of a URL, or to the master of its sentinel service; not yet connected."""
    target = parse(url)
    locate = partial(find_master, target) if target.kind == "sentinel" else None
    return Wire(url, locate=locate, **options)


async def find_master(target: RedisUrl) -> str:
    """The URL of a service's master, from the first sentinel that knows it."""
    failures: list[PolosError | str] = []
    for sentinel in target.seeds:
        try:
            master = await ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service)
        except PolosError as error:
            failures.append(error)
            continue
        if master is not None:
            return target.server(master[0].decode(), int(master[1]))
        failures.append(f"{parse(sentinel).address} knows no service {target.service!r}")
    reasons = f"no sentinel knows the master: {'; '.join(map(str, failures))}"
    if all(isinstance(failure, RedisRefusedError) for failure in failures):
        raise RedisRefusedError(reasons)  # a wrong password
    raise RedisUnavailableError(reasons)


async def read_slots(
    target: RedisUrl, node: Wire | str, credentials: CredentialProvider | None = None
) -> dict[int, str]:
    """Slot -> URL of its master, as one node reports it. A node given as URL gets a temporary connection."""
    command = ("CLUSTER", "SLOTS")
    try:
        if isinstance(node, Wire):
            rows = await node.send(*command)
        else:
            rows = await ask(node, *command, credentials=credentials)
    except RefusedReplyError as error:
        if "cluster support disabled" in str(error):
            raise ConfigurationError(
                f"{target.address} is not a cluster: write redis:// in the URL"
            ) from None
        raise
    slots: dict[int, str] = {}
    for first, last, (host, port, *_), *_ in rows:
        owner = target.server((host or b"").decode(), port)
        slots.update(dict.fromkeys(range(first, last + 1), owner))
    return slots
