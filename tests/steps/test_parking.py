"""Parking never changes the outcome, whatever workflow code does when its activation ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from polos_redis import Workflow, WorkflowContext, workflow
from polos_redis.state.fencing import Fence
from tests import ROOT
from tests.harness.programs import skip_without
from tests.harness.running import Running, running, soon, until
from tests.steps import parking_table
from tests.steps.parking_table import ROWS, Row


@pytest.mark.failure(12)
@pytest.mark.failure(38)
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_odd_code_parks_and_resumes(row: Row, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, row.workflow) as at:
        await soon(parking_table.play(row, at))


@pytest.mark.failure(38)
@pytest.mark.parametrize("version", ["3.12", "3.13"])
@pytest.mark.timeout(300)
def test_the_table_passes_on_other_interpreters(version: str, redis_url: str) -> None:
    python = _interpreter(version)
    if isinstance(python, str):
        skip_without(f"Python {version}", python)
    table = [str(python), "-W", "error", "-m", "tests.steps.parking_table", redis_url]
    done = subprocess.run(table, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ROWS)} rows on {version}." in done.stdout
    assert not done.stderr


def _interpreter(version: str) -> Path | str:
    """A virtual environment of that version with this project in it (created once), or why there is none."""
    if sys.version.startswith(version + "."):
        return Path(sys.executable)
    name = f"POLOS_PYTHON_{version.replace('.', '')}"
    base = os.environ.get(name) or shutil.which(f"python{version}")
    works = base and subprocess.run([base, "-c", ""], capture_output=True).returncode == 0
    if not base or not works:
        return f"set {name} to one"
    folder = ROOT / ".venv" / f"py{version.replace('.', '')}"
    python = folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one xdist worker creates it, the others wait
        if not _has_the_project(python):
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([base, "-m", "venv", folder], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "anyio", "--editable", str(ROOT)]
            done = subprocess.run(install, capture_output=True, text=True)
            if not _has_the_project(python):
                return f"the project can't be installed for Python {version}: {done.stderr.strip()[-300:]}"
    return python


def _has_the_project(python: Path) -> bool:
    there = [str(python), "-c", "import polos_redis.worker.worker, pydantic, anyio"]
    return python.exists() and subprocess.run(there, cwd="/", capture_output=True).returncode == 0


@workflow
async def asks_two(ctx: WorkflowContext) -> list[Any]:
    async def one(key: str) -> Any:
        answer = await ctx.step.suspend(key)
        return await ctx.step.run(f"after-{key}", lambda: answer["data"])

    return list(await asyncio.gather(one("a"), one("b")))


@pytest.mark.failure(24)
@pytest.mark.parametrize("answer_first", [True, False], ids=["before-the-park", "after-the-park"])
async def test_an_answer_while_the_park_is_in_flight_is_not_lost(
    answer_first: bool, redis_url: str, namespace: str
) -> None:
    answering: list[asyncio.Task[Any]] = []

    def interpose(at: Running) -> None:
        store = at.host.store
        park = store.fenced.park

        def park_and_answer(by: Fence, *args: Any) -> asyncio.Future[Any]:
            def answer() -> None:  # written in the same turn of the loop, on the same connection
                loop = asyncio.get_running_loop()
                coroutine = at.client.resume(
                    suspend_execution_id=by.id.decode(), suspend_step_key="a", data="A"
                )
                answering.append(loop.create_task(coroutine))

            store.fenced.park = park  # type: ignore[method-assign]
            if not answer_first:
                answer()
                return park(by, *args)
            answer()
            late: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            def ask() -> None:
                park(by, *args).add_done_callback(lambda done: late.set_result(done.result()))

            asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, ask)
            return late

        store.fenced.park = park_and_answer  # type: ignore[assignment,method-assign]

    async with running(redis_url, namespace, asks_two) as at:
        await at.client.list_executions()  # connected
        interpose(at)
        handle = await asks_two.invoke(at.client)
        await until(lambda: answering)
        assert (await soon(answering[0])).outcome == "accepted"
        await at.parked(handle)
        assert [s["step_key"] for s in (await at.client.get_execution(handle.id))["steps"]] == ["after-a"]
        await at.answer(handle, "b", "B")
        assert await at.result(handle) == ["A", "B"]


@pytest.fixture
def cleaned() -> list[str]:
    _cleaned.clear()
    return _cleaned


_cleaned: list[str] = []


@workflow
async def cleans_up_slowly(ctx: WorkflowContext) -> str:
    async def wait_and_clean(depth: int) -> None:
        try:
            if depth < 3:
                async with asyncio.TaskGroup() as group:
                    group.create_task(wait_and_clean(depth + 1))
            else:
                await ctx.step.suspend("ask")
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            _cleaned.append(f"level {depth}")

    await wait_and_clean(0)
    return "done"


@pytest.mark.failure(38)
async def test_cleanup_may_await_at_every_level(redis_url: str, namespace: str, cleaned: list[str]) -> None:
    levels = ["level 3", "level 2", "level 1", "level 0"]
    async with running(redis_url, namespace, cleans_up_slowly) as at:
        handle = await cleans_up_slowly.invoke(at.client)
        await at.parked(handle)
        await until(lambda: "level 0" in cleaned)
        assert cleaned == levels
        await at.answer(handle, "ask")
        assert await at.result(handle) == "done"
        assert cleaned == levels * 2


_spins = 0
_stop_spinning = False


@workflow
async def spins_after_the_end(ctx: WorkflowContext) -> str:
    global _spins
    with contextlib.suppress(asyncio.CancelledError):
        await ctx.step.suspend("first")
    while not _stop_spinning:
        with contextlib.suppress(asyncio.CancelledError):
            await ctx.step.run(f"step-{_spins}", str)
        _spins += 1
    return "stopped"


@pytest.mark.failure(12)
@pytest.mark.failure(38)
async def test_a_loop_around_ctx_does_not_starve_the_worker(redis_url: str, namespace: str) -> None:
    global _spins, _stop_spinning
    _spins, _stop_spinning = 0, False
    async with running(redis_url, namespace, spins_after_the_end) as at:
        handle = await spins_after_the_end.invoke(at.client)
        await at.parked(handle)
        await until(lambda: _spins > 20)
        before = _spins
        for _ in range(200):  # each takes several turns of the loop
            await handle.status()
        assert _spins - before < 200
        _stop_spinning = True
        await at.client.cancel(handle.id)


_held = threading.Event()


@workflow
async def holds_a_thread(ctx: WorkflowContext) -> Any:
    step = ctx.step.run("thread", _held.wait, 20)
    return await asyncio.gather(ctx.step.suspend("ask"), step)


async def test_a_step_in_flight_keeps_the_activation(redis_url: str, namespace: str) -> None:
    _held.clear()
    async with running(redis_url, namespace, holds_a_thread) as at:
        handle = await holds_a_thread.invoke(at.client)
        await at.opened(handle, "ask")
        # by the time this many calls have returned, the start event and an idle check are past
        for _ in range(200):
            assert await handle.status() == "running"
        _held.set()
        await at.parked(handle)
        await at.answer(handle, "ask")
        answer, value = await at.result(handle)
        assert (answer["data"], value) == ("yes", True)


_caught: list[BaseException] = []


@workflow
async def gives_up_on_a_thread(ctx: WorkflowContext) -> Any:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await ctx.step.run("thread", _held.wait, 20)
    return (await ctx.step.suspend("ask"))["data"]


async def test_a_step_in_a_thread_is_abandoned_but_keeps_the_activation(
    redis_url: str, namespace: str
) -> None:
    _held.clear()
    async with running(redis_url, namespace, gives_up_on_a_thread) as at:
        handle = await gives_up_on_a_thread.invoke(at.client)
        await at.opened(handle, "ask")
        assert at.worker.active
        _held.set()
        await at.parked(handle)
        (step,) = (await at.client.get_execution(handle.id))["steps"]
        assert (step["step_key"], step["status"], step["value"]) == ("thread", "abandoned", None)
        await at.answer(handle, "ask")
        assert await at.result(handle) == "yes"


_left: list[asyncio.Task[Any]] = []


@workflow
async def returns_and_leaves_tasks(ctx: WorkflowContext) -> str:
    async def works_on() -> None:
        await asyncio.sleep(3600)

    _left[:] = [asyncio.create_task(works_on()), asyncio.create_task(_ask(ctx))]
    await asyncio.sleep(0)
    return "done"


async def _ask(ctx: WorkflowContext) -> Any:
    return await ctx.step.suspend("never answered")


async def test_leftover_tasks_end_with_the_execution(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, returns_and_leaves_tasks) as at:
        handle = await returns_and_leaves_tasks.invoke(at.client)
        assert await at.result(handle) == "done"
        await until(lambda: all(task.cancelled() for task in _left))
        assert not await at.client.list_suspensions()


async def _exits(ctx: WorkflowContext) -> Any:
    async def leave() -> None:
        sys.exit(3)

    async with asyncio.TaskGroup() as group:
        group.create_task(leave())
        group.create_task(ctx.step.suspend("ask"))


@pytest.mark.failure(12)
async def test_sys_exit_in_a_child_task_fails_only_the_execution(redis_url: str, namespace: str) -> None:
    exits: Workflow[Any, Any] = workflow(id="exits-in-a-child-task")(_exits)
    async with running(redis_url, namespace, exits, asks_two) as at:
        error = (await _failure(at, exits))["error"]
        assert "SystemExit: 3" in error["traceback"]
        handle = await asks_two.invoke(at.client)
        await at.opened(handle, "b")


async def _failure(at: Running, one: Workflow[Any, Any]) -> dict[str, Any]:
    handle = await one.invoke(at.client)
    await at.reached(handle, "failed")
    return await at.client.get_execution(handle.id)
