"""`python -m benchmarks peers`: what it installs, starts, computes and leaves behind. No value is judged."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers import command, environments, polos, saq, servers
from benchmarks.peers.children import peer_process
from benchmarks.peers.environments import COMPLETE, environment, folder_of
from benchmarks.peers.peer import DURABLE_CASES, JOB_CASES, STEPS, Peer
from benchmarks.peers.report import MEASURES, Row, as_json, as_markdown, figures
from benchmarks.stage import BenchmarkError
from tests import ROOT
from tests.harness.programs import skip_without
from tests.harness.servers import os_parent, wait_for

ABOUT: dict[str, str | int | float] = {"rounds": 3, "loop": "uvloop"}


def peer(name: str, *packages: str, **described: Any) -> Peer:
    described = {"server": "redis", "cases": JOB_CASES, "stated": "as shipped", **described}
    return Peer(name=name, module=name, packages=packages, **described)


def run(*arguments: str, timeout: float = 100, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "peers", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# --- the report -------------------------------------------------------------------------------------------

positive = st.floats(0.001, 1e6)


@given(st.lists(positive, min_size=1, max_size=300), st.sampled_from(["call", "resume"]))
def test_latencies_become_percentiles(milliseconds: list[float], case: str) -> None:
    found = figures(case, {"milliseconds": milliseconds})
    p50, p99 = found[f"{case} p50"], found[f"{case} p99"]
    assert found.keys() <= MEASURES.keys() and {p50, p99} <= set(milliseconds)
    assert sum(one <= p50 for one in milliseconds) > len(milliseconds) * 0.5
    assert sum(one <= p99 for one in milliseconds) > len(milliseconds) * 0.99


@given(st.integers(1, 10_000), positive)
def test_steps_are_counted_in_steps(count: int, seconds: float) -> None:
    answer = {"count": count, "seconds": seconds}
    assert figures("jobs", answer) == {"jobs": pytest.approx(count / seconds)}
    assert figures("steps", answer) == {"steps": pytest.approx(STEPS * count / seconds)}


@given(st.sampled_from(list(MEASURES)), st.lists(st.tuples(positive, positive), min_size=1, max_size=5))
def test_a_ratio_above_one_means_that_the_reference_was_better(
    measure: str, rounds: list[tuple[float, float]]
) -> None:
    ours = Row(peer("ours"), rounds=[{measure: one} for one, _ in rounds])
    theirs = Row(peer("theirs"), rounds=[{measure: other} for _, other in rounds])
    times = theirs.times(measure, ours)
    assert len(times) == len(rounds)
    for (one, other), ratio, inverse in zip(rounds, times, ours.times(measure, theirs), strict=True):
        better = one > other if measure in ("jobs", "steps") else one < other
        assert (ratio > 1) == better or ratio == pytest.approx(1)
        assert ratio * inverse == pytest.approx(1)


def rows() -> tuple[Row, Row, Row, Row]:
    reference = Row(
        peer("polos-redis"),
        rounds=[
            {"jobs": 8000.0, "steps": 20_000.0, "call p50": 0.5},
            {"jobs": 6000.0, "steps": 10_000.0, "call p50": 0.75},
            {"jobs": 9000.0, "steps": 30_000.0, "call p50": 1.0},
        ],
    )
    queue = Row(
        peer("queue", "queue==1.0", settings={"fsync": "off"}),
        rounds=[{"jobs": one, "call p50": 150.0} for one in (1000.0, 4000.0, 18_000.0)],
    )
    return (
        reference,
        queue,
        Row(peer("absent"), missing="npm is not on the PATH"),
        Row(peer("bad"), failed="its"),
    )


def test_the_table_has_ratios_settings_and_reasons() -> None:
    all_rows = rows()
    table = as_markdown(ABOUT, all_rows, all_rows[0]).splitlines()
    head, _, ours, theirs, empty, note = table[:6]
    names = [cell.strip() for cell in head.strip("|").split("|")]
    assert names == ["", *(measure.title for measure in MEASURES.values())]
    assert ours.startswith("| polos-redis | 8,000 /s | 20,000 /s | 0.75 ms |  |")
    assert theirs.startswith("| queue | 4,000 /s (1.5x) |  | 150 ms (200x) |  |")
    assert empty == "" and note.startswith("Medians of 3 rounds. (2.0x): polos-redis was twice as fast")
    assert "- queue: queue==1.0; fsync=off; as shipped" in table
    assert "- absent: missing: npm is not on the PATH" in table
    assert "- bad: failed: its" in table
    assert table[-1] == "rounds 3, loop uvloop"


def test_the_json_has_every_round() -> None:
    found = json.loads(as_json(ABOUT, rows(), rows()[0]))
    assert found["about"] == ABOUT
    _, queue, absent, bad = found["peers"]
    jobs, call = queue["figures"]
    assert (jobs["name"], jobs["unit"], jobs["median"]) == ("jobs", "/s", 4000.0)
    assert jobs["rounds"] == [1000.0, 4000.0, 18_000.0]
    assert jobs["times by round"] == [8.0, 1.5, 0.5] and jobs["times"] == 1.5
    assert (call["name"], call["unit"], call["times"]) == ("call p50", "ms", 200.0)
    assert (absent["missing"], absent["failed"], absent["figures"]) == ("npm is not on the PATH", "", [])
    assert (bad["missing"], bad["failed"]) == ("", "its")


def test_a_peer_is_described_once_and_pinned() -> None:
    names = [one.name for one in command.PEERS]
    assert len(set(names)) == len(names)
    for one in command.PEERS:
        assert set(one.cases) <= set(DURABLE_CASES)
        assert all("==" in package for package in one.packages)
        assert all("@" in package[1:] for package in one.npm)


# --- environments -----------------------------------------------------------------------------------------


def wheel(folder: Path, version: str) -> str:
    """A package of our own, which pip installs without asking a registry."""
    path = folder / f"lightest-{version}-py3-none-any.whl"
    info = f"lightest-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lightest.py", f"version = '{version}'\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: lightest\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return str(path)


def test_an_environment_is_made_once_for_its_packages(tmp_path: Path) -> None:
    shown: list[str] = []
    cache, one = tmp_path / "cache", peer("one", wheel(tmp_path, "1.0"))
    made = asyncio.run(environment(one, cache, shown.append))
    program = "import lightest; print(lightest.version)"
    assert subprocess.check_output([made.python, "-c", program], text=True, cwd=tmp_path) == "1.0\n"
    assert shown == [f"installing {one.packages[0]}"]

    assert asyncio.run(environment(one, cache, shown.append)) == made
    assert len(shown) == 1
    (made.folder / COMPLETE).unlink()  # as if it had been interrupted
    (made.folder / "rest").touch()
    assert asyncio.run(environment(one, cache, shown.append)) == made
    assert len(shown) == 2 and not (made.folder / "rest").exists()

    newer = peer("one", wheel(tmp_path, "1.1"))
    assert folder_of(newer, cache) != made.folder


async def test_what_cannot_be_installed_is_missing_and_not_kept(tmp_path: Path) -> None:
    absent = peer("absent", str(tmp_path / "absent-1.0-py3-none-any.whl"))
    rows, made = await command.install([absent, polos.PEER], tmp_path / "cache")
    assert "absent-1.0" in rows[0].missing and not rows[1].missing
    assert made.keys() == {polos.PEER.name}
    assert not (folder_of(absent, tmp_path / "cache") / COMPLETE).exists()


async def test_missing_programs_are_missing_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "DEBIAN", tmp_path)
    wanted = [
        peer("database", server="postgres"),
        peer("node", wheel(tmp_path, "1.0"), npm=("nothing@1.0",), server="restate"),
    ]
    rows, made = await command.install(wanted, tmp_path / "cache")
    assert rows[0].missing.startswith("PostgreSQL is not installed (`apt-get install postgresql`")
    assert rows[1].missing.startswith("npm is not on the PATH (`apt-get install npm`")
    assert not made


def test_the_cache_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("XDG_CACHE_HOME is not macOS'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environments.cache_folder() == tmp_path / "polos-redis" / "benchmarks"


# --- servers and processes --------------------------------------------------------------------------------


def psql(address: str, question: str) -> str:
    url = address.replace("postgresql+psycopg", "postgresql").replace("/benchmark", "/postgres")
    psql = servers.postgres_programs() / "psql"
    return subprocess.check_output([psql, "-tA", url, "-c", question], text=True).strip()


@pytest.fixture
def postgres_installed() -> None:
    try:
        servers.postgres_programs()
    except BenchmarkError as error:
        skip_without("PostgreSQL", str(error))


@pytest.mark.usefixtures("postgres_installed")
async def test_postgres_runs_with_its_settings_and_stops() -> None:
    async with servers.postgres({"synchronous_commit": "off"}) as address:
        assert psql(address, "show synchronous_commit") == "off"
        assert psql(address, "show fsync") == "on"
        assert psql(address, "select rolname from pg_roles where rolsuper") == "postgres"
    with pytest.raises(subprocess.CalledProcessError):
        psql(address, "select 1")


@pytest.mark.usefixtures("postgres_installed")
async def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(BenchmarkError, match=r"^PostgreSQL has ended: .*no_such_setting"):
        async with servers.postgres({"no_such_setting": "1"}):
            raise AssertionError("it has started")


async def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(BenchmarkError, match=r"^its client has ended with status 1: .*No module named"):
        async with peer_process("client", Path(sys.executable), "no_such_peer", "", "asyncio", log):
            raise AssertionError("it is ready")


# --- the command ------------------------------------------------------------------------------------------


PROGRESS = "".join(f"round 1/1 polos-redis: {case}\n" for case in polos.PEER.cases)


@pytest.mark.timeout(120)
def test_a_run_reports_json_and_markdown(tmp_path: Path) -> None:
    done = run("--quick", "--only", "polos", "--json", "--output", str(tmp_path / "results"))
    assert (done.returncode, done.stderr) == (0, PROGRESS)
    report = json.loads(done.stdout)
    (ours,) = report["peers"]
    assert [figure["name"] for figure in ours["figures"]] == list(MEASURES)
    assert all(figure["median"] > 0 for figure in ours["figures"])
    assert json.loads((tmp_path / "results" / "peers.json").read_text()) == report
    assert (tmp_path / "results" / "peers.md").read_text().startswith("|  | no-ops, end to end |")


BROKEN = """
import sys
from benchmarks.peers import command, peer
command.PEERS += (peer.Peer("broken", "no_such_peer", "redis", ("jobs",), ""),)
sys.exit(command.main(["--quick", "--only", "polos", "--only", "no_such_peer"]))
"""


def test_a_peer_that_fails_is_reported_beside_the_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (1, PROGRESS)
    assert "| polos-redis | " in done.stdout and "| broken |" not in done.stdout, done.stdout
    assert "- broken: failed: its worker has ended with status 1: " in done.stdout


@pytest.mark.timeout(300)
def test_the_lightest_peer_is_installed_and_measured(request: pytest.FixtureRequest) -> None:
    assert request.config.cache is not None
    cache = request.config.cache.mkdir("peers")  # so that later runs find it there
    done = run("--quick", "--only", "saq", "--json", "--cache", str(cache), timeout=280)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)["peers"]
    if theirs["missing"]:
        skip_without(saq.PEER.packages[0], theirs["missing"])
    assert [figure["name"] for figure in theirs["figures"]] == ["jobs", "call p50", "call p99"]
    for figure in theirs["figures"]:
        assert figure["median"] > 0 and figure["times"] > 0
    assert all(figure["times"] is not None for figure in ours["figures"])


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    parents = {
        int(entry.name): os_parent(int(entry.name))
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
    }
    found, before = {pid}, 0
    while len(found) > before:
        before = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="there is no /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_command(tmp_path: Path, number: signal.Signals) -> None:
    arguments = [sys.executable, "-m", "benchmarks", "peers", "--only", "polos", "--seconds", "60"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a script may ignore it
    )
    started: set[int] = set()

    def all_run() -> bool:
        nonlocal started
        started = descendants(process.pid)
        return len(started) == 4  # Redis and its keeper, worker and client

    try:
        wait_for(all_run, "the server, the worker and the client")
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert output == ""
    wait_for(lambda: not any(map(alive, started)), "the processes that it has started to end")
    if number == signal.SIGINT:
        assert not list(tmp_path.iterdir())
