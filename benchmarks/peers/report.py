"""What was measured of each peer, its ratios to polos-redis, and the report as JSON and as Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.peer import STEPS, Peer


@dataclass(frozen=True, slots=True)
class Measure:
    """What a figure means. Throughput is better if there is more of it, latency if there is less."""

    title: str
    unit: str

    @property
    def more(self) -> bool:
        return self.unit == "/s"


MEASURES: Mapping[str, Measure] = {
    "jobs": Measure("no-ops, end to end", "/s"),
    "steps": Measure("journaled steps, end to end", "/s"),
    "call p50": Measure("start -> result, p50", "ms"),
    "call p99": Measure("start -> result, p99", "ms"),
    "resume p50": Measure("answer -> result, p50", "ms"),
    "resume p99": Measure("answer -> result, p99", "ms"),
}


def figures(case: str, answer: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a case in a round, from the answer of the peer's client."""
    if "milliseconds" in answer:
        ordered = sorted(answer["milliseconds"])
        return {f"{case} p{part}": ordered[len(ordered) * part // 100] for part in (50, 99)}
    return {case: answer["count"] * (STEPS if case == "steps" else 1) / answer["seconds"]}


@dataclass(slots=True)
class Row:
    """A peer, and its figures in each round: none if it is missing or has failed, with the reason."""

    peer: Peer
    rounds: list[dict[str, float]] = field(default_factory=list)
    missing: str = ""
    failed: str = ""

    def median(self, measure: str) -> float | None:
        """The median over the rounds; None if it was not measured."""
        found = [one[measure] for one in self.rounds if measure in one]
        return statistics.median(found) if found else None

    def times(self, measure: str, reference: Row) -> list[float]:
        """How many times better the reference was, in each round that both took part in."""
        pairs = zip(reference.rounds, self.rounds, strict=False)
        found = [
            (ours[measure], theirs[measure])
            for ours, theirs in pairs
            if measure in ours and measure in theirs
        ]
        if MEASURES[measure].more:
            return [ours / theirs for ours, theirs in found]
        return [theirs / ours for ours, theirs in found]


def as_json(about: Mapping[str, str | int | float], rows: Sequence[Row], reference: Row) -> str:
    """Everything, unrounded: each figure by round, its median, how many times better the reference was."""
    return json.dumps({"about": about, "peers": [_row(row, reference) for row in rows]}, indent=2)


def _row(row: Row, reference: Row) -> dict[str, Any]:
    found = []
    for name, measure in MEASURES.items():
        if (median := row.median(name)) is None:
            continue
        times = row.times(name, reference)
        found.append(
            {
                "name": name,
                "title": measure.title,
                "unit": measure.unit,
                "median": median,
                "rounds": [one[name] for one in row.rounds],
                "times": statistics.median(times) if times else None,
                "times by round": times,
            }
        )
    peer = row.peer
    return {
        "name": peer.name,
        "packages": [*peer.packages, *peer.npm],
        "server": peer.server,
        "server settings": dict(peer.settings),
        "stated": peer.stated,
        "missing": row.missing,
        "failed": row.failed,
        "figures": found,
    }


def as_markdown(about: Mapping[str, str | int | float], rows: Sequence[Row], reference: Row) -> str:
    """A table of the peers that were measured, the settings of each, and why others are missing."""
    measured = [row for row in rows if row.rounds]
    head = ["", *(measure.title for measure in MEASURES.values())]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(MEASURES)]
    for row in measured:
        cells = [row.peer.name, *(_cell(row, name, reference) for name in MEASURES)]
        lines.append("| " + " | ".join(cells) + " |")
    rounds = "One round" if about["rounds"] == 1 else f"Medians of {about['rounds']} rounds"
    note = f"{rounds}. (2.0x): {reference.peer.name} was twice as fast, in the median of the rounds' ratios."
    lines += ["", note, ""]
    for row in rows:
        said = (
            f"failed: {row.failed}"
            if row.failed
            else f"missing: {row.missing}"
            if row.missing
            else _stated(row.peer)
        )
        lines.append(f"- {row.peer.name}: {said}")
    lines += ["", ", ".join(f"{name} {value}" for name, value in about.items())]
    return "\n".join(lines)


def _cell(row: Row, name: str, reference: Row) -> str:
    if (median := row.median(name)) is None:
        return ""
    unit = MEASURES[name].unit
    value = (
        f"{median:,.0f} /s" if unit == "/s" else f"{median:,.2f} ms" if median < 10 else f"{median:,.0f} ms"
    )
    times = row.times(name, reference)
    if row is reference or not times:
        return value
    return f"{value} ({_times(statistics.median(times))})"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"


def _stated(peer: Peer) -> str:
    packages = ", ".join((*peer.packages, *peer.npm))
    settings = ", ".join(f"{name}={value}" for name, value in peer.settings.items())
    return "; ".join(part for part in (packages, settings, peer.stated) if part)
