"""`polos serve`: serve the REST API and the pages until a signal stops the server."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import signal
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from polos_redis.client import PolosClient
from polos_redis.connection.session import FORMAT_SECONDS
from polos_redis.errors import ConfigurationError, PolosError, RedisUnavailableError, ReleaseTooOldError

from . import commands, event_loop
from .log_format import JsonLogs, LogFormat, LogFormatOption, LogLevel, LogLevelOption, log_to_stderr
from .options import SERVER_NEEDS, DurableOptions

if TYPE_CHECKING:
    from polos_redis.server.listening import Listener

LOOPBACK = ("127.0.0.1", "localhost", "::1")

log = logging.getLogger("polos.server")


def add_to(app: typer.Typer) -> None:
    commands.add(app, serve, "Serve the REST API, the approval page and the inbox.")


def serve(
    host: Annotated[
        str, typer.Option(envvar="POLOS_HOST", metavar="ADDRESS", help="The address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            envvar="POLOS_PORT", min=0, max=65535, help="The port to listen on; 0 picks a free one."
        ),
    ] = 8000,
    insecure_dev: Annotated[
        bool,
        typer.Option(
            "--insecure-dev",
            envvar="POLOS_INSECURE_DEV",
            help="Let anyone on this machine do anything, without a key. Loopback only.",
        ),
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="POLOS_CORS_ORIGINS",
            metavar="ORIGIN",
            help="A site whose pages may call the API, such as https://app.example.com. Repeatable.",
        ),
    ] = None,
    rate_limit: Annotated[
        str,
        typer.Option(
            envvar="POLOS_RATE_LIMIT",
            metavar="N/UNIT",
            help="Maximum request rate of a key, or of an address without a key.",
        ),
    ] = "600/minute",
    forwarded_allow_ips: Annotated[
        str,
        typer.Option(
            envvar="FORWARDED_ALLOW_IPS",
            metavar="IP,IP...",
            help="Proxies whose X-Forwarded-For header is trusted.",
        ),
    ] = "127.0.0.1,::1",
    log_format: LogFormatOption = LogFormat.text,
    log_level: LogLevelOption = LogLevel.info,
    *,
    connection: DurableOptions,
    json: JsonLogs = False,
) -> None:
    """Serve the REST API, the approval page and the inbox until SIGTERM or Ctrl-C.

    Callers need an API key (`polos keys create`) or a signed link. POLOS_PUBLIC_URL is the address at which
    people reach this server, POLOS_SECRET signs links; see docs/guides/rest-api.md. On SIGTERM or Ctrl-C the
    server ends open streams, lets requests finish and exits with code 0; a second signal stops it at once.
    When the namespace is upgraded so that this release can't read it, it stops likewise and exits with code
    78.

    \b
    Examples:
      polos serve --insecure-dev
      polos serve --host 0.0.0.0 --port 80 --cors-origin https://app.example.com
    """
    missing = [name for name in SERVER_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"polos serve needs {', '.join(missing)}: pip install 'polos-redis[server]'")
    if insecure_dev and host not in LOOPBACK:
        raise ConfigurationError(
            f"--insecure-dev would let in anyone who can reach {host}: omit --host, or create keys with "
            "`polos keys create` and omit --insecure-dev"
        )
    from polos_redis.links import Links
    from polos_redis.server.app import create_app
    from polos_redis.server.listening import Listener, listen

    log_to_stderr(LogFormat.json if json else log_format, log_level)
    client = connection.client()
    app = create_app(
        client,
        links=Links.from_settings(client.namespace),
        insecure_dev=insecure_dev,
        cors_origins=[one for origins in cors_origin or () for one in origins.split(",") if one],
        rate_limit=rate_limit,
    )
    endpoint = listen(host, port)
    listener = Listener(app, forwarded_allow_ips=forwarded_allow_ips)
    with contextlib.closing(endpoint):
        event_loop.run(_serve(client, listener, endpoint, insecure_dev))


async def _serve(
    client: PolosClient, listener: Listener, endpoint: socket.socket, insecure_dev: bool
) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, listener.stop)
    async with client:
        await _warn(client, insecure_dev)
        host, port = endpoint.getsockname()[:2]
        base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        addresses = {"inbox": f"{base}/", "api": f"{base}/api/v1", "openapi": f"{base}/openapi.json"}
        log.info("server ready", extra=addresses)
        watch = asyncio.create_task(_watch_format(client, listener))
        await listener.serve([endpoint])
        watch.cancel()
        await asyncio.wait([watch])
    log.info("server stopped")
    if not watch.cancelled():
        watch.result()


async def _watch_format(client: PolosClient, listener: Listener) -> None:
    """Stops the server and raises `ReleaseTooOldError` once the namespace needs a newer release."""
    while True:
        await asyncio.sleep(FORMAT_SECONDS)
        try:
            await (await client.store()).partitions.check_reader()
        except ReleaseTooOldError as error:
            log.error("this server stops: %s", error)
            listener.stop()
            raise
        except PolosError:  # Redis is away, which its requests say
            pass


async def _warn(client: PolosClient, insecure_dev: bool) -> None:
    """Warns about open access, missing API keys and an unreachable Redis. Raises `ConfigurationError` if the
    namespace was created with other settings, or if Redis can't confirm writes as --durability says."""
    from polos_redis import apikeys

    if insecure_dev:
        log.warning(
            "anyone on this machine can do anything without a key: --insecure-dev is for development only"
        )
    try:
        if not insecure_dev and not await apikeys.list_keys(client):
            log.warning("no API keys yet: create one with `polos keys create`")
        await client.acknowledging_store()
    except RedisUnavailableError as error:
        log.warning("Redis is unreachable; requests are refused until it is back: %s", error)
