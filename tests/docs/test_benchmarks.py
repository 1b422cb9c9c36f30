"""`python -m benchmarks` completes and reports every figure. The values are not judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

PROCESSES = {"worker", "client", "redis"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.timeout(120)
def test_every_scenario_reports_numbers_as_json() -> None:
    done = run("--quick", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    figures = report["figures"]
    assert [*dict.fromkeys(figure["scenario"] for figure in figures)] == [
        *("invoke", "noop", "drain", "steps", "latency", "storm", "memory", "calls")
    ]
    assert all(figure["value"] > 0 for figure in figures)
    judged = {f"{figure['scenario']} {figure['name']}" for figure in figures if figure["target"] is not None}
    assert judged == {
        "noop executions, end to end",
        "steps steps, end to end",
        "latency invoke -> result, p50",
        "latency resume -> finished, p50",
        "memory per suspended execution",
    }
    for figure in figures:
        assert figure["met"] in ((None,) if figure["target"] is None else (True, False))
    for costs in [figure["cpu"] for figure in figures if figure["cpu"] is not None]:
        assert costs.keys() == PROCESSES
        assert costs["client"] > 0 and costs["redis"] > 0
    assert {"redis", "valkey"} & report["about"].keys()


def test_without_a_terminal_the_table_is_plain() -> None:
    done = run("--quick", "--only", "invoke")
    assert (done.returncode, done.stderr) == (0, "")
    head, row, *_ = done.stdout.splitlines()
    assert " ".join(head.split()) == "scenario figure value unit target worker us client us redis us"
    assert row.startswith("invoke") and "\033" not in done.stdout


def test_an_unusable_server_is_an_error(tmp_path: Path) -> None:
    done = run("--quick", "--server", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "there is no such file" in done.stderr
    assert done.stdout == ""
