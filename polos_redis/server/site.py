"""The site: what all routes of one app share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.requests import Request

from polos_redis.client import PolosClient
from polos_redis.server.rates import Rate

if TYPE_CHECKING:
    from polos_redis.links import Links

FAILURE_RATE = "20/minute"  # rejected credentials per address


@dataclass(frozen=True, slots=True)
class Site:
    """The client, the authentication settings and the rate limits of an app. `stopping` is set when the
    server stops, so that open streams end."""

    client: PolosClient
    links: Links | None = None
    insecure_dev: bool = False
    cors_origins: frozenset[str] = frozenset()
    rate: Rate = field(default_factory=lambda: Rate("600/minute"))
    failures: Rate = field(default_factory=lambda: Rate(FAILURE_RATE))
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def site_of(request: Request) -> Site:
    """The site of a request's app."""
    site: Site = request.app.state.site
    return site


def _client_of(request: Request) -> PolosClient:
    return site_of(request).client


Client = Annotated[PolosClient, Depends(_client_of)]
