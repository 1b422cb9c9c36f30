"""The real server in the test's own loop, on a free port, and clients with their own API keys."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from polos_redis import PolosClient, apikeys
from polos_redis.server.listening import serving

__all__ = ["calling", "key", "problem", "serving"]

KIND = "urn:polos:problem:"


@contextlib.asynccontextmanager
async def calling(client: PolosClient, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server in development mode, which needs no key."""
    async with (
        serving(client, insecure_dev=True, **options) as url,
        httpx2.AsyncClient(base_url=url, timeout=20) as api,
    ):
        yield api


async def key(client: PolosClient, *scopes: str, name: str = "ops", groups: tuple[str, ...] = ()) -> Any:
    """Headers with a new API key; the default scope is admin."""
    _, secret = await apikeys.create(client, name, scopes or ("admin",), groups)
    return {"Authorization": f"Bearer {secret}"}


def problem(answer: httpx2.Response, status: int, kind: str) -> dict[str, Any]:
    """Assert that an answer is this problem, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"] == (KIND + kind if kind else "about:blank")
    assert body["title"] and body["detail"]
    return body
