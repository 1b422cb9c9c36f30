"""`polos worker`: what it imports, what it prints, and how it stops."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from polos_redis import PolosClient
from polos_redis.cli import event_loop
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


LOOP = """
import asyncio
from polos_redis import workflow

@workflow(id="cli-loop")
async def loop(ctx):
    return type(asyncio.get_running_loop()).__module__
"""


def test_a_worker_runs_on_uvloop_where_it_is_installed(polos: Command) -> None:
    (polos.folder / "loop.py").write_text(LOOP)
    with polos.worker("loop.py"):
        done = polos.run("invoke", "cli-loop", "--wait")
        assert (done.code, done.json) == (0, "uvloop" if find_spec("uvloop") else "asyncio.unix_events")


def test_at_level_warning_executions_that_succeed_are_not_logged(polos: Command) -> None:
    with polos.start(POLOS, "worker", "flows/flow.py", "--log-level", "warning") as worker:
        done = polos.run("invoke", "cli-flow", "--input", "21", "--wait", "--timeout", "60")
        assert (done.code, done.json) == (0, 42), done.err
        failed = polos.run("invoke", "cli-flow", "--input", '"x"', "--wait", "--timeout", "60")
        assert failed.code == 1
        worker.wait_for(" ERROR failed ")
    assert all(" ERROR " in line for line in worker.err.splitlines() if line.startswith("20"))


COLLECTOR = """
import gc
from polos_redis import workflow

@workflow(id="cli-collector")
async def collector(ctx):
    return gc.get_freeze_count() > 0
"""


def test_a_worker_settles_the_garbage_collector(polos: Command) -> None:
    (polos.folder / "collector.py").write_text(COLLECTOR)
    with polos.worker("collector.py"):
        done = polos.run("invoke", "cli-collector", "--wait")
        assert (done.code, done.json) == (0, True), done.err


def test_a_worker_leaves_a_collector_alone_that_the_module_has_disabled(polos: Command) -> None:
    (polos.folder / "collector.py").write_text(f"import gc\ngc.disable()\n{COLLECTOR}")
    with polos.worker("collector.py"):
        done = polos.run("invoke", "cli-collector", "--wait")
        assert (done.code, done.json) == (0, False), done.err


def test_without_uvloop_it_runs_on_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)

    async def module_of_the_loop() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert event_loop.run(module_of_the_loop()).startswith("asyncio.")


PARTS = """
from dataclasses import dataclass

@dataclass
class Part:
    name: str
"""
SHOP = """
import asyncio, sys
from dataclasses import dataclass
from polos_redis import PolosClient, workflow
FROM_PARTS

@dataclass
class Order:
    parts: list[Part]

@workflow(id="cli-shop")
async def ship(ctx, input: Order) -> Order:
    assert type(input) is Order and type(input.parts[0]) is Part
    return input

async def main():
    async with PolosClient() as client:
        order = await ship.run(client, Order([Part("wheel")]))
        assert type(order) is Order and type(order.parts[0]) is Part
        print(order.parts[0].name)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("package", ["a package", "a folder"])
@pytest.mark.parametrize("target", ["shop/flow.py", "shop.flow"])
def test_a_worker_and_a_client_agree_on_types(polos: Command, target: str, package: str) -> None:
    """However each of them starts the module, and if its folder has an `__init__.py` or not."""
    shop = polos.folder / "shop"
    shop.mkdir()
    if package == "a package":
        (shop / "__init__.py").touch()
    (shop / "parts.py").write_text(PARTS)
    absolute = "import sys\nsys.path.insert(0, '.')\nfrom shop.parts import Part"
    (shop / "flow.py").write_text(SHOP.replace("FROM_PARTS", absolute))
    with polos.worker(target):
        for client in (["shop/flow.py"], ["-m", "shop.flow"]):
            with polos.start(sys.executable, *client) as started:
                assert started.wait() == 0, started.err
                assert started.out == "wheel\n"


def test_a_file_of_a_package_is_imported_as_a_part_of_it(polos: Command) -> None:
    shop = polos.folder / "shop"
    shop.mkdir()
    (shop / "__init__.py").write_text("loaded = True")
    (shop / "parts.py").write_text(PARTS)
    (shop / "flow.py").write_text(SHOP.replace("FROM_PARTS", "from .parts import Part"))
    with polos.worker("shop/flow.py"), polos.start(sys.executable, "-m", "shop.flow") as client:
        assert client.wait() == 0, client.err


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
    ("target", "source", "said", "code"),
    [
        ("nowhere.flow", None, "no module named 'nowhere' in ", 2),
        ("json.flow", None, "no module named 'json.flow' in ", 2),
        (".flow", None, "'.flow' is neither the name of a module nor that of a file", 2),
        ("nowhere.py", None, "no such file: nowhere.py", 2),
        ("flows/", None, "flows/ is a folder", 2),
        ("./flow.txt", "x = 1", "./flow.txt is not a Python file", 2),
        ("empty.py", "x = 1", "no workflow defined in empty.py", 1),
        (
            "json.py",
            "x = 1",
            "json.py can't be imported as 'json': a module of that name is already imported",
            1,
        ),
    ],
)
def test_an_unusable_target_is_one_sentence(
    polos: Command, target: str, source: str | None, said: str, code: int
) -> None:
    if source is not None:
        (polos.folder / target).write_text(source)
    done = polos.run("worker", target)
    assert done.code == code
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
