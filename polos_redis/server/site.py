"""The site: what all routes of one app share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.requests import Request

from polos_redis.client import PolosClient
from polos_redis.server.allowances import Allowance
from polos_redis.server.known_keys import KnownKeys
from polos_redis.server.rates import Rate, SharedRate

if TYPE_CHECKING:
    from polos_redis.links import Links

FAILURE_RATE = "20/minute"  # rejected credentials per address
PROBE_RATE = "6000/minute"  # of /healthz and /readyz, per address: a flood must not fail a probe soon
DOUBTFUL_RATE = "1/second"  # look-ups of unknown keys for an address beyond that
STREAMS = 1000, 2000  # event streams of a caller, and of all callers of this process


@dataclass(slots=True)
class Site:
    """The client, the authentication settings and the rate limits of an app. `stopping` is set when the
    server stops, so that open streams end."""

    client: PolosClient
    links: Links | None = None
    insecure_dev: bool = False
    cors_origins: frozenset[str] = frozenset()
    rate_limit: str = "600/minute"
    rate: SharedRate = field(init=False)
    failures: SharedRate = field(init=False)
    public: Rate = field(init=False)  # of routes that identify no caller; counted without Redis
    probes: Rate = field(default_factory=lambda: Rate(PROBE_RATE))
    doubtful: Rate = field(default_factory=lambda: Rate(DOUBTFUL_RATE))
    known: KnownKeys = field(default_factory=KnownKeys)
    streams: Allowance = field(default_factory=lambda: Allowance("event streams", *STREAMS))
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_https(self) -> bool:
        """Whether people reach the server through HTTPS, whatever a proxy says of a request."""
        return self.links is not None and (self.links.public_url or "").lower().startswith("https:")

    def __post_init__(self) -> None:
        self.rate = SharedRate(self.client, "requests", self.rate_limit)
        self.failures = SharedRate(self.client, "failures", FAILURE_RATE)
        self.public = Rate(self.rate_limit)


def site_of(request: Request) -> Site:
    """The site of a request's app."""
    site: Site = request.app.state.site
    return site


def _client_of(request: Request) -> PolosClient:
    return site_of(request).client


Client = Annotated[PolosClient, Depends(_client_of)]
