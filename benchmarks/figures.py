"""Measured figures, and their output as a table or JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU microseconds per execution in each process; `worker` is None if no worker ran."""

    worker: float | None
    client: float
    redis: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value. `target` is the lower limit to reach if `more` is True, else the upper limit.

    `size` is what the value was measured at: how many executions are suspended, or how many steps a journal
    has. `distribution` has the values of a figure that is a percentile, at evenly spaced percentiles from the
    lowest to the highest. `breakdown` says what the value consists of.
    """

    scenario: str
    name: str
    value: float
    unit: str
    target: float | None = None
    more: bool = True
    cpu: Cpu | None = None
    size: int | None = None
    distribution: tuple[float, ...] = ()
    breakdown: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, with the size it was measured at."""
        return self.name if self.size is None else f"{self.name}, at {self.size:,}"

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None if there is no target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.more else self.value <= self.target


def median(runs: Sequence[Sequence[Figure]]) -> list[Figure]:
    """The median of each figure over several runs of a scenario."""
    merged = []
    for same in zip(*runs, strict=True):
        cpus = [figure.cpu for figure in same if figure.cpu is not None]
        cpu = None
        if cpus:
            workers = [cost.worker for cost in cpus if cost.worker is not None]
            cpu = Cpu(
                statistics.median(workers) if workers else None,
                statistics.median(cost.client for cost in cpus),
                statistics.median(cost.redis for cost in cpus),
            )
        names = dict.fromkeys(name for figure in same for name in figure.breakdown)
        merged.append(
            replace(
                same[0],
                value=statistics.median(figure.value for figure in same),
                cpu=cpu,
                distribution=tuple(
                    map(statistics.median, zip(*(figure.distribution for figure in same), strict=True))
                ),
                breakdown={
                    name: statistics.median(figure.breakdown.get(name, 0.0) for figure in same)
                    for name in names
                },
            )
        )
    return merged


PERCENTILES = 100


def percentiles(
    scenario: str,
    name: str,
    seconds: Collection[float],
    *,
    target: float | None = None,
    target_p99: float | None = None,
    cpu: Cpu | None = None,
    size: int | None = None,
) -> list[Figure]:
    """The median and the 99th percentile of samples, in milliseconds; the first has the distribution."""
    ordered = sorted(one * 1000 for one in seconds)

    def at(part: float) -> float:
        return ordered[min(int(len(ordered) * part), len(ordered) - 1)]

    spread = tuple(at(index / PERCENTILES) for index in range(PERCENTILES + 1))
    p50, p99 = f"{name}, p50", f"{name}, p99"
    return [
        Figure(scenario, p50, at(0.5), "ms", target, more=False, cpu=cpu, size=size, distribution=spread),
        Figure(scenario, p99, at(0.99), "ms", target_p99, more=False, size=size),
    ]


def as_json(
    about: Mapping[str, str | int], figures: Sequence[Figure], missing: Mapping[str, str] | None = None
) -> str:
    """All figures as JSON, unrounded, and why scenarios are missing."""
    rows = [{**asdict(figure), "met": figure.met} for figure in figures]
    return json.dumps({"about": dict(about), "figures": rows, "missing": dict(missing or {})}, indent=2)


def from_json(report: Mapping[str, Any]) -> list[Figure]:
    """The figures of what `as_json` wrote."""
    figures = []
    for row in report["figures"]:
        row = {name: value for name, value in row.items() if name != "met"}
        cpu = row["cpu"] and Cpu(**row["cpu"])
        figures.append(Figure(**{**row, "cpu": cpu, "distribution": tuple(row["distribution"])}))
    return figures


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Collection[int] = ()) -> str:
    """A table in Markdown, with the columns at `numeric` aligned to the right."""
    rules = ["---:" if index in numeric else "---" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rules, *rows])


HEAD = ("scenario", "figure", "value", "unit", "target", "worker us", "client us", "redis us")


def show(about: dict[str, str | int], figures: Sequence[Figure], out: TextIO) -> None:
    """Prints a table: with lines on a terminal that is wide enough, in plain columns elsewhere."""
    rows = [_row(figure) for figure in figures]
    conditions = ", ".join(f"{name} {value}" for name, value in about.items())
    note = "us: CPU of each process per execution (in some scenarios per step, child, resume, or event read)"
    if out.isatty() and _draw(figures, rows, f"{conditions}\n{note}", out):
        return
    widths = [max(len(row[index]) for row in [HEAD, *rows]) for index in range(len(HEAD))]
    for row in [HEAD, *rows]:
        cells = [
            cell.ljust(width) if index in (0, 1, 3) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), file=out)
    print(f"\n{conditions}\n{note}", file=out)


def _draw(figures: Sequence[Figure], rows: Sequence[Sequence[str]], caption: str, out: TextIO) -> bool:
    """Draws the table. Returns False without drawing if the terminal is too narrow."""
    console = Console(file=out)
    table = Table(caption=caption)
    for index, name in enumerate(HEAD):
        table.add_column(name, justify="left" if index in (0, 1, 3) else "right", no_wrap=True)
    for figure, row in zip(figures, rows, strict=True):
        table.add_row(*row, style="red" if figure.met is False else "")
    if console.measure(table, options=console.options.update(max_width=1000)).maximum > console.width:
        return False
    console.print(table)
    return True


def _row(figure: Figure) -> tuple[str, ...]:
    target = f"{limit(figure)} {'ok' if figure.met else 'missed'}" if figure.target is not None else ""
    cpu = figure.cpu
    costs = ("", "", "") if cpu is None else tuple(map(number, (cpu.worker, cpu.client, cpu.redis)))
    return (figure.scenario, figure.label, number(figure.value), figure.unit, target, *costs)


def limit(figure: Figure) -> str:
    """The target as a condition; empty if there is none."""
    return f"{'>=' if figure.more else '<='} {number(figure.target)}" if figure.target is not None else ""


def number(value: float | None) -> str:
    """A value with as many digits as mean something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
