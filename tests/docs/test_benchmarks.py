"""`python -m benchmarks` completes and reports every figure. The values are not judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loss.disk import cut
from benchmarks.stage import BenchmarkError
from tests import ROOT
from tests.harness.programs import skip_without
from tests.harness.servers import KINDS, server_binaries

PROCESSES = {"worker", "client", "redis"}


def run(*arguments: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


SCENARIOS = (
    *("invoke", "noop", "drain", "steps", "followed", "latency", "storm", "memory", "commands"),
    *("fan-out", "readers", "replay", "handles", "imports", "suspended"),
)


@pytest.mark.timeout(240)
def test_every_scenario_reports_numbers_as_json() -> None:
    done = run("--quick", "--json", timeout=230)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"[{number}/{len(SCENARIOS)}] {name}" for number, name in enumerate(SCENARIOS, start=1)
    ]
    report: dict[str, Any] = json.loads(done.stdout)
    figures = report["figures"]
    assert report["missing"] == {}
    assert tuple(dict.fromkeys(figure["scenario"] for figure in figures)) == SCENARIOS
    for figure in figures:
        # A difference of two CPU times may be anything.
        assert figure["value"] > 0 or "CPU" in figure["name"], figure
    judged = {f"{figure['scenario']} {figure['name']}" for figure in figures if figure["target"] is not None}
    assert judged == {
        "noop executions, end to end",
        "steps steps, end to end",
        "latency invoke -> result, p50",
        "latency invoke -> result, p50 in PINGs",
        "latency resume -> finished, p50",
        "latency resume -> finished, p50 in PINGs",
        "memory per suspended execution",
        "commands per no-op execution",
        "commands per further step",
        "handles connections of 200 awaited handles",
        "imports import polos_redis, against these libraries",
        "imports from polos_redis import PolosClient, Worker, workflow, against these libraries",
        "suspended memory per suspended execution",
        "suspended no-ops, end to end: times slower than with 60",
        "suspended invoke -> result: times slower than with 60",
        "suspended page of executions: times slower than with 60",
        "suspended page of the inbox: times slower than with 60",
        "suspended timers late, p99",
        "suspended timers late: times slower than with 60",
    }
    for figure in figures:
        assert figure["met"] in ((None,) if figure["target"] is None else (True, False))
    for costs in [figure["cpu"] for figure in figures if figure["cpu"] is not None]:
        assert costs.keys() == PROCESSES
        assert costs["client"] >= 0 and costs["redis"] >= 0
    assert {figure["size"] for figure in figures if figure["scenario"] == "suspended"} == {100, 300}
    assert {figure["size"] for figure in figures if figure["scenario"] == "replay"} == {5, 50}
    counts = [figure["breakdown"] for figure in figures if figure["scenario"] == "commands"]
    assert all(counts)
    assert {"redis", "valkey"} & report["about"].keys()


def test_without_a_terminal_the_table_is_plain() -> None:
    done = run("--quick", "--only", "invoke")
    assert (done.returncode, done.stderr) == (0, "[1/1] invoke\n")
    head, row, *_ = done.stdout.splitlines()
    assert " ".join(head.split()) == "scenario figure value unit target worker us client us redis us"
    assert row.startswith("invoke") and "\033" not in done.stdout


def test_an_unusable_server_is_an_error(tmp_path: Path) -> None:
    done = run("--quick", "--server", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "there is no such file" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [("--quick", "--only", "invoke"), ("--help",), ("report", "--help")])
def test_without_a_reader_it_ends_quietly(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "benchmarks", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 1 or "--help" in words  # argparse ignores it, if Python's output is unbuffered
    assert done.stderr == ("[1/1] invoke\n" if "invoke" in words else "")


# --- python -m benchmarks loss --------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_loss_is_counted_and_the_rest_finishes() -> None:
    done = run("loss", "--crashes", "1", "--seconds", "0.2", "--only", "everysec", "--json", timeout=280)
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    (row,) = report["rows"]
    assert (row["scenario"], row["crashes"]) == ("everysec", 1)
    assert row["acknowledged"] > 0 and row["finished"] == row["left"]
    assert row["away_seconds"] > 0


@pytest.mark.timeout(300)
def test_replicated_calls_survive_a_failover_and_the_table_says_so() -> None:
    done = run("loss", "--crashes", "1", "--seconds", "0.2", "--only", "sentinel, replicated", timeout=280)
    assert (done.returncode, done.stderr) == (0, "")
    head, _, row, *_ = done.stdout.splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    cells = dict(zip(names, [cell.strip() for cell in row.strip("|").split("|")], strict=True))
    assert cells["scenario"] == "sentinel, replicated" and cells["what crashes"] == "the master's machine"
    assert int(cells["acknowledged"].replace(",", "")) > 0
    assert (cells["lost starts"], cells["lost answers"]) == ("0", "0")


def test_a_server_whose_waitaof_cannot_be_believed_is_an_error() -> None:
    valkey = server_binaries()["valkey"]
    if isinstance(valkey, str):
        skip_without(KINDS["valkey"], valkey)
    done = run("loss", "--crashes", "1", "--only", "everysec", "--server", str(valkey))
    assert (done.returncode, done.stdout) == (1, "")
    assert "answers WAITAOF before it has fsynced" in done.stderr


def command(*words: bytes) -> bytes:
    """A command as it stands in a log."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


SET_A = command(b"SET", b"a", b"<marker 1>")
BOTH = command(b"MULTI") + command(b"SET", b"b", b"\r\n") + SET_A + command(b"EXEC")
OTHER = command(b"SET", b"c", b"1")


@pytest.mark.parametrize(
    ("log", "left"),
    [
        (SET_A, SET_A),
        (SET_A + OTHER, SET_A),
        (OTHER + SET_A + OTHER + SET_A + OTHER, OTHER + SET_A + OTHER + SET_A),
        (BOTH + OTHER, BOTH),
        (SET_A + BOTH, SET_A + BOTH),
        (SET_A + BOTH[:-3], SET_A),
        (SET_A + command(b"MULTI") + SET_A, SET_A),
        (SET_A + OTHER + b"*3\r\n$3", SET_A),
    ],
)
def test_the_log_is_cut_behind_the_last_proven_write(tmp_path: Path, log: bytes, left: bytes) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    file = folder / "appendonly.aof.1.incr.aof"
    file.write_bytes(log)
    assert cut(tmp_path, [b"<marker 1>", b"another"]) == len(log) - len(left)
    assert file.read_bytes() == left


def test_a_log_without_a_proof_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.1.incr.aof").write_bytes(OTHER)
    with pytest.raises(BenchmarkError, match="nothing that is proven"):
        cut(tmp_path, [b"<marker 1>"])
