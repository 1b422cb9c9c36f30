"""Serving an app: its sockets, and a stop that ends open streams first."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Generator
from typing import Any

import uvicorn
from fastapi import FastAPI

from polos_redis.client import PolosClient
from polos_redis.errors import ConfigurationError
from polos_redis.server.app import create_app
from polos_redis.server.site import Site

BACKLOG = 2048
GRACE_SECONDS = 10  # for requests under way when it stops


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a TCP port (0: a free one). Raises `ConfigurationError` when it can't."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server((address[0], port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            why = "another program has it: stop that one, or choose another --port"
        raise ConfigurationError(f"can't listen on {host}, port {port}: {why}") from None


class Listener(uvicorn.Server):
    """uvicorn, stopped by `stop()` only: signals are its caller's. `forwarded_allow_ips` are the addresses,
    with commas between, of proxies that are believed whom they forward for."""

    def __init__(self, app: FastAPI, *, forwarded_allow_ips: str | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # ours leaves out the query, which may hold a token
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=GRACE_SECONDS,
                forwarded_allow_ips=forwarded_allow_ips,
                backlog=BACKLOG,
            )
        )
        self._site: Site = app.state.site

    def stop(self) -> None:
        """Take no more, end open streams, let requests finish; called again: leave at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._site.stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.asynccontextmanager
async def serving(client: PolosClient, **options: Any) -> AsyncIterator[str]:
    """Serve `create_app(client, **options)` in this loop, on a free loopback port, until the block ends;
    gives its base URL."""
    listener = Listener(create_app(client, **options))
    door = listen("127.0.0.1", 0)
    run = asyncio.create_task(listener.serve([door]))
    try:
        # it has a backlog from the start: a request may come before it is accepted
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        listener.stop()
        await run
