"""An unclosed client stays quiet and never hangs; it works again in another loop and after a fork."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from typing import Any

import pytest

from polos_redis import PolosClient, RedisUnavailableError, Workflow, WorkflowContext, events
from tests.harness.running import connections, running, soon, until
from tests.harness.user_programs import SETTINGS, run_program


@SETTINGS
def test_a_client_need_not_be_closed(options: tuple[str, ...], redis_url: str, namespace: str) -> None:
    source = """
        client = PolosClient()

        async def main():
            handle = await client.invoke("nobody-runs-it", {"a": 1})
            async for event in events.stream_workflow(client, "nobody-runs-it", handle.id):
                print("not reached")

        async def bounded():
            handle = await client.invoke("nobody-runs-it")
            try:
                await handle.result(timeout=0.01)
            except TimeoutError:
                pass
            try:
                await asyncio.wait_for(main(), 0.05)
            except TimeoutError:
                print(await handle.status())

        asyncio.run(bounded())
    """
    assert run_program(source, redis_url, namespace, *options) == "queued\n"


@SETTINGS
def test_pending_tasks_at_exit_are_quiet(options: tuple[str, ...], redis_url: str, namespace: str) -> None:
    source = """
        client = PolosClient()

        async def read(handle):
            async for event in events.stream_workflow(client, "w", handle.id):
                pass

        async def main():
            handle = await client.invoke("nobody-runs-it")
            waits = [asyncio.create_task(handle.result()), asyncio.create_task(read(handle))]
            done, _ = await asyncio.wait(waits, timeout=0.05)
            print(len(done))

        asyncio.run(main())
    """
    assert run_program(source, redis_url, namespace, *options) == "0\n"


@SETTINGS
def test_a_client_works_in_a_second_run(options: tuple[str, ...], redis_url: str, namespace: str) -> None:
    source = """
        client = PolosClient()

        async def start():
            return (await client.invoke("nobody-runs-it")).id

        async def look(execution_id):
            handle = client.get_handle(execution_id)
            try:
                await handle.result(timeout=0.01)
            except TimeoutError:
                return await handle.status()

        ids = [asyncio.run(start()) for _ in range(3)]
        print(*(asyncio.run(look(one)) for one in ids))
        asyncio.run(client.aclose())
        print(asyncio.run(look(ids[0])))
    """
    assert run_program(source, redis_url, namespace, *options) == "queued queued queued\nqueued\n"


def test_the_loop_keeps_running_while_the_first_call_imports_redis(redis_url: str, namespace: str) -> None:
    source = """
        client = PolosClient()
        seen = set()

        async def look():
            while True:
                seen.add(sum(name.startswith("redis.") for name in list(sys.modules)))
                await asyncio.sleep(0)

        async def main():
            looking = asyncio.create_task(look())
            await client.list_executions()
            looking.cancel()
            print(min(seen), len(seen) > 2)

        asyncio.run(main())
    """
    assert run_program(source, redis_url, namespace) == "0 True\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@SETTINGS
def test_a_client_works_after_a_fork(options: tuple[str, ...], redis_url: str, namespace: str) -> None:
    source = """
        client = PolosClient()

        async def start():
            return (await client.invoke("nobody-runs-it")).id

        async def count():
            return len(await client.list_executions())

        asyncio.run(start())
        if os.fork() == 0:
            asyncio.run(start())
            print("child", asyncio.run(count()), flush=True)
            sys.exit()
        pid, status = os.wait()
        print("parent", status, asyncio.run(count()))
    """
    assert run_program(source, redis_url, namespace, *options) == "child 2\nparent 0 2\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_client_works_after_a_fork_during_a_run(redis_url: str, namespace: str) -> None:
    source = """
        client = PolosClient()

        async def start():
            return (await client.invoke("nobody-runs-it")).id

        async def main():
            await start()
            waiting = asyncio.create_task(client.get_handle(await start()).result())
            await asyncio.sleep(0)
            pid = os.fork()
            if pid == 0:
                asyncio.events._set_running_loop(None)
                loop = asyncio.new_event_loop()
                loop.run_until_complete(start())
                print("child", len(loop.run_until_complete(client.list_executions())), flush=True)
                loop.run_until_complete(client.aclose())
                os._exit(0)
            os.waitpid(pid, 0)
            for _ in range(20):
                await start()
            print("parent", len(await client.list_executions()), waiting.done())
            waiting.cancel()

        asyncio.run(main())
    """
    assert run_program(source, redis_url, namespace) == "child 3\nparent 23 False\n"


def test_a_client_keeps_no_loop_alive(redis_url: str, namespace: str) -> None:
    client = PolosClient(redis_url, namespace)
    loops = []

    async def use() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await client.list_executions()

    for _ in range(5):
        asyncio.run(use())
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 1


async def test_a_closed_client_can_be_used_again(redis_url: str, namespace: str) -> None:
    client = PolosClient(redis_url, namespace)
    handle = await client.invoke("nobody-runs-it")
    for _ in range(3):
        await client.aclose()
        assert await handle.status() == "queued"
    await client.aclose()
    await client.aclose()
    async with client:
        assert len(await client.list_executions()) == 1


async def _echoes(ctx: WorkflowContext, input: int) -> int:
    return input


echoes: Workflow[Any, Any] = Workflow(_echoes, "echoes")


@pytest.mark.failure(19)
async def test_cancelled_calls_do_not_affect_the_others(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, echoes) as at:

        async def echo(number: int) -> int:
            handle = await echoes.invoke(at.client, number)
            assert (await at.client.get_execution(handle.id))["input"] == number
            result: int = await handle.result()
            return result

        tasks = [asyncio.create_task(echo(number)) for number in range(300)]
        for turn, task in enumerate(tasks[::2]):
            if turn % 5 == 0:
                await asyncio.sleep(0)
            task.cancel()
        for number in range(1, 300, 2):
            assert await soon(tasks[number]) == number
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one == n or isinstance(one, asyncio.CancelledError) for n, one in enumerate(done))
        await until(lambda: _all_finished(at.client))


async def _all_finished(client: PolosClient) -> bool:
    return not any([await client.list_executions(status=word) for word in ("queued", "running")])


async def test_closing_ends_pending_waits(redis_url: str, namespace: str) -> None:
    client = PolosClient(redis_url, namespace)
    handle = await client.invoke("nobody-runs-it")

    async def read() -> None:
        async for _ in events.stream_workflow(client, "nobody-runs-it", handle.id):
            pass

    waits = [asyncio.create_task(handle.result()), asyncio.create_task(read())]
    store = await client.store()
    await until(lambda: connections(store, "polos-tail"))
    await until(lambda: _watched(store, handle.id))
    await client.aclose()
    for wait in waits:
        with pytest.raises(RedisUnavailableError, match="closed"):
            await soon(wait)


async def _watched(store: Any, execution_id: str) -> bool:
    (notify,) = await store.executions.read_fields(execution_id, "notify")
    return notify is not None


def test_threads_with_loops_of_their_own_share_a_client(redis_url: str, namespace: str) -> None:
    """Each loop is closed and replaced while others look for closed ones: no call fails, none is mixed up."""
    threads, runs = 16, 30
    client = PolosClient(redis_url, namespace)
    start = threading.Barrier(threads)
    failures: list[BaseException] = []

    async def once(name: str) -> None:
        start.wait(60)  # all loops of the last round are closed, and all threads look for them
        handle = await client.invoke("nobody-serves-this", name)
        found = await client.get_execution(handle.id)
        assert found["input"] == name
        await client.cancel(handle.id)

    def run(number: int) -> None:
        try:
            for again in range(runs):
                asyncio.run(once(f"{number} {again}"))
        except BaseException as error:
            failures.append(error)
            start.abort()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failures, failures[:3]

    async def close() -> None:
        await client.list_executions()  # drops the sessions of closed loops
        assert len(client._sessions) == 1
        await client.aclose()

    asyncio.run(close())
