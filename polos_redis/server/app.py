"""The app: routes, pages, middleware and error handlers combined."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from polos_redis.client import PolosClient
from polos_redis.connection.clients import check_client
from polos_redis.errors import ConfigurationError
from polos_redis.links import Links
from polos_redis.server import executions, health, problems, security, streams, suspensions
from polos_redis.server.bodies import Bounds
from polos_redis.server.headers import Headers
from polos_redis.server.pages import add_pages
from polos_redis.server.site import Site
from polos_redis.version import __version__

DESCRIPTION = """Start, follow, answer and cancel the executions of one namespace.

Errors are problem details (RFC 9457). Times are ISO 8601, ids are strings, values are plain JSON.
"""


def create_app(
    client: PolosClient,
    *,
    links: Links | None = None,
    insecure_dev: bool = False,
    cors_origins: Iterable[str] = (),
    rate_limit: str = "600/minute",
    max_body_bytes: int | None = None,
) -> FastAPI:
    """Create the ASGI app for a client's namespace. Closing the client is up to the caller.

    `links` verifies signed links; without it, none are accepted. `insecure_dev` accepts requests without
    credentials on loopback addresses, for development only. Pages of `cors_origins` (such as
    "https://app.example.com"; "*" for all) may call the API from a browser. `rate_limit` applies per API key,
    or per address without a key, to all servers of the namespace together. `max_body_bytes` limits request
    bodies (default: enough for a value of the client's `max_value_bytes`).

    Raises `ConfigurationError` for a malformed `rate_limit`, or for `insecure_dev` with the origin "*".
    """
    check_client("create_app", client)
    origins = [origin.rstrip("/") for origin in cors_origins]
    if insecure_dev and "*" in origins:
        raise ConfigurationError(
            "with insecure_dev and the origin '*', any site could use this server through the developer's "
            "browser: name the origins"
        )
    site = Site(
        client,
        links=links,
        insecure_dev=insecure_dev,
        cors_origins=frozenset(origins),
        rate_limit=rate_limit,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        site.stopping.set()

    app = FastAPI(
        title="polos-redis",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,  # health.py has the route, with a rate
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={"default": problems.DOCUMENTED},
    )
    app.state.site = site
    problems.install(app, security.public)
    for router in (executions.router, suspensions.router, streams.router):
        app.include_router(router)
    health.add_health(app, client)
    add_pages(app)
    # The last middleware added is the outermost.
    app.add_middleware(Bounds, max_bytes=max_body_bytes or 2 * client.max_value_bytes + (1 << 16))
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=[
            *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"),
            *("traceparent", "tracestate"),
        ],
        expose_headers=["Location", "Retry-After"],
    )
    app.add_middleware(Headers, is_https=site.is_https)
    return app
