"""`polos dev`: what it starts, what it reloads, and that its end leaves nothing running and loses nothing."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from polos_redis.cli.dev import port_here, watched_folders
from tests.harness.command import POLOS, Command, Running, wait_until
from tests.harness.keyboard import terminal

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")

MARK = "POLOS_TEST_RUN"  # in the environment of every process of one test
SHOWN = "Ctrl-C stops everything"

FLOW = """
import asyncio, os, pathlib, threading
from polos_redis import workflow

async def sleep():
    pathlib.Path("asleep").touch()
    if not pathlib.Path("no-sleep").exists():
        await asyncio.Event().wait()

def exit_once():
    if not pathlib.Path("exited").exists():
        pathlib.Path("exited").touch()
        os._exit(7)

@workflow(id="dev-waits")
async def waits(ctx):
    await ctx.step.suspend("go")
    return "first"

@workflow(id="dev-sleeps")
async def sleeps(ctx):
    await ctx.step.run("sleep", sleep)

@workflow(id="dev-exits")
async def exits(ctx):
    await ctx.step.run("exit", exit_once)

@workflow(id="dev-asks")
async def asks(ctx):
    breakpoint()
    return "asked"
"""

STEPS = """
import asyncio, os, pathlib, subprocess, sys, time
from polos_redis import workflow

def write(file, text):
    with open(file, "a") as out:
        out.write(f"{text}\\n")

async def note(name):
    write("began", name)
    await asyncio.sleep(0.1)
    write("ended", name)

async def wait(name):
    write("began", name)
    while not pathlib.Path("go-on").exists():
        await asyncio.sleep(0.02)

def leave_processes():
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    write("left", subprocess.Popen(program, close_fds=False).pid)
    forked = os.fork()
    if forked == 0:
        time.sleep(600)
    write("left", forked)

@workflow(id="dev-steps")
async def steps(ctx, name):
    for number in range(5):
        await ctx.step.run(f"before {number}", note, f"{name} before {number}")
    await ctx.step.wait_for("nap", seconds=1)
    await ctx.step.suspend("go")
    for number in range(5):
        await ctx.step.run(f"after {number}", note, f"{name} after {number}")

@workflow(id="dev-long")
async def long(ctx):
    await ctx.step.run("long", wait, "long")

@workflow(id="dev-leaves")
async def leaves(ctx):
    await ctx.step.run("leave", leave_processes)
"""


def _free_port() -> int:
    """A port below those of outgoing connections, so that none takes it before it is used."""
    while True:
        port = secrets.choice(range(20000, 32000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def polos(tmp_path: Path) -> Iterator[Command]:
    """The command in a folder with `flow.py`, and a URL without a Redis. Afterwards nothing runs."""
    (tmp_path / "flow.py").write_text(FLOW)
    polos = Command(f"redis://127.0.0.1:{_free_port()}/0", "dev", tmp_path)
    polos.environment[MARK] = uuid.uuid4().hex
    yield polos
    _wait_until_all_ended(polos)


def _living(polos: Command) -> list[str]:
    """The command lines of the test's processes."""
    mark = f"{MARK}={polos.environment[MARK]}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is another user's
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def _wait_until_all_ended(polos: Command) -> None:
    wait_until(lambda: not _living(polos), "something is left running")


@contextmanager
def _dev(polos: Command, *args: str, shown: str = SHOWN) -> Iterator[Running]:
    with polos.start(POLOS, "dev", "--port", "0", *(args or ("flow.py",))) as running:
        running.wait_for(shown)
        yield running
        if running.process.poll() is None:
            _ends(polos, running, signal.SIGINT)


def _ends(polos: Command, running: Running, number: signal.Signals) -> None:
    """It ends cleanly after a signal, and when it has ended nothing else runs."""
    shown = running.err.count("Traceback")  # of code that can't be imported
    running.signal(number)
    assert running.wait() == 0, running.err
    assert _living(polos) == []
    assert running.err.count("Traceback") == shown


def _address(running: Running, name: str) -> str:
    (address,) = (row.split()[1] for row in running.out.splitlines() if row.split()[:1] == [name])
    return address


def _invoke(polos: Command, workflow: str, *args: str) -> str:
    done = polos.run("invoke", workflow, "--json", *args)
    assert done.code == 0, done.err
    return str(done.json["id"])


def _shown(polos: Command, execution_id: str) -> Any:
    done = polos.run("show", execution_id, "--json")
    assert done.code == 0, done.err
    return done.json


def _waits(polos: Command) -> str:
    """Starts an execution that has come to its question."""
    execution_id = _invoke(polos, "dev-waits")
    _reaches(polos, execution_id, "waiting")
    return execution_id


def _reaches(polos: Command, execution_id: str, status: str) -> None:
    wait_until(lambda: _shown(polos, execution_id)["status"] == status, f"it is never {status}")


def _result(polos: Command, execution_id: str) -> Any:
    _reaches(polos, execution_id, "completed")
    return _shown(polos, execution_id)["result"]


def _prints_another(running: Running, text: str, than: int) -> None:
    """Waits until a text was printed more often than so many times."""
    wait_until(lambda: running.out.count(text) > than, f"no further {text!r}")


def _approve(polos: Command, execution_id: str) -> None:
    done = polos.run("resume", execution_id, "--approve", "--by", "ana")
    assert done.code == 0, done.err


def test_one_screen_says_where_everything_is(polos: Command) -> None:
    with _dev(polos) as running:
        for name, text in {"Inbox": "Inbox", "Executions": "dev-waits", "OpenAPI": "/executions"}.items():
            if name == "Executions":
                _waits(polos)
            answer = httpx2.get(_address(running, name), follow_redirects=True)
            assert answer.status_code == 200 and text in answer.text
        assert httpx2.get(f"{_address(running, 'API')}/executions").status_code == 200
        assert "(started; its data is in .polos)" in running.out
        assert "polos invoke dev-asks [--input JSON]" in running.out
        assert "Started server process" not in running.err and "watchfiles" not in running.err
    assert (polos.folder / ".polos" / ".gitignore").read_text() == "*\n"
    assert running.out.splitlines()[-1] == "stopped; what has not ended continues at the next start"


def test_json_is_one_object(polos: Command) -> None:
    with _dev(polos, "flow.py", "--json", shown="reloads") as running:
        facts = json.loads(running.out)
        assert "dev-waits" in facts["workflows"] and facts["reloads"].endswith("changes in .")
        assert httpx2.get(facts["inbox"]).status_code == 200
    json.loads(running.out)
    assert '"message": "worker stopped"' in running.err


def test_a_waiting_execution_continues_in_edited_code(polos: Command) -> None:
    file = polos.folder / "flow.py"
    with _dev(polos) as running:
        early, late = _waits(polos), _waits(polos)
        file.write_text(FLOW.replace('"first"', "("))
        running.wait_for("not loaded: flow.py can't be imported: SyntaxError")
        assert "the worker keeps the code that it has" in running.out
        assert f'File "{file}"' in running.err
        _approve(polos, early)
        assert _result(polos, early) == "first"
        file.write_text(FLOW.replace('"first"', '"second"'))
        running.wait_for("loaded: dev-asks")
        running.wait_for("worker stopped")
        _approve(polos, late)
        assert _result(polos, late) == "second"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_running_and_loses_nothing(polos: Command, number: signal.Signals) -> None:
    with _dev(polos) as running:
        execution_id = _waits(polos)
        _ends(polos, running, number)
    with _dev(polos):
        assert _shown(polos, execution_id)["status"] == "waiting"
        _approve(polos, execution_id)
        assert _result(polos, execution_id) == "first"


def test_a_killed_run_leaves_nothing_running_and_the_next_continues(polos: Command) -> None:
    with _dev(polos) as running:
        execution_id = _waits(polos)
        running.signal(signal.SIGKILL)
        running.wait()
        _wait_until_all_ended(polos)
    polos.environment["POLOS_LEASE_SECONDS"] = "3600"
    with _dev(polos) as running:
        interrupted = _invoke(polos, "dev-sleeps")
        wait_until((polos.folder / "asleep").exists, "the step never ran")
        (polos.folder / "no-sleep").touch()
        running.signal(signal.SIGKILL)
        running.wait()
        with _dev(polos) as another:  # while the server of the killed one may still be ending
            assert "(started; its data is in .polos)" in another.out
            _approve(polos, execution_id)
            assert _result(polos, execution_id) == "first"
            assert _result(polos, interrupted) is None  # without waiting for a lease to expire


def test_a_second_ctrl_c_does_not_wait_for_steps(polos: Command) -> None:
    polos.environment["POLOS_GRACE_SECONDS"] = "600"
    with _dev(polos) as running:
        execution_id = _invoke(polos, "dev-sleeps")
        wait_until((polos.folder / "asleep").exists, "the step never ran")
        running.signal(signal.SIGINT)
        running.wait_for("waiting up to 600 s for running steps; Ctrl-C again does not wait")
        _ends(polos, running, signal.SIGINT)
    (polos.folder / "no-sleep").touch()
    with _dev(polos):
        assert _result(polos, execution_id) is None  # the step ran again


def test_a_stop_soon_after_a_reload_lets_steps_finish(polos: Command) -> None:
    polos.environment["POLOS_GRACE_SECONDS"] = "600"
    file = polos.folder / "flow.py"
    file.write_text(STEPS)
    with _dev(polos) as running:
        execution_id = _invoke(polos, "dev-long")
        wait_until((polos.folder / "began").exists, "the step never ran")
        file.write_text(f"{STEPS}\n# edited")
        running.wait_for("loaded: dev-leaves")
        running.signal(signal.SIGINT)
        running.wait_for("waiting up to 600 s for running steps")
        (polos.folder / "go-on").touch()
        assert running.wait() == 0, running.err
    with _dev(polos):
        assert _result(polos, execution_id) is None
    assert (polos.folder / "began").read_text() == "long\n"


def test_reloads_lose_nothing_delay_nothing_and_repeat_no_step(polos: Command) -> None:
    """A worker that ended without handing back what it has would delay it until its lease expires."""
    polos.environment |= {"POLOS_LEASE_SECONDS": "3600", "POLOS_GRACE_SECONDS": "60"}
    file = polos.folder / "flow.py"
    file.write_text(STEPS)
    with _dev(polos) as running:
        ids: list[str] = []
        for number in range(12):
            loaded = running.out.count("loaded:")
            file.write_text(f"{STEPS}\n# {number}")
            if number < 4:
                ids.append(_invoke(polos, "dev-steps", "--input", f'"{number}"'))
            elif number == 8:
                for one in ids:
                    _reaches(polos, one, "waiting")
                    _approve(polos, one)
            _prints_another(running, "loaded:", loaded)
        for one in ids:
            assert _result(polos, one) is None
    expected = [f"{name} {when} {n}" for name in range(4) for when in ("before", "after") for n in range(5)]
    for name in ("began", "ended"):
        assert sorted((polos.folder / name).read_text().splitlines()) == sorted(expected)


def test_changes_faster_than_an_import_are_loaded(polos: Command) -> None:
    file = polos.folder / "flow.py"
    with _dev(polos) as running:
        for number in range(3):
            loaded = running.out.count("loaded:")
            while running.out.count("loaded:") == loaded:
                changed = running.out.count("changed:")
                file.write_text(f"{FLOW}\n# {number} {changed}")
                _prints_another(running, "changed:", changed)
        _waits(polos)


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGKILL])
def test_processes_that_steps_leave_keep_nothing_running(polos: Command, ends: signal.Signals) -> None:
    (polos.folder / "flow.py").write_text(STEPS)
    with _dev(polos) as running:
        _result(polos, _invoke(polos, "dev-leaves"))
        left = [int(one) for one in (polos.folder / "left").read_text().split()]
        try:
            running.signal(ends)
            running.wait()
            wait_until(lambda: len(_living(polos)) == len(left), "something else is left running")
        finally:
            for one in left:
                os.kill(one, signal.SIGKILL)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("gone.py", "no such file: gone.py"),
        ("gone", "no module named 'gone' in "),
        ("lib.gone", "no module named 'lib.gone' in "),
        ("lib/", "lib/ is a folder: pass a file in it, or a module"),
    ],
)
def test_what_does_not_exist_ends_it(polos: Command, target: str, said: str) -> None:
    (polos.folder / "lib").mkdir()
    done = polos.run("dev", "flow.py", target)
    assert done.code == 2 and said in done.sentence
    assert (polos.folder / ".polos").exists() == (target == "lib.gone")  # found missing by its import


@pytest.mark.parametrize(
    ("broken", "reason"),
    [("def f(:", "SyntaxError: "), ("import gone", "ModuleNotFoundError: No module named 'gone'")],
)
def test_broken_code_can_be_mended(polos: Command, broken: str, reason: str) -> None:
    file = polos.folder / "flow.py"
    file.write_text(broken)
    with _dev(polos) as running:
        assert f"not loaded: flow.py can't be imported: {reason}" in running.out
        assert "none yet" in running.out
        file.write_text(FLOW)
        running.wait_for("loaded: dev-asks")
        file.unlink()
        running.wait_for("not loaded: no such file: flow.py; the worker keeps the code that it has")
        _waits(polos)


def test_an_import_that_ends_the_process_or_hangs_can_be_edited(polos: Command) -> None:
    file = polos.folder / "flow.py"
    file.write_text("import os; os._exit(3)")
    with _dev(polos) as running:
        assert "not loaded: the import ended the process with exit code 3\n" in running.out
        assert "none yet" in running.out
        file.write_text("import pathlib, threading; pathlib.Path('hangs').touch(); threading.Event().wait()")
        wait_until((polos.folder / "hangs").exists, "the import never began")
        file.write_text("x = 1")
        running.wait_for("not loaded: no workflow defined in flow.py")
        file.write_text(FLOW)
        running.wait_for("loaded: dev-asks")
        _waits(polos)


def test_an_end_during_a_hanging_import(polos: Command) -> None:
    hanging = "import pathlib, threading; pathlib.Path('hangs').touch(); threading.Event().wait()"
    (polos.folder / "flow.py").write_text(hanging)
    with polos.start(POLOS, "dev", "--port", "0", "flow.py") as running:
        wait_until((polos.folder / "hangs").exists, "the import never began")
        _ends(polos, running, signal.SIGTERM)


def test_a_worker_that_ends_by_itself_is_replaced(polos: Command) -> None:
    with _dev(polos) as running:
        execution_id = _invoke(polos, "dev-exits")
        running.wait_for("the worker ended with exit code 7; another one is started")
        assert _result(polos, execution_id) is None


def test_a_person_debugs_and_stops_it_at_a_terminal(polos: Command) -> None:
    with terminal(polos, "dev", "flow.py", "--port", "0") as person:
        person.wait_for(SHOWN)
        assert "╭" in person.screen
        execution_id = _invoke(polos, "dev-asks")
        person.wait_for("(Pdb)")
        person.type(b"c\n")
        assert _result(polos, execution_id) == "asked"
        person.type(b"\x03")
        assert person.end() == 0
        assert "stopped; what has not ended" in person.screen and "Traceback" not in person.screen
        assert _living(polos) == []


def test_a_closed_terminal_ends_it(polos: Command) -> None:
    with terminal(polos, "dev", "flow.py", "--port", "0") as person:
        person.wait_for(SHOWN)
        execution_id = _waits(polos)
        person.hang_up()
        assert _living(polos) == []
    with _dev(polos):
        assert _shown(polos, execution_id)["status"] == "waiting"


def test_a_redis_that_answers_is_used(redis_url: str, namespace: str, polos: Command) -> None:
    here = Command(redis_url, namespace, polos.folder)
    here.environment[MARK] = polos.environment[MARK]
    with _dev(here) as running:
        execution_id = _waits(here)
        assert "(already running)" in running.out
    assert not (polos.folder / ".polos").exists()
    with _dev(here):
        _approve(here, execution_id)
        assert _result(here, execution_id) == "first"


def test_a_folder_for_data_that_a_running_redis_does_not_use_is_refused(
    redis_url: str, namespace: str, polos: Command
) -> None:
    with _dev(polos, "flow.py", "--data-dir", "mine"):
        done = polos.run("dev", "flow.py", "--data-dir", "other")
        assert done.code == 2 and done.sentence.startswith(
            "polos: --data-dir other: a Redis that keeps its data elsewhere answers already at 127.0.0.1:"
        )
        (polos.folder / "link").symlink_to("mine")
        with polos.start(POLOS, "dev", "--port", "0", "flow.py", "--data-dir", "link") as second:
            second.wait_for("(already running)")
            second.signal(signal.SIGINT)
            assert second.wait() == 0, second.err
    elsewhere = Command(redis_url, namespace, polos.folder)
    done = elsewhere.run("dev", "flow.py", "--data-dir", "mine")
    assert done.code == 2 and done.sentence.startswith("polos: --data-dir mine: a Redis that keeps")


def test_a_taken_port(polos: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = polos.run("dev", "flow.py", "--port", str(port))
    assert done.code == 1 and str(port) in done.sentence
    _wait_until_all_ended(polos)


def test_a_redis_elsewhere_must_answer(polos: Command) -> None:
    hint = "redis://127.0.0.1:PORT/0, at a port that no other program has"
    done = polos.run("dev", "flow.py", "--url", "redis://ana:secret@127.0.0.1:1/0")
    assert done.code == 1 and "secret" not in done.sentence
    assert done.sentence.endswith(f"; polos dev starts a Redis only at {hint}")
    assert not (polos.folder / ".polos").exists()


def test_wrong_use_is_one_sentence(polos: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done = polos.here("dev", "flow.py", "--watch", "lib")
    assert done.code == 2 and "--watch lib: there is no such folder" in done.sentence
    polos.environment["POLOS_GRACE_SECONDS"] = "soon"
    assert "POLOS_GRACE_SECONDS must be" in polos.run("dev", "flow.py").sentence
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    done = polos.here("dev", "flow.py")
    assert done.sentence == "polos: polos dev needs watchfiles: pip install 'polos-redis[dev-server]'"


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("redis://127.0.0.1:6380/0", 6380),
        ("redis://localhost", 6379),
        ("redis://:secret@127.0.0.1:6379/0", None),
        ("rediss://127.0.0.1:6379/0", None),
        ("redis://127.0.0.1:6379/0?protocol=2", None),
        ("redis://127.0.0.1:1,redis://127.0.0.1:2", None),
        ("unix:///tmp/redis.sock", None),
        ("redis://redis.example.com:6379/0", None),
    ],
)
def test_where_a_server_can_be_started(url: str, port: int | None) -> None:
    assert port_here(url) == port


def test_what_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path = tmp_path / "work"
    tmp_path.mkdir()
    monkeypatch.chdir(tmp_path)
    assert watched_folders(["shop.workflows"], []) == [tmp_path]
    assert watched_folders(["a/x.py", "a/b/y.py"], [Path("c")]) == [tmp_path / "a", tmp_path / "c"]
    assert watched_folders(["charge.py"], [Path("../lib")]) == [tmp_path.parent / "lib", tmp_path]
