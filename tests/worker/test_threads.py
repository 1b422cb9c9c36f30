"""The threads of sync steps."""

from __future__ import annotations

import functools
import threading

from polos_redis.threads import DaemonThreads
from tests.harness.running import until

NAME = "threads-under-test"


def _are_idle(pool: DaemonThreads, count: int) -> bool:
    return pool._idle._value == count


async def test_all_threads_end_with_the_pool() -> None:
    """Those, too, that were to end anyway when the pool was stopped, and had not noticed yet."""
    for _ in range(50):
        pool, go_on = DaemonThreads(1, NAME), threading.Event()
        abandoned = pool.submit(go_on.wait)
        pool.allow_more(1)
        other = pool.submit(go_on.wait)
        go_on.set()
        assert abandoned.result(10) and other.result(10)
        await until(functools.partial(_are_idle, pool, 2))
        pool.allow_more(-1)
        pool.shutdown(wait=False, cancel_futures=True)
    await until(lambda: not [one for one in threading.enumerate() if one.name.startswith(NAME)])


async def test_no_thread_starts_after_the_pool_was_stopped() -> None:
    """It would take the word to end that is meant for one which is still busy."""
    pool, go_on = DaemonThreads(3, NAME), threading.Event()
    pool.submit(go_on.wait)
    pool.shutdown(wait=False, cancel_futures=True)
    pool.allow_more(-1)
    go_on.set()
    await until(lambda: not [one for one in threading.enumerate() if one.name.startswith(NAME)])
