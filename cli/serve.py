"""`polos serve`: the REST API, the approval page and the inbox, until told to stop."""

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
from polos_redis.errors import ConfigurationError, RedisUnavailableError

from .options import PATIENCE_SECONDS, SERVER_NEEDS, Namespace, Patience, Url, client_of
from .worker import LogFormat, log_to_stderr

if TYPE_CHECKING:
    from polos_redis.server.listening import Listener

LOOPBACK = ("127.0.0.1", "localhost", "::1")

log = logging.getLogger("polos.server")


def add_to(app: typer.Typer) -> None:
    app.command(short_help="Serve the REST API, the approval page and the inbox.")(serve)


def serve(
    host: Annotated[
        str, typer.Option(envvar="POLOS_HOST", metavar="ADDRESS", help="The address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="POLOS_PORT", min=0, max=65535, help="The port; 0 for a free one.")
    ] = 8000,
    insecure_dev: Annotated[
        bool,
        typer.Option(
            "--insecure-dev",
            envvar="POLOS_INSECURE_DEV",
            help="Let anybody on this machine do everything, without a key. Loopback only.",
        ),
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="POLOS_CORS_ORIGINS",
            metavar="ORIGIN",
            help="A site whose pages may call the API, as https://app.example.com; may be repeated.",
        ),
    ] = None,
    rate_limit: Annotated[
        str,
        typer.Option(
            envvar="POLOS_RATE_LIMIT", metavar="N/UNIT", help="Requests per key, or per address without one."
        ),
    ] = "600/minute",
    forwarded_allow_ips: Annotated[
        str,
        typer.Option(
            envvar="FORWARDED_ALLOW_IPS",
            metavar="IP,IP...",
            help="Proxies that are believed who they forward for.",
        ),
    ] = "127.0.0.1,::1",
    log_format: Annotated[
        LogFormat, typer.Option(envvar="POLOS_LOG_FORMAT", help="Shape of the log on standard error.")
    ] = LogFormat.text,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Annotated[bool, typer.Option("--json", help="The same as --log-format json.")] = False,
) -> None:
    """Serve the REST API, the approval page and the inbox until told to stop.

    Callers need an API key (`polos keys create`) or a signed link. POLOS_PUBLIC_URL says where people reach
    this server and POLOS_SECRET signs links; see docs/guides/rest-api.md. On SIGTERM or Ctrl-C it ends open
    streams, lets requests finish and leaves with exit code 0; a second signal stops it at once.

    \b
    Examples:
      polos serve --insecure-dev
      polos serve --host 0.0.0.0 --port 80 --cors-origin https://app.example.com
    """
    missing = [name for name in SERVER_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"polos serve needs {', '.join(missing)}: install it with pip install 'polos-redis[server]'"
        )
    if insecure_dev and host not in LOOPBACK:
        raise ConfigurationError(
            f"--insecure-dev lets anybody in who reaches {host}: leave out --host, or make keys with "
            "`polos keys create` and leave out --insecure-dev"
        )
    from polos_redis.links import Links
    from polos_redis.server.app import create_app
    from polos_redis.server.listening import Listener, listen

    log_to_stderr(LogFormat.json if json else log_format)
    client = client_of(url, namespace, patience)
    app = create_app(
        client,
        links=Links.from_settings(client.namespace),
        insecure_dev=insecure_dev,
        cors_origins=[one for given in cors_origin or () for one in given.split(",") if one],
        rate_limit=rate_limit,
    )
    door = listen(host, port)
    listener = Listener(app, forwarded_allow_ips=forwarded_allow_ips)
    with contextlib.closing(door):
        asyncio.run(_serve(client, listener, door, insecure_dev))


async def _serve(client: PolosClient, listener: Listener, door: socket.socket, insecure_dev: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, listener.stop)
    async with client:
        await _look_around(client, insecure_dev)
        host, port = door.getsockname()[:2]
        place = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        told = {"inbox": f"{place}/", "api": f"{place}/api/v1", "openapi": f"{place}/openapi.json"}
        log.info("server ready", extra=told)
        await listener.serve([door])
    log.info("server stopped")


async def _look_around(client: PolosClient, insecure_dev: bool) -> None:
    """Say what an operator has to know: who may call, and whether Redis is there. Raises
    `ConfigurationError` where the namespace is set up otherwise than this process."""
    from polos_redis import apikeys

    if insecure_dev:
        log.warning("anybody on this machine may do everything here: --insecure-dev is for development only")
    try:
        if not insecure_dev and not await apikeys.list_keys(client):
            log.warning("there is no API key: make one with `polos keys create`")
        await client.store()
    except RedisUnavailableError as error:
        log.warning("Redis is away, so requests are refused until it is back: %s", error)
