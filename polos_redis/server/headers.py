"""Security headers on every response, and the request log."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("polos.server")

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # a page's URL may contain a signed link's token
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
UNLESS_SET = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
HSTS = "max-age=31536000"
QUIET = ("/healthz", "/readyz", "/metrics")  # polled, so logged at DEBUG


class Headers:
    """ASGI middleware that adds security headers to every response and logs every request.

    The log line contains the caller, and the path without its query, which may contain a token. Browsers are
    told to use HTTPS only if people reach the server through it: always (`is_https`), or in this request.
    """

    def __init__(self, app: ASGIApp, *, is_https: bool = False) -> None:
        self.app = app
        self._is_https = is_https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(ALWAYS)
                for name, value in UNLESS_SET.items():
                    headers.setdefault(name, value)
                if self._is_https or scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = HSTS
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            _log_request(scope, status, time.monotonic() - started_at)


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    level = logging.DEBUG if scope["path"] in QUIET else logging.INFO
    if not log.isEnabledFor(level):
        return
    caller = scope.get("state", {}).get("caller")
    log.log(
        level,
        "request",
        extra={
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "took_ms": round(seconds * 1000, 1),
            "caller": (caller.key_id or caller.source) if caller is not None else "",
        },
    )
