"""Plots of the report, as SVG files. A plot whose figures are missing is not drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from benchmarks.figures import Figure, number
from benchmarks.report.peers import Peers

PROCESSES = {"worker": "#4269d0", "client": "#efb118", "redis": "#c8352b"}
OURS, OTHERS = "#4269d0", "#9aa3ad"
COSTS = (  # what is shown, and the figure whose CPU it is
    ("no-op", "noop", "executions, end to end"),
    ("step", "steps", "CPU of a step alone"),
    ("suspend", "memory", "executions until suspended"),
    ("resume", "storm", "resumes"),
    ("child", "fan-out", "children"),
)
GROWTHS = ("no-ops, end to end", "invoke -> result", "page of executions", "page of the inbox", "timers late")


def draw(folder: Path, figures: Sequence[Figure], peers: Peers) -> dict[str, Path]:
    """Writes the plots into a folder. Returns the file of each that could be drawn, by name."""
    plots: dict[str, Callable[[Sequence[Figure], Peers], Canvas | None]] = {
        "peers": _peers,
        "latency": _latency,
        "cost": _cost,
        "suspended": _suspended,
        "replay": _replay,
    }
    files = {}
    for name, plot in plots.items():
        file = folder / f"{name}.svg"
        with _style():
            canvas = plot(figures, peers)
            if canvas is None:
                file.unlink(missing_ok=True)
                continue
            canvas.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
        files[name] = file
    return files


def _style() -> AbstractContextManager[None]:
    return matplotlib.rc_context(
        {
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "polos-redis",  # the same figures give the same file
        }
    )


def _canvas(columns: int, height: float) -> tuple[Canvas, list[Axes]]:
    canvas = Canvas(figsize=(9, height), layout="constrained")
    return canvas, [canvas.add_subplot(1, columns, index + 1) for index in range(columns)]


def _peers(_: Sequence[Figure], peers: Peers) -> Canvas | None:
    """Throughput next to peers."""
    shown = [(name, title) for name, title in peers.titles().items() if name in ("jobs", "steps")]
    if not shown:
        return None
    rows = [row for row in peers.rows if row.figures]
    names = [row.name for row in reversed(rows)]
    colours = [OURS if row is peers.rows[0] else OTHERS for row in reversed(rows)]
    canvas, axes = _canvas(len(shown), 1.0 + 0.35 * len(rows))
    for axis, (name, title) in zip(axes, shown, strict=True):
        found = [row.figures.get(name) for row in reversed(rows)]
        values = [one.value if one is not None else 0.0 for one in found]
        bars = axis.barh(names, values, color=colours)
        labels = [f"{one.value:,.0f}" if one is not None else "-" for one in found]
        axis.bar_label(bars, labels=labels, padding=3, fontsize=9)
        axis.margins(x=0.15)
        axis.set_title(f"{title} (/s)")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        _plain(axis, "x")
        if axis is not axes[0]:
            axis.tick_params(labelleft=False)
    return canvas


def _latency(figures: Sequence[Figure], _: Peers) -> Canvas | None:
    """Share of the samples that took at most some time."""
    found = [figure for figure in figures if figure.scenario == "latency" and figure.distribution]
    if not found:
        return None
    canvas, (axis,) = _canvas(1, 3.6)
    for figure in found:
        count = len(figure.distribution) - 1
        shares = [100 * index / count for index in range(count + 1)]
        axis.plot(figure.distribution, shares, label=f"{_short(figure)} (p50 {number(figure.value)} ms)")
    axis.set_xscale("log")
    lowest = min(figure.distribution[0] for figure in found)
    axis.set_xlim(lowest * 0.9, max(figure.distribution[-2] for figure in found) * 1.1)  # without the slowest
    axis.set_ylim(0, 100)
    axis.set_xlabel("milliseconds")
    axis.set_ylabel("% of the calls")
    axis.set_title("Latency: calls that took at most this long")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    _plain(axis, "x")
    return canvas


def _cost(figures: Sequence[Figure], _: Peers) -> Canvas | None:
    """CPU of each operation by process."""
    named = {(figure.scenario, figure.name): figure.cpu for figure in figures}
    costs = {label: cpu for label, *key in COSTS if (cpu := named.get((key[0], key[1]))) is not None}
    if not costs:
        return None
    canvas, (axis,) = _canvas(1, 1.2 + 0.45 * len(costs))
    labels = list(reversed(costs))
    left = [0.0] * len(labels)
    for process, colour in PROCESSES.items():
        values = [getattr(costs[label], process) or 0.0 for label in labels]
        axis.barh(labels, values, left=left, color=colour, label=process)
        left = [before + value for before, value in zip(left, values, strict=True)]
    for index, total in enumerate(left):
        axis.annotate(number(total), (total, index), (4, 0), textcoords="offset points", va="center")
    axis.margins(x=0.1)
    axis.set_xlabel("microseconds of CPU")
    axis.set_title("Cost of an operation by process")
    canvas.legend(loc="outside right upper")
    return canvas


def _suspended(figures: Sequence[Figure], _: Peers) -> Canvas | None:
    """How many times slower each operation is, and the memory, by the number of suspended executions."""
    sized = [figure for figure in figures if figure.scenario == "suspended" and figure.size is not None]
    ratios = [figure for figure in sized if figure.unit == "x"]
    memory = [figure for figure in sized if figure.unit == "bytes"]
    if not ratios or not memory:
        return None
    canvas, (axis, other) = _canvas(2, 3.8)
    for name in GROWTHS:
        points = [figure for figure in ratios if figure.name.startswith(f"{name}: ")]
        axis.plot([one.size or 0 for one in points], [one.value for one in points], marker="o", label=name)
    targets = {figure.target for figure in ratios if figure.target is not None}
    for target in targets:
        axis.axhline(target, color="black", linestyle="--", linewidth=1)
    axis.set_ylim(0, max(2.0, *(figure.value for figure in ratios)) * 1.05)
    axis.set_title("Times slower than with few suspended")
    axis.legend(loc="lower left", fontsize=9)
    other.plot([one.size or 0 for one in memory], [one.value for one in memory], marker="o", color=OURS)
    if (limit := memory[0].target) is not None:
        other.axhline(limit, color="black", linestyle="--", linewidth=1)
    other.set_ylim(0, max(limit or 0.0, *(one.value for one in memory)) * 1.15)
    other.set_title("Bytes of Redis for each")
    _plain(other, "y")
    for one in (axis, other):
        one.set_xscale("log")
        one.set_xticks([figure.size or 0 for figure in memory])
        one.set_xlabel("suspended executions (dashed: the target)")
        one.grid(alpha=0.3)
        _plain(one, "x")
    return canvas


def _replay(figures: Sequence[Figure], _: Peers) -> Canvas | None:
    """Time from an answer to the end by the length of the journal."""
    found = [figure for figure in figures if figure.scenario == "replay" and figure.distribution]
    if not found:
        return None
    canvas, (axis,) = _canvas(1, 3.4)
    axis.loglog([one.size or 0 for one in found], [one.value for one in found], marker="o", color=OURS)
    for one in found:
        at = (one.size or 0, one.value)
        axis.annotate(f"{number(one.value)} ms", at, (0, 8), textcoords="offset points", ha="center")
    axis.set_xticks([one.size or 0 for one in found])
    axis.margins(x=0.1, y=0.2)
    axis.set_xlabel("steps in the journal")
    axis.set_ylabel("milliseconds")
    axis.set_title("Resume -> finished by the length of the journal (p50)")
    axis.grid(alpha=0.3)
    _plain(axis, "x")
    _plain(axis, "y")
    return canvas


def _short(figure: Figure) -> str:
    return figure.name.removesuffix(", p50")


def _plain(axis: Axes, which: str) -> None:
    """Numbers of an axis as people write them."""
    one = axis.xaxis if which == "x" else axis.yaxis
    one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    one.set_minor_formatter(NullFormatter())
