"""`polos worker`: what it imports, what it prints, and how it stops."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from polos_redis import PolosClient
from tests.harness.command import POLOS, Command

FLOW = """
import helper_beside_it
from polos_redis import workflow

@workflow(id="cli-flow")
async def flow(ctx, input: int):
    return await ctx.step.run("double", helper_beside_it.double, input)
"""

STUCK = """
import asyncio, pathlib, threading, time
from polos_redis import workflow

def sleep():
    threading.Thread(target=threading.Event().wait, daemon=False).start()  # the interpreter waits for it
    pathlib.Path("asleep").touch()
    threading.Event().wait()

@workflow(id="cli-stuck")
async def stuck(ctx):
    await ctx.step.run("sleep", sleep)
"""


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "flow.py").write_text(FLOW)
    (tmp_path / "flows" / "helper_beside_it.py").write_text("def double(n): return 2 * n\n")
    (tmp_path / "module_here.py").write_text(FLOW.replace("helper_beside_it", "flows.helper_beside_it"))
    return Command(redis_url, namespace, tmp_path)


@pytest.mark.parametrize("target", ["flows/flow.py", "module_here"])
def test_a_worker_runs_a_file_or_a_module(polos: Command, target: str) -> None:
    with polos.worker(target) as worker:
        done = polos.run("invoke", "cli-flow", "--input", "21", "--wait")
        assert (done.code, done.json) == (0, 42), done.err
    assert "worker ready" in worker.err and "worker stopped" in worker.err
    assert worker.out == ""


def test_the_log_may_be_json(polos: Command) -> None:
    with polos.worker("flows/flow.py", "--log-format", "json", "--concurrency", "1") as worker:
        pass
    rows = [json.loads(row) for row in worker.err.splitlines()]
    assert rows[0]["message"] == "worker ready"
    assert rows[0]["workflows"] == ["cli-flow"]
    assert {row["level"] for row in rows} == {"INFO"}


@pytest.mark.failure(8)
def test_ctrl_c_stops_it_cleanly(polos: Command) -> None:
    with polos.worker("flows/flow.py") as worker:
        worker.signal(signal.SIGINT)
        assert worker.wait() == 0
    assert "worker stopped" in worker.err
    assert "Traceback" not in worker.err


@pytest.mark.failure(8)
async def test_an_endless_thread_does_not_keep_it_alive(
    polos: Command, redis_url: str, namespace: str
) -> None:
    (polos.folder / "stuck.py").write_text(STUCK)
    async with PolosClient(redis_url, namespace) as client:
        with polos.start(POLOS, "worker", "stuck.py", "--grace-seconds", "0.1") as worker:
            worker.wait_for("worker ready")
            handle = await client.invoke("cli-stuck")
            while not (polos.folder / "asleep").exists():
                assert worker.process.poll() is None
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
            assert "user code is still running" in worker.err  # the log was flushed
        assert await handle.status() == "queued"  # put back into its queue
        await client.cancel(handle.id)


@pytest.mark.parametrize(
    ("target", "source", "said"),
    [
        ("nowhere.flow", None, "no module named 'nowhere' in "),
        ("nowhere.py", None, "no such file: nowhere.py"),
        ("flows/", None, "flows/ is a folder"),
        ("empty.py", "x = 1", "no workflow defined in empty.py"),
        (
            "json.py",
            "x = 1",
            "json.py can't be imported as 'json': a module of that name is already imported",
        ),
    ],
)
def test_an_unusable_target_is_one_sentence(
    polos: Command, target: str, source: str | None, said: str
) -> None:
    if source is not None:
        (polos.folder / target).write_text(source)
    done = polos.run("worker", target)
    assert done.code == 1
    assert said in done.sentence


@pytest.mark.parametrize(
    ("source", "shown", "said"),
    [
        ("import math\nmath.sqrt(-1)\n", "line 2, in <module>\n    math.sqrt(-1)\n", "ValueError: "),
        ("def f(:\n", "    def f(:\n", "SyntaxError: "),
        (
            "import absent_thing\n",
            "    import absent_thing\n",
            "ModuleNotFoundError: No module named 'absent_thing'",
        ),
        ("import sys\nsys.exit(3)\n", "    sys.exit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_raising_module_is_shown_with_its_own_traceback(
    polos: Command, source: str, shown: str, said: str
) -> None:
    (polos.folder / "broken.py").write_text(source)
    done = polos.run("worker", "broken.py")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"polos: broken.py can't be imported: {said}")
    assert shown in done.err
    assert "cli/modules.py" not in done.err and "importlib" not in done.err
