"""The listener: serves an app on a socket, and stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Generator, Sequence
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from polos_redis import settings
from polos_redis.client import PolosClient
from polos_redis.errors import ConfigurationError
from polos_redis.server.app import create_app
from polos_redis.server.site import Site
from polos_redis.watchdog import Watchdog

log = logging.getLogger("polos.server")

BACKLOG = 2048
GRACE_SECONDS = 10  # for requests in flight when it stops


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens on a TCP port (0: any free one). Raises `ConfigurationError`."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server((address[0], port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "another program is using it: stop that program, or choose another --port"
        raise ConfigurationError(f"can't listen on {host}, port {port}: {reason}") from None


class Listener(uvicorn.Server):
    """A uvicorn server that only `stop()` stops; signals are left to the caller.

    `forwarded_allow_ips` lists the addresses of trusted proxies, separated by commas. The `X-Forwarded-*`
    headers of others are ignored.
    """

    def __init__(self, app: FastAPI, *, forwarded_allow_ips: str | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # our own log omits the query, which may contain a token
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=GRACE_SECONDS,
                forwarded_allow_ips=forwarded_allow_ips,
                backlog=BACKLOG,
            )
        )
        self._site: Site = app.state.site

    def stop(self) -> None:
        """Stop accepting, end open streams and let requests finish. A second call stops at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._site.stopping.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until stopped, and report what blocks the event loop meanwhile."""
        watchdog = Watchdog(settings.resolve("blocked_seconds"), log, _request_of)
        watchdog.start()
        try:
            await super().serve(sockets)
        finally:
            watchdog.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.asynccontextmanager
async def serving(client: PolosClient, **options: Any) -> AsyncIterator[str]:
    """Serve `create_app(client, **options)` in this event loop until the block ends. Yields the base URL, on
    a free loopback port."""
    listener = Listener(create_app(client, **options))
    listening = listen("127.0.0.1", 0)
    run = asyncio.create_task(listener.serve([listening]))
    try:
        # Requests may come before the server accepts: the socket queues them.
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listener.stop()
        await run


def _request_of(frames: Sequence[FrameType], task: asyncio.Task[Any] | None) -> dict[str, Any]:
    """Returns the request that a stack belongs to, without its query, which may contain a token."""
    for frame in frames:
        scope = frame.f_locals.get("scope")
        if isinstance(scope, dict) and "path" in scope:
            return {"request": f"{scope.get('method', '')} {scope['path']}".strip()}
    return {}
