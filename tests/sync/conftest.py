"""Workers beside tests without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from polos_redis import Workflow
from polos_redis.sync import PolosClient
from tests.harness.running import DEADLINE, running

Work = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def sync_client(redis_url: str, namespace: str) -> Iterator[PolosClient]:
    """A client without asyncio in the test's namespace."""
    with PolosClient(redis_url, namespace) as client:
        yield client


@pytest.fixture
def work(redis_url: str, namespace: str) -> Work:
    """`with work(workflow): ...`: a worker on an event loop in a thread of its own."""

    @contextmanager
    def work(*workflows: Workflow[Any, Any]) -> Iterator[None]:
        ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def serve() -> None:
            stop = asyncio.Event()
            async with running(redis_url, namespace, *workflows):
                ready.set_result((asyncio.get_running_loop(), stop))
                await stop.wait()

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:
                if not ready.done():
                    ready.set_exception(error)
                raise

        thread = threading.Thread(target=run, name="worker")
        thread.start()
        try:
            loop, stop = ready.result(DEADLINE)
            try:
                yield
            finally:
                loop.call_soon_threadsafe(stop.set)
        finally:
            thread.join(DEADLINE)

    return work
