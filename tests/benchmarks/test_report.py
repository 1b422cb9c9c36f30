"""`python -m benchmarks report`: the page, its plots, and what it says about what is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from benchmarks import scenarios
from benchmarks.figures import Cpu, Figure, as_json, from_json, median, percentiles
from benchmarks.report.command import write
from benchmarks.report.page import page
from benchmarks.report.peers import read
from benchmarks.runs import run
from benchmarks.scenarios import Size
from benchmarks.stage import BenchmarkError, Stage, choose_server
from polos_redis.errors import RedisUnavailableError
from tests import ROOT

ABOUT: dict[str, str | int] = {"date": "2026-11-26 09:00 UTC", "commit": "0123456789", "cores": 2}
PLOTS = ("peers", "latency", "cost", "suspended", "replay")
COST = Cpu(20.0, 10.0, 50.0)


def _figure(name: str, title: str, unit: str, value: float, times: float) -> dict[str, Any]:
    return {"name": name, "title": title, "unit": unit, "median": value, "times": times}


def _peer(name: str, *found: dict[str, Any], **facts: Any) -> dict[str, Any]:
    nothing = {"packages": [], "server settings": {}, "stated": "as shipped", "missing": "", "failed": ""}
    return {"name": name, "figures": [*found], **nothing, **facts}


SAMPLE = {
    "about": {"rounds": 3},
    "peers": [
        _peer(
            "polos-redis",
            _figure("jobs", "no-ops, end to end", "/s", 10_000, 1),
            _figure("call p50", "start -> result, p50", "ms", 0.5, 1),
        ),
        _peer(
            "PostgreSQL peer",
            _figure("jobs", "no-ops, end to end", "/s", 500, 20),
            packages=["peer==1.0"],
            stated="as documented",
            **{"server settings": {"synchronous_commit": "off"}},
        ),
        _peer("absent", missing="npm is not on the PATH"),
        _peer("broken", failed="its worker has ended"),
    ],
}


def figures() -> list[Figure]:
    """A report's worth of figures; the values have no meaning."""
    found = [
        Figure("noop", "executions, end to end", 15_000, "/s", 14_000, cpu=COST),
        Figure("steps", "steps, end to end", 30_000, "/s", 40_000, cpu=COST),
        Figure("steps", "CPU of a step alone", 24, "us", more=False, cpu=Cpu(14, 0, 10)),
        Figure("memory", "executions until suspended", 3_000, "/s", cpu=COST),
        Figure("storm", "resumes", 3_000, "/s", cpu=COST),
        Figure("commands", "per step", 1.0, "calls", more=False, breakdown={"evalsha": 1.0}),
        Figure("commands", "per step", 3.2, "commands", 3, more=False, breakdown={"hset": 2.2, "time": 1.0}),
        *percentiles("latency", "invoke -> result", [index / 1000 for index in range(1, 101)], target=0.5),
    ]
    for size in (1_000, 100_000):
        found += [
            Figure("suspended", "memory per suspended execution", 2_200, "bytes", 2_300, size=size),
            Figure("suspended", "timers late: times slower than with 100", 1.1, "x", 1.2, size=size),
            *percentiles("replay", "resume -> finished", [size / 1e6], size=size),
        ]
    return found


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    """A file as `python -m benchmarks peers` writes it."""
    file = tmp_path / "peers.json"
    file.write_text(json.dumps(SAMPLE))
    return file


numbers = st.floats(0.001, 1e9)
costs = st.none() | st.builds(Cpu, st.none() | numbers, numbers, numbers)
any_figures = st.lists(
    st.builds(
        Figure,
        st.sampled_from(("noop", "latency", "suspended")),
        st.text(st.characters(categories=["L"]), min_size=1),
        numbers,
        st.sampled_from(("/s", "ms", "x")),
        st.none() | numbers,
        st.booleans(),
        costs,
        st.none() | st.integers(1, 10**6),
        st.lists(numbers, min_size=3, max_size=3).map(tuple),
        st.dictionaries(st.text(), numbers, max_size=3),
    ),
    max_size=5,
)


@given(any_figures)
def test_json_keeps_every_figure(found: list[Figure]) -> None:
    stored = json.loads(as_json(ABOUT, found, {"storm": "stuck"}))
    assert from_json(stored) == found
    assert stored["missing"] == {"storm": "stuck"}


@given(any_figures, st.integers(1, 5))
def test_the_median_of_equal_runs_is_the_run(found: list[Figure], runs: int) -> None:
    assert median([found] * runs) == found


def test_medians_cover_the_distribution_and_the_breakdown() -> None:
    def run(value: float, **breakdown: float) -> Figure:
        return Figure("commands", "per step", value, "", distribution=(value,), breakdown=breakdown)

    (one,) = median([[run(1, hset=1)], [run(3, hset=2)], [run(9, hset=9, time=1)]])
    assert (one.value, one.distribution, one.breakdown) == (3, (3,), {"hset": 2, "time": 0.0})


@given(st.lists(numbers, min_size=1))
def test_percentiles_are_those_of_the_samples(seconds: list[float]) -> None:
    p50, p99 = percentiles("latency", "call", seconds)
    samples = sorted(one * 1000 for one in seconds)
    assert (p50.distribution[0], p50.distribution[-1]) == (samples[0], samples[-1])
    assert sorted(p50.distribution) == list(p50.distribution)
    assert p50.value == p50.distribution[50] and p99.value == p50.distribution[99]
    assert sum(one <= p50.value for one in samples) >= len(samples) / 2


# --- the page -------------------------------------------------------------------------------


def test_the_page_shows_every_figure_and_judges_the_targets(tmp_path: Path, peers: Path) -> None:
    found = figures()
    write(tmp_path, ABOUT, found, {})
    text = (tmp_path / "report.md").read_text()
    assert "| noop | executions, end to end | 15,000 /s | >= 14,000 | met |" in text
    assert "| steps | steps, end to end | 30,000 /s | >= 40,000 | **missed** |" in text
    assert "| suspended | timers late: times slower than with 100, at 100,000 | 1.10 | x |  |  |  |" in text
    assert "| `HSET` | 2.2 |" in text and "| `EVALSHA` | 1.0 |" in text
    everything = text.partition("## All figures")[2]
    assert all(f"| {one.scenario} | {one.label} |" in everything for one in found)
    judged = [one for one in found if one.target is not None]
    assert f"{sum(one.met is True for one in judged)} of {len(judged)} met." in text
    assert "Not measured" not in text and "Missing" not in text
    assert from_json(json.loads((tmp_path / "report.json").read_text())) == found


def test_every_plot_is_an_svg_that_the_page_shows(tmp_path: Path, peers: Path) -> None:
    write(tmp_path, ABOUT, figures(), {})
    tokens = MarkdownIt().parse((tmp_path / "report.md").read_text())
    images = [one for token in tokens for one in token.children or [] if one.type == "image"]
    assert [one.attrGet("src") for one in images] == [f"{name}.svg" for name in PLOTS]
    assert all(one.content for one in images)
    for name in PLOTS:
        text = "".join(ElementTree.parse(tmp_path / f"{name}.svg").getroot().itertext())
        assert "suspended executions" in text or name != "suspended"
    assert "PostgreSQL peer" in (tmp_path / "peers.svg").read_text()


def test_the_same_figures_give_the_same_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, ABOUT, figures(), {})
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("scenario", "plot"),
    [("latency", "latency"), ("suspended", "suspended"), ("replay", "replay"), ("commands", None)],
)
def test_what_was_not_measured_is_said(tmp_path: Path, scenario: str, plot: str | None) -> None:
    write(tmp_path, ABOUT, figures(), {})  # its plots must not stay
    left = [one for one in figures() if one.scenario != scenario]
    write(tmp_path, ABOUT, left, {scenario: "stuck: 3 executions are queued"})
    text = (tmp_path / "report.md").read_text()
    assert f"## Missing\n\n- `{scenario}` failed: stuck: 3 executions are queued\n" in text
    assert text.count("Not measured in this run.") == 1
    if plot is not None:
        assert not (tmp_path / f"{plot}.svg").exists() and f"{plot}.svg" not in text


def test_a_page_without_any_figure_is_a_page(tmp_path: Path) -> None:
    write(tmp_path, ABOUT, [], {"noop": "no server"})
    assert "- `noop` failed: no server" in (tmp_path / "report.md").read_text()
    assert [*tmp_path.glob("*.svg")] == []


# --- peers ----------------------------------------------------------------------------------


def test_peers_are_shown_with_their_ratios_and_settings(tmp_path: Path, peers: Path) -> None:
    write(tmp_path, ABOUT, figures(), {})
    text = (tmp_path / "report.md").read_text()
    section = text.partition("## Next to peers")[2].partition("\n## ")[0]
    assert "| polos-redis | 10,000 /s | 0.50 ms |" in section
    assert "| PostgreSQL peer | 500 /s (20.0x) |  |" in section
    assert "- PostgreSQL peer: peer==1.0; synchronous_commit=off; as documented" in section
    assert "- absent: missing: npm is not on the PATH" in section
    assert "- broken: failed: its worker has ended" in section


def test_without_peers_the_page_says_how_to_measure_them(tmp_path: Path) -> None:
    found = read(tmp_path / "peers.json")
    assert found.missing == (
        "There is no peers.json beside this page: `python -m benchmarks peers --output FOLDER` measures them."
    )
    assert found.missing in page(ABOUT, figures(), {}, found, ())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"peers": [{}]}', '{"peers": [], "about"', "null"])
def test_peers_that_cannot_be_read_are_no_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "peers.json"
    file.write_text(content)
    found = read(file)
    assert re.match(r"peers\.json can't be read \(\w+: .*", found.missing)
    assert not found.rows


# --- the command ----------------------------------------------------------------------------


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "report", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.timeout(120)
def test_the_command_measures_and_writes(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    done = report("--quick", "--only", "noop", "--only", "latency", "--output", str(folder))
    assert (done.returncode, done.stderr) == (0, "[1/2] noop\n[2/2] latency\n")
    assert done.stdout == f"{folder / 'report.md'}\n"
    assert {file.name for file in folder.iterdir()} == {
        *("report.json", "report.md", "cost.svg", "latency.svg")
    }
    stored: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert {"date", "commit", "cpu", "cores", "python", "appendfsync", "partitions", "workers", "loop"} <= (
        stored["about"].keys()
    )
    again = report("--from", str(folder / "report.json"), "--output", str(tmp_path / "again"))
    assert (again.returncode, again.stderr) == (0, "")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "error",
    [
        BenchmarkError("stuck"),
        RedisUnavailableError("stuck"),
        ExceptionGroup("", [ExceptionGroup("", [OSError("stuck")]), ValueError()]),
    ],
)
def test_a_scenario_that_fails_is_missing_and_the_others_run(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def failing(stage: Stage, size: Size) -> list[Figure]:
        raise error

    monkeypatch.setitem(scenarios.ALL, "storm", failing)
    results = run(
        ["storm", "invoke"], scenarios.QUICK, choose_server("redis"), loop="asyncio", in_flight=8, repeat=2
    )
    assert results.missing == {"storm": "stuck"}
    assert [figure.scenario for figure in results.figures] == ["invoke"]
    assert capsys.readouterr().err.splitlines() == [
        *("[1/4] storm, run 1", "[2/4] storm, run 2", "[3/4] invoke, run 1", "[4/4] invoke, run 2")
    ]


def test_a_fault_of_the_benchmark_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(stage: Stage, size: Size) -> list[Figure]:
        raise ValueError("wrong")

    monkeypatch.setitem(scenarios.ALL, "storm", wrong)
    with pytest.raises(ValueError, match="wrong"):
        run(["storm"], scenarios.QUICK, choose_server("redis"), loop="asyncio", in_flight=8)


@pytest.mark.parametrize("content", ["", "{}", '{"about": {}, "figures": [{}], "missing": {}}', "[]"])
def test_a_file_that_is_no_report_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    done = report("--from", str(file), "--output", str(tmp_path / "results"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"benchmarks: {file} is no report of this version (")
    assert done.stderr.endswith("): measure again\n") and done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()
