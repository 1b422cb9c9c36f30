"""The report as a page of Markdown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from benchmarks.figures import Figure, limit, markdown_table, number
from benchmarks.report.peers import PeerFigure, Peers

ALTERNATIVES = {  # what a plot shows, for those who can't see it
    "peers": "Throughput of polos-redis and its peers",
    "latency": "Distribution of latencies",
    "cost": "CPU of each operation by process",
    "suspended": "Slowdown and memory by the number of suspended executions",
    "replay": "Time to resume by the length of the journal",
}


def page(
    about: Mapping[str, str | int],
    figures: Sequence[Figure],
    missing: Mapping[str, str],
    peers: Peers,
    plots: Collection[str],
) -> str:
    """The page. `missing` says why a scenario has no figures; `plots` are the names of those drawn."""
    sections = [
        "# Figures",
        f"{about['date']}, commit {about['commit']}. How to read them: docs/benchmarks.md of the repository.",
        markdown_table(("", "measured on"), [(name, str(value)) for name, value in about.items()]),
        _missing(missing),
        _targets(figures),
        _peers(peers, plots),
        _section("Latency", "latency", plots, "One call at a time, by a client that has nothing else to do."),
        _section("Cost", "cost", plots, "Averages under load. A step is without its execution."),
        _section(
            "Many suspended executions",
            "suspended",
            plots,
            "Each operation was measured in turn on two servers with a worker each: one with few suspended "
            "executions, one with many.",
        ),
        _section("Replay", "replay", plots, "The execution has nothing to do but to replay its steps."),
        _commands(figures),
        _all(figures),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _image(name: str) -> str:
    return f"![{ALTERNATIVES[name]}]({name}.svg)"


def _section(title: str, plot: str, plots: Collection[str], text: str) -> str:
    return f"## {title}\n\n{text}\n\n{_image(plot) if plot in plots else 'Not measured in this run.'}"


def _missing(missing: Mapping[str, str]) -> str:
    if not missing:
        return ""
    lines = [f"- `{name}` failed: {why}" for name, why in missing.items()]
    return "\n".join(["## Missing", "", *lines])


def _targets(figures: Sequence[Figure]) -> str:
    judged = [figure for figure in figures if figure.target is not None]
    rows = [
        (
            figure.scenario,
            figure.label,
            f"{number(figure.value)} {figure.unit}".rstrip(),
            limit(figure),
            "met" if figure.met else "**missed**",
        )
        for figure in judged
    ]
    if not rows:
        return ""
    count = sum(figure.met is True for figure in judged)
    table = markdown_table(("scenario", "figure", "value", "target", ""), rows, numeric=(2, 3))
    return f"## Targets\n\n{count} of {len(judged)} met.\n\n{table}"


def _peers(peers: Peers, plots: Collection[str]) -> str:
    title = "## Next to peers"
    if peers.missing:
        return f"{title}\n\nNot compared. {peers.missing}"
    names = peers.titles()
    measured = [row for row in peers.rows if row.figures]
    rows = [(row.name, *(_peer_cell(row.figures.get(name)) for name in names)) for row in measured]
    table = markdown_table(("", *names.values()), rows, numeric=range(1, len(names) + 1))
    said = [f"- {row.name}: {row.missing or row.settings}" for row in peers.rows]
    conditions = ", ".join(f"{name} {value}" for name, value in peers.about.items())
    note = "In brackets: how many times better polos-redis was, the median of the rounds."
    image = _image("peers") if "peers" in plots else ""
    return "\n\n".join(part for part in (title, image, table, note, "\n".join(said), conditions) if part)


def _peer_cell(figure: PeerFigure | None) -> str:
    if figure is None:
        return ""
    value = f"{number(figure.value)} {figure.unit}"
    return value if figure.times is None or figure.times == 1 else f"{value} ({number(figure.times)}x)"


def _commands(figures: Sequence[Figure]) -> str:
    """Commands of each operation."""
    operations = [figure for figure in figures if figure.scenario == "commands" and figure.breakdown]
    by_name: dict[str, dict[str, float]] = {}
    for figure in operations:
        by_name.setdefault(figure.name, {}).update(figure.breakdown)
    if not by_name:
        return "## Redis commands\n\nNot measured in this run."
    commands = sorted({command for counts in by_name.values() for command in counts})
    rows = [
        (f"`{command.upper()}`", *(_count(counts.get(command)) for counts in by_name.values()))
        for command in commands
    ]
    table = markdown_table(("command", *by_name), rows, numeric=range(1, len(by_name) + 1))
    return (
        "## Redis commands\n\nBy `INFO commandstats`. `EVALSHA` and `XREADGROUP` are calls; scripts run the "
        f"others.\n\n{table}"
    )


def _count(count: float | None) -> str:
    return f"{count:.1f}" if count else ""


def _all(figures: Sequence[Figure]) -> str:
    rows = []
    for figure in figures:
        cpu = figure.cpu
        costs = ("", "", "") if cpu is None else tuple(map(number, (cpu.worker, cpu.client, cpu.redis)))
        rows.append((figure.scenario, figure.label, number(figure.value), figure.unit, *costs))
    head = ("scenario", "figure", "value", "unit", "worker us", "client us", "redis us")
    table = markdown_table(head, rows, numeric=(2, 4, 5, 6))
    return f"## All figures\n\n`us`: CPU microseconds of each process for one operation.\n\n{table}"
