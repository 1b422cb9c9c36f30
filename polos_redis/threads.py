"""Daemon threads for sync steps: a step that never returns must not keep the process from exiting."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any

Job = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads(Executor):
    """Pool of at most `limit` daemon threads, each created when a job arrives and no thread is idle.

    The interpreter waits for the threads of the standard library's pool at exit; it does not wait for these.
    Call it from one thread only, the event loop's.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0
        self._is_shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((future, functools.partial(fn, *args, **kwargs)))
        if not self._idle.acquire(blocking=False) and self._count < self._limit:
            self._start()
        return future

    def _start(self) -> None:
        self._count += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._count}", daemon=True).start()

    def allow_more(self, number: int) -> None:
        """Raise the limit, and start threads for waiting jobs; or lower it again with a negative number, when
        idle threads beyond it end. Does nothing after `shutdown`."""
        if self._is_shut:
            return  # a new thread would take the word to end that is meant for another one
        self._limit += number
        for _ in range(min(self._limit - self._count, self._jobs.qsize())):
            self._start()
        while self._count > self._limit and self._idle.acquire(blocking=False):
            self._count -= 1
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            del job, future, call  # or they would live until the next job arrives
            self._idle.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop idle threads now and busy ones after their current job, without waiting (even if `wait`)."""
        self._is_shut = True
        ending = 0  # threads that were to end, and have not noticed yet
        while cancel_futures:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is None:
                ending += 1
            else:
                job[0].cancel()
        for _ in range(self._count + ending):
            self._jobs.put(None)
