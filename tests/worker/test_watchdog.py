"""The watchdog names the code that blocks an event loop, and whom it runs for."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel, field_validator

from polos_redis import HookContext, PolosClient, Workflow, WorkflowContext, watchdog
from polos_redis import frames as stack_frames
from polos_redis.server.app import create_app
from polos_redis.server.listening import Listener, listen
from tests.harness.running import running, until

BLOCKED = 0.1
HELD = 1.0
MESSAGE = "the event loop is blocked"

armed = False


def hold() -> None:
    """Blocks the thread that calls it."""
    time.sleep(HELD)


class Input(BaseModel):
    """An input whose validator blocks in the worker; a client that has only an id validates nothing."""

    text: str

    @field_validator("text")
    @classmethod
    def check_text(cls, text: str) -> str:
        if armed:
            hold()
        return text


class Verdict(BaseModel):
    approved: bool
    text: str = ""

    @field_validator("text")
    @classmethod
    def check_verdict(cls, text: str) -> str:
        if text == "hold":
            hold()
        return text


class Odd:
    """A value that is slow to compare."""

    def __eq__(self, other: object) -> bool:
        hold()
        return True

    __hash__ = object.__hash__


async def _between(ctx: WorkflowContext) -> None:
    hold()


async def _in_task(ctx: WorkflowContext) -> None:
    async def beside() -> None:
        hold()

    await asyncio.gather(beside(), ctx.step.run("other", lambda: None))


async def _in_step(ctx: WorkflowContext) -> None:
    async def slow() -> None:
        hold()

    await ctx.step.run("slow step", slow)


async def _compares(ctx: WorkflowContext) -> None:
    async def compare() -> bool:
        return Odd() == Odd()

    await ctx.step.run("compare", compare)


async def _takes(ctx: WorkflowContext, input: Input) -> None:
    pass


async def _nothing(ctx: WorkflowContext) -> None:
    pass


async def _hook(ctx: WorkflowContext, hook_context: HookContext) -> None:
    hold()


Flow = Workflow[Any, Any]
FLOWS: dict[str, tuple[Flow, str | None, Callable[..., Any]]] = {
    "code between steps": (Workflow(_between, "between"), None, hold),
    "a task of the workflow": (Workflow(_in_task, "in-task"), None, hold),
    "an async step": (Workflow(_in_step, "in-step"), "slow step", hold),
    "__eq__": (Workflow(_compares, "compares"), "compare", hold),
    "the input's validator": (Workflow(_takes, "takes"), None, hold),
    "a hook": (Workflow(_nothing, "hooked", on_start=_hook), "on_start._hook.0", hold),
}


def named(function: Callable[..., Any]) -> str:
    """How the watchdog names the line of `time.sleep` in a function of this file."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = [number for number, line in enumerate(lines) if "time.sleep" in line]
    return f"{__file__}:{first + offset} in {function.__qualname__}"


async def warning(caplog: pytest.LogCaptureFixture) -> Any:
    """The first warning of a loop that `hold` has blocked: on a busy machine, other code may, too."""

    def found() -> list[logging.LogRecord]:
        return [one for one in caplog.records if one.message == MESSAGE and one.at == named(hold)]  # type: ignore[attr-defined]

    return (await until(found, "the warning"))[0]


@pytest.mark.failure(46)
@pytest.mark.threat(28)
@pytest.mark.parametrize("what", FLOWS)
async def test_user_code_that_blocks_the_loop_is_named(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    global armed
    flow, step, function = FLOWS[what]
    async with running(redis_url, namespace, flow, blocked_seconds=BLOCKED) as at:
        handle = await at.client.invoke(flow.id, {"text": "a"} if flow.takes_input else None)  # by its id
        armed = True
        try:
            await at.result(handle)
            found = await warning(caplog)
        finally:
            armed = False
        assert (found.at, found.execution, found.workflow) == (named(function), handle.id, flow.id)
        assert getattr(found, "step", None) == step
        assert found.levelno == logging.WARNING and found.seconds == BLOCKED
        assert at.worker.stats.loop_blocked >= 1


async def _asks(ctx: WorkflowContext) -> None:
    await ctx.step.wait_for("before", seconds=0.2)
    await ctx.step.suspend("ask", schema=Verdict)


asks: Flow = Workflow(_asks, "asks")


@pytest.mark.threat(28)
async def test_a_validator_that_an_errand_calls_is_named(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(redis_url, namespace, asks, blocked_seconds=BLOCKED) as at:
        handle = await asks.invoke(at.client)
        await at.client.resume(
            suspend_execution_id=handle.id,
            suspend_step_key="ask",
            data={"approved": True, "text": "hold"},
            early=True,
        )
        await at.result(handle)
        found = await warning(caplog)
        assert found.at == named(hold)
        assert getattr(found, "errand", f"y{handle.id} ask") == f"y{handle.id} ask"


async def test_each_place_is_named_once_in_a_while(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = FLOWS["an async step"][0]
    async with running(redis_url, namespace, flow, blocked_seconds=BLOCKED) as at:
        for _ in range(2):
            await at.result(await flow.invoke(at.client))
        await until(lambda: at.worker.stats.loop_blocked >= 2)
    assert len([one for one in caplog.records if one.message == MESSAGE and one.at == named(hold)]) == 1  # type: ignore[attr-defined]


async def test_a_loop_that_waits_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[None] = []
    dog = watchdog.Watchdog(0.02, logging.getLogger("polos.worker"), blocked=lambda: counted.append(None))
    dog.start()
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.5)
    dog.stop()
    assert counted == []


@pytest.mark.threat(28)
async def test_a_request_that_blocks_the_server_is_named(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_BLOCKED_SECONDS", str(BLOCKED))
    async with PolosClient(redis_url, namespace) as client:
        app = create_app(client)

        @app.get("/blocks")
        async def blocks() -> None:
            hold()

        listener = Listener(app)
        listening = listen("127.0.0.1", 0)
        serving = asyncio.create_task(listener.serve([listening]))
        async with httpx2.AsyncClient(timeout=60) as http:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/blocks?token=secret"
            assert (await http.get(url, timeout=30)).status_code == 200
        found = await warning(caplog)
        assert (found.at, found.request, found.name) == (named(hold), "GET /blocks", "polos.server")
        listener.stop()
        await serving


def test_the_users_own_code_is_named_before_installed_code() -> None:
    def call(name: str, inner: Callable[[], Any]) -> Callable[[], Any]:
        space: dict[str, Any] = {"inner": inner}
        exec(compile("def run():\n    return inner()\n", name, "exec"), space)
        found: Callable[[], Any] = space["run"]
        return found

    def stack() -> list[Any]:
        frames, frame = [], inspect.currentframe()
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        return frames[1:]

    installed = call("/app/lib/site-packages/requests/api.py", stack)
    ours = f"{stack_frames._OURS}runtime/steps/run.py"
    assert watchdog.place_of(call("/app/charge.py", installed)()) == "/app/charge.py:2 in run"
    only = [
        frame for frame in call(ours, installed)() if "site-packages/requests" in frame.f_code.co_filename
    ]
    assert watchdog.place_of(only) == "/app/lib/site-packages/requests/api.py:2 in run"


async def test_code_that_blocks_later_in_the_same_turn_is_named_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted: list[None] = []
    dog = watchdog.Watchdog(BLOCKED, logging.getLogger("polos.worker"), blocked=lambda: counted.append(None))
    dog.start()

    def shorter() -> None:
        time.sleep(2 * BLOCKED)

    shorter()
    hold()
    await warning(caplog)
    dog.stop()
    places = [one.at for one in caplog.records if one.message == MESSAGE]  # type: ignore[attr-defined]
    assert named(hold) in places and len(places) == len(set(places))
    assert len(counted) == 1


async def test_what_blocks_the_loop_is_told_until_it_turns_again() -> None:
    dog = watchdog.Watchdog(BLOCKED, logging.getLogger("polos.worker"), lambda frames, task: {"step": "slow"})
    dog.start()
    seen: list[dict[str, Any]] = []

    def look() -> None:
        while len(seen) < 2:
            block = dog.blocking()
            if block is not None and (not seen or block["seconds"] > seen[-1]["seconds"]):
                seen.append(block)
            done.wait(BLOCKED / 10)

    done = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    looking.join()  # blocks the loop until it is named twice, for longer the second time
    assert [one["step"] for one in seen] == ["slow", "slow"]
    assert "test_watchdog.py:" in seen[0]["at"]
    assert seen[0]["seconds"] < seen[1]["seconds"]
    await until(lambda: dog.blocking() is None, "the watchdog to see a beat")
    dog.stop()
