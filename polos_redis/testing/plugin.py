"""The pytest plugin: the fixture `world`. It does nothing in a test run that does not use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from polos_redis.testing.worlds import World


@pytest.fixture(scope="session")
def world_url() -> Iterator[str]:
    """The URL of the server that the worlds of this session are on: a private one. Override it to use
    another."""
    from polos_redis.embedded.server import EmbeddedServer

    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
async def world(request: pytest.FixtureRequest, world_url: str) -> AsyncIterator[World]:
    """A world in a namespace of its own, which serves the workflows that the test module defines or imports,
    and those of the modules they come from."""
    from polos_redis.testing.reach import is_reached
    from polos_redis.testing.worlds import world as make

    module = request.module
    async with make(lambda definition: is_reached(definition, module), url=world_url) as world:
        yield world
