"""What `python -m benchmarks peers --output FOLDER` has left in peers.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOW = "`python -m benchmarks peers --output FOLDER` measures them"


@dataclass(frozen=True, slots=True)
class PeerFigure:
    """A peer's median, and how many times better the first peer, polos-redis, was."""

    title: str
    unit: str
    value: float
    times: float | None


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A peer: its figures by name; none, and the reason, if it could not be measured."""

    name: str
    figures: Mapping[str, PeerFigure]
    settings: str
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Peers:
    """All peers, polos-redis first; without any, `missing` says why."""

    about: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[PeerRow, ...] = ()
    missing: str = ""

    def titles(self) -> dict[str, str]:
        """The names of all figures, and what to call them."""
        return {name: one.title for row in self.rows for name, one in row.figures.items()}


def read(file: Path) -> Peers:
    """Reads the file; if that is impossible, the result says why."""
    try:
        report = json.loads(file.read_text())
        rows = tuple(_row(row) for row in report["peers"])
    except FileNotFoundError:
        return Peers(missing=f"There is no {file.name} beside this page: {HOW}.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Peers(missing=f"{file.name} can't be read ({type(error).__name__}: {error}): {HOW}.")
    return Peers(report["about"], rows)


def _row(row: Mapping[str, Any]) -> PeerRow:
    figures = {
        one["name"]: PeerFigure(one["title"], one["unit"], one["median"], one["times"])
        for one in row["figures"]
    }
    settings = ", ".join(f"{name}={value}" for name, value in row["server settings"].items())
    stated = "; ".join(part for part in (", ".join(row["packages"]), settings, row["stated"]) if part)
    missing = f"failed: {row['failed']}" if row["failed"] else row["missing"] and f"missing: {row['missing']}"
    return PeerRow(row["name"], figures, stated, missing)
