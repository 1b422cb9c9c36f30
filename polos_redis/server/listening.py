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
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from polos_redis import settings
from polos_redis.client import PolosClient
from polos_redis.errors import ConfigurationError
from polos_redis.server.app import create_app
from polos_redis.server.site import Site
from polos_redis.watchdog import Watchdog

log = logging.getLogger("polos.server")

BACKLOG = 2048
GRACE_SECONDS = 10  # for requests in flight when it stops
HEAD_SECONDS = 10.0  # for the head of a request to arrive
MOST_CONNECTIONS = 5000


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


_Protocol: Any = AutoHTTPProtocol  # the class that uvicorn chose


class WatchedConnection(_Protocol):  # type: ignore[misc]
    """A connection that is closed if the head of a request does not arrive in time.

    Uvicorn itself only closes connections that are idle between two requests.
    """

    _closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # asyncio does it only for sockets with a protocol number. Without it, a body waits up to 40 ms
        # for the client to acknowledge the head.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, but not in the middle of the response to another one."""
        if self._is_answering():
            self.transport.close()
        else:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._is_answering():
            self._stop_watching()
        elif self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._close)

    def _stop_watching(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def _close(self) -> None:
        self._closing = None
        if not self._is_answering():
            self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


class Listener(uvicorn.Server):
    """A uvicorn server that only `stop()` stops; signals are left to the caller.

    `forwarded_allow_ips` lists the addresses of trusted proxies, separated by commas. The `X-Forwarded-*`
    headers of others are ignored.
    """

    def __init__(self, app: FastAPI, *, forwarded_allow_ips: str | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=WatchedConnection,
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
