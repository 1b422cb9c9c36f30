"""`python -m benchmarks compare`: the ratios of two checkouts, measured in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare import Comparison, compared, table
from benchmarks.figures import Cpu, Figure
from tests import ROOT


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "compare", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def figure(value: float, *, more: bool = True, cpu: Cpu | None = None, name: str = "steps") -> Figure:
    return Figure("steps", name, value, "/s", more=more, cpu=cpu)


values = st.floats(0.001, 1e9)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=9), st.booleans())
def test_a_verdict_is_that_of_every_round(rounds: list[tuple[float, float]], more: bool) -> None:
    (one,) = compared([([figure(old, more=more)], [figure(new, more=more)]) for old, new in rounds])
    assert (one.old, one.new) == ([old for old, _ in rounds], [new for _, new in rounds])
    assert one.ratios == [new / old for old, new in rounds]
    last = table([one]).splitlines()[-1].split("|")[-2].strip()
    gains = {(ratio > 1) is more for ratio in one.ratios if ratio != 1}
    if 1 in one.ratios or len(gains) > 1:
        assert last == ""
    else:
        assert last == ("better" if gains == {True} else "worse")


def test_the_cpu_of_each_process_is_compared() -> None:
    old, new = figure(100, cpu=Cpu(50, 20, 80)), figure(150, cpu=Cpu(25, 20, 60))
    found = {one.name: one.ratios for one in compared([([old], [new])])}
    assert found == {
        "steps": [1.5],
        "steps: CPU of worker": [0.5],
        "steps: CPU of client": [1.0],
        "steps: CPU of redis": [0.75],
    }


def test_a_process_that_did_not_run_is_left_out() -> None:
    old, new = figure(100, cpu=Cpu(None, 20, 80)), figure(150, cpu=Cpu(None, 20, 60))
    assert "steps: CPU of worker" not in {one.name for one in compared([([old], [new])])}


def test_a_figure_that_a_checkout_lacks_is_left_out() -> None:
    rounds = [
        ([figure(1), figure(2, name="other")], [figure(1), figure(2, name="other")]),
        ([figure(1)], [figure(1), figure(2, name="other")]),
    ]
    assert [one.name for one in compared(rounds)] == ["steps"]


def test_the_table_has_medians_and_the_spread_of_the_ratios() -> None:
    one = Comparison(
        "steps", "steps, end to end", "/s", True, [10_000, 20_000, 9_000], [15_000, 32_000, 18_000]
    )
    assert table([one]).splitlines() == [
        "| scenario | figure | old | new | unit | new / old | lowest to highest | every round |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | --- |",
        "| steps | steps, end to end | 10,000 | 18,000 | /s | 1.60 | 1.50 to 2.00 | better |",
    ]


def test_a_ratio_to_nothing_is_left_open() -> None:
    assert table([Comparison("calls", "per step", "calls", False, [0.0], [1.0])]).endswith(
        "| calls |  |  |  |"
    )


@pytest.mark.timeout(120)
def test_each_checkout_runs_its_own_package(tmp_path: Path) -> None:
    """The old one is a copy whose client starts every execution twice."""
    subprocess.run(["cp", "-R", ROOT / "polos_redis", tmp_path], check=True)
    starting = tmp_path / "polos_redis" / "executions" / "starting.py"
    starting.write_text(
        starting.read_text()
        + "\n\n_once = invoke\n\n\nasync def invoke(*arguments):  # type: ignore\n"
        + "    await _once(*arguments)\n    return await _once(*arguments)\n"
    )
    done = compare(str(tmp_path), "--quick", "--only", "commands", "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["missing"] == {}
    ratios = {(one["name"], one["unit"]): one["ratios"] for one in report["comparisons"]}
    for ratio in ratios["per no-op execution", "calls"]:
        assert 0.25 < ratio < 0.8
    assert report["about"]["rounds"] == 2
    assert [line.partition("] ")[2] for line in done.stderr.splitlines()] == [
        "round 1, commands, old",
        "round 1, commands, new",
        "round 2, commands, new",
        "round 2, commands, old",
    ]


def test_a_scenario_that_fails_in_a_checkout_is_reported_as_missing(tmp_path: Path) -> None:
    package = tmp_path / "polos_redis"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the old package is broken')\n")
    done = compare(str(tmp_path), "--quick", "--only", "invoke", "--rounds", "2")
    assert done.returncode == 1
    assert "missing: invoke: old: RuntimeError: the old package is broken" in done.stdout
    assert "/s" not in done.stdout


def test_a_folder_without_the_package_is_an_error(tmp_path: Path) -> None:
    done = compare(str(tmp_path), "--quick")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"benchmarks: {tmp_path} is no checkout of polos-redis: it has no polos_redis/__init__.py\n"
    )
