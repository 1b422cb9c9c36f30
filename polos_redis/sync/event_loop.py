"""The event loop of a process's synchronous clients, in a daemon thread.

The thread starts with the first call, and a forked child starts its own. Nothing stops it: at the exit of the
interpreter it ends like every daemon thread, so that calls in exit handlers still work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from polos_redis.errors import InsideEventLoopError

NAME = "polos-sync"  # of its threads

T = TypeVar("T")


class _Current:
    """The loop of this process, and the loops of the processes that it was forked from."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        # Never freed: to close one would remove the parent's sockets from the selector they share.
        self.inherited: list[asyncio.AbstractEventLoop] = []
        self.background: set[Future[None]] = set()  # a loop keeps no reference to its tasks

    def start(self) -> asyncio.AbstractEventLoop:
        with self.lock:
            if self.loop is None:
                loop = asyncio.new_event_loop()
                loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=NAME))
                try:
                    threading.Thread(target=_serve, args=(loop,), name=NAME, daemon=True).start()
                except BaseException:  # no more threads
                    loop.close()
                    raise
                self.loop = loop
            return self.loop

    def forget(self) -> None:
        """In a forked child: only the thread that forked is left, and another may have held the lock."""
        self.lock = threading.Lock()
        if self.loop is not None:
            self.inherited.append(self.loop)
            self.loop = None


_current = _Current()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_current.forget)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        # A coroutine that raises one of these ends `run_forever`; its caller gets it too.
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()


def call_soon(call: Callable[..., object], *arguments: Any) -> None:
    """Calls a function on the loop, with the context variables of the caller.

    Raises `InsideEventLoopError` in a thread that runs an event loop.
    """
    if _runs_a_loop():
        raise InsideEventLoopError(
            "a synchronous client was called in a thread whose event loop it would block: await the method "
            "of polos_redis.PolosClient instead, or call it in another thread, with asyncio.to_thread"
        )
    started().call_soon_threadsafe(call, *arguments)


def run(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on the loop, with the context variables of the caller; returns its result.

    An exception that ends the wait, such as KeyboardInterrupt or a time limit of Celery's, cancels it.
    """
    future: Future[T] = Future()  # created first: a signal may come at any moment
    try:
        call_soon(_start, make, future)
        return future.result()
    except BaseException:
        future.cancel()  # has no effect on one that is done
        raise
    finally:
        del future  # its exception refers to this frame


def in_background(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a coroutine on a loop of this process without waiting for it, called from anywhere, even by the
    garbage collector. Does nothing on a loop of a parent process."""
    if loop is _current.loop:
        future: Future[None] = Future()
        _current.background.add(future)
        future.add_done_callback(_current.background.discard)
        loop.call_soon_threadsafe(_start, make, future)


def _start(make: Callable[[], Coroutine[Any, Any, T]], future: Future[T]) -> None:
    """Starts a task whose outcome becomes the future's; cancelling the future cancels the task."""
    if future.cancelled():
        return
    loop = asyncio.get_running_loop()
    try:
        task = loop.create_task(make())
    except BaseException as error:  # wrong arguments
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
        return

    def copy_outcome(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
        error = task.exception()
        if error is None:
            future.set_result(task.result())
        else:
            future.set_exception(error)

    def cancel(future: Future[T]) -> None:
        if future.cancelled():
            loop.call_soon_threadsafe(task.cancel)

    task.add_done_callback(copy_outcome)
    future.add_done_callback(cancel)


def started() -> asyncio.AbstractEventLoop:
    """Returns this process's loop, which it starts if there is none."""
    return _current.loop or _current.start()


def current() -> asyncio.AbstractEventLoop | None:
    """Returns this process's loop, None before the first call."""
    return _current.loop


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
