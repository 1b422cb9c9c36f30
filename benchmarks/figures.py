"""Measured figures, and their output as a table or JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
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
    """A measured value. `target` is the lower limit to reach if `more` is True, else the upper limit."""

    scenario: str
    name: str
    value: float
    unit: str
    target: float | None = None
    more: bool = True
    cpu: Cpu | None = None

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
        merged.append(replace(same[0], value=statistics.median(figure.value for figure in same), cpu=cpu))
    return merged


def as_json(about: dict[str, str | int], figures: Sequence[Figure]) -> str:
    """All figures as JSON, unrounded."""
    rows = [{**asdict(figure), "met": figure.met} for figure in figures]
    return json.dumps({"about": about, "figures": rows}, indent=2)


def from_json(report: dict[str, Any]) -> list[Figure]:
    """The figures of what `as_json` wrote."""
    figures = []
    for row in report["figures"]:
        row = {name: value for name, value in row.items() if name != "met"}
        figures.append(Figure(**{**row, "cpu": row["cpu"] and Cpu(**row["cpu"])}))
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
    note = "us: CPU per execution (in some scenarios per suspended execution, call or resume)"
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
    target = ""
    if figure.target is not None:
        word, verdict = (">=" if figure.more else "<="), ("ok" if figure.met else "missed")
        target = f"{word} {number(figure.target)} {verdict}"
    cpu = figure.cpu
    costs = ("", "", "") if cpu is None else tuple(map(number, (cpu.worker, cpu.client, cpu.redis)))
    return (figure.scenario, figure.name, number(figure.value), figure.unit, target, *costs)


def number(value: float | None) -> str:
    """A value with as many digits as mean something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
