"""`polos dev`: what it starts, what it reloads, and that its end leaves nothing running and loses nothing."""

from __future__ import annotations

import json
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
    running.signal(number)
    assert running.wait() == 0, running.err
    assert _living(polos) == []
    assert "Traceback" not in running.err


def _address(running: Running, name: str) -> str:
    (address,) = (row.split()[1] for row in running.out.splitlines() if row.split()[:1] == [name])
    return address


def _invoke(polos: Command, workflow: str) -> str:
    done = polos.run("invoke", workflow, "--json")
    assert done.code == 0, done.err
    return str(done.json["id"])


def _shown(polos: Command, execution_id: str) -> Any:
    done = polos.run("show", execution_id, "--json")
    assert done.code == 0, done.err
    return done.json


def _waits(polos: Command) -> str:
    """Starts an execution that has come to its question."""
    execution_id = _invoke(polos, "dev-waits")
    wait_until(lambda: _shown(polos, execution_id)["status"] == "waiting", "it never waited")
    return execution_id


def _result(polos: Command, execution_id: str) -> Any:
    wait_until(lambda: _shown(polos, execution_id)["status"] == "completed", "it never ended")
    return _shown(polos, execution_id)["result"]


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
    with _dev(polos) as running:
        running.signal(signal.SIGKILL)
        running.wait()
        with _dev(polos) as another:  # while the server of the killed one may still be ending
            assert "(started; its data is in .polos)" in another.out
            _approve(polos, execution_id)
            assert _result(polos, execution_id) == "first"


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
        assert "started; its data" not in running.out
    assert not (polos.folder / ".polos").exists()
    with _dev(here):
        _approve(here, execution_id)
        assert _result(here, execution_id) == "first"


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
    assert "--watch lib: there is no such folder" in polos.here("dev", "flow.py", "--watch", "lib").sentence
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
