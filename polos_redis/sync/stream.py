"""Streams: what an asynchronous iterator yields, for code without asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from polos_redis.errors import RedisUnavailableError
from polos_redis.sync import event_loop

T = TypeVar("T")

_END = object()


class Stream(Iterator[T]):
    """An iterator over events, or over whatever an asynchronous iterator yields.

    It requests an item only when asked for the next one. Threads may share it: each item goes to one of them.
    `close`, or leaving its `with` block, ends it early, also while another thread waits for the next item; a
    stream that is dropped closes itself.
    """

    def __init__(self, items: AsyncIterator[T]) -> None:
        self._loop = event_loop.started()
        self._source = _Source(items)
        self._turn = threading.Lock()
        self._closed = False
        self._close_dropped = weakref.finalize(self, event_loop.in_background, self._loop, self._source.close)
        self._close_dropped.atexit = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return self.next()

    def next(self, timeout: float | None = None) -> T:
        """Return the next item. Raises `StopIteration` at the end.

        Raises `TimeoutError` if there is none within `timeout` seconds; no item is lost, as the next call
        goes on waiting. Raises `RedisUnavailableError` in a forked child: open another stream there.
        """
        if self._loop is not event_loop.started():
            raise RedisUnavailableError(
                "the stream was opened before this process was forked: open another one in this process"
            )
        end = None if timeout is None else time.monotonic() + timeout
        if self._turn.acquire(timeout=-1 if end is None else max(0.0, timeout or 0.0)):
            try:
                if self._closed:
                    raise StopIteration
                event_loop.call_soon(self._source.request)
                found, error = self._source.found.get(
                    timeout=None if end is None else max(0.0, end - time.monotonic())
                )
                if found is _END:
                    self._closed = True
                    raise StopIteration
                if error is not None:
                    raise error
                item: T = found
                return item
            except Empty:
                pass
            finally:
                self._turn.release()
        raise TimeoutError(f"the stream had no item within {timeout:g} s")

    def close(self) -> None:
        """End the stream: whoever waits for the next item, or asks for one, gets `StopIteration`."""
        self._closed = True
        if self._close_dropped.alive and self._loop is event_loop.started():
            event_loop.run(self._source.close)
        self._close_dropped.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Source(Generic[T]):
    """An asynchronous iterator, used on its event loop only. `found` has the items for the threads, or the
    error that ended the iterator."""

    def __init__(self, items: AsyncIterator[T]) -> None:
        self.found: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._items = items
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Finds the next item, unless that is done or being done: the request of a call that timed out, or
        was ended by a signal, is still open."""
        if self._task is None and self.found.empty():
            self._task = asyncio.get_running_loop().create_task(self._find())

    async def _find(self) -> None:
        try:
            self.found.put((await anext(self._items, _END), None))
        except BaseException as error:
            self.found.put((_END, None) if isinstance(error, asyncio.CancelledError) else (None, error))
        finally:
            self._task = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.found.put((_END, None))
        if (close := getattr(self._items, "aclose", None)) is not None:
            await close()
