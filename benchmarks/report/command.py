"""`python -m benchmarks report`: measures, and writes report.json, report.md and its plots."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Figure, as_json, from_json
from benchmarks.options import add_options, size_of
from benchmarks.report.page import page
from benchmarks.report.peers import read
from benchmarks.runs import run
from benchmarks.stage import BenchmarkError, choose_server
from benchmarks.surroundings import surroundings

RESULTS = Path("benchmarks", "results")


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report",
        description="Run the scenarios and write the figures as report.json, as report.md, and as plots.",
        epilog="Peers are included if `python -m benchmarks peers --output FOLDER` left a peers.json there.",
    )
    add_options(parser)
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="report medians of N runs")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="FOLDER", help=f"where to write (default {RESULTS})"
    )
    parser.add_argument(
        "--from", type=Path, dest="source", metavar="FILE", help="use a report.json instead of measuring"
    )
    args = parser.parse_args(words)
    if args.repeat < 1 or args.in_flight < 1:
        parser.error("--repeat and --in-flight must be at least 1")
    return args


def write(
    folder: Path, about: Mapping[str, str | int], figures: Sequence[Figure], missing: Mapping[str, str]
) -> None:
    """Write the report into a folder; a peers.json that is there is part of it."""
    from benchmarks.report.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(as_json(about, figures, missing) + "\n")
    peers = read(folder / "peers.json")
    plots = draw(folder, figures, peers)
    (folder / "report.md").write_text(page(about, figures, missing, peers, plots))


def main(words: Sequence[str]) -> int:
    """Measures and writes. Returns 1 if a scenario failed; a missed target is not a failure."""
    args = arguments(words)
    try:
        if importlib.util.find_spec("matplotlib") is None:
            raise BenchmarkError("the plots need matplotlib: pip install matplotlib, or the extra `bench`")
        if args.source:
            about, figures, missing = _stored(args.source)
        else:
            server = choose_server(args.server)
            about = surroundings(server, args.loop) | {"in flight": args.in_flight, "runs": args.repeat}
            results = run(
                args.only,
                size_of(args),
                server,
                loop=args.loop,
                in_flight=args.in_flight,
                repeat=args.repeat,
            )
            figures, missing = results.figures, results.missing
        write(args.output, about, figures, missing)
    except (BenchmarkError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(as_json(about, figures, missing) if args.json else args.output / "report.md")
    for name, why in missing.items():
        print(f"benchmarks: {name} failed: {why}", file=sys.stderr)
    return 1 if missing else 0


def _stored(file: Path) -> tuple[dict[str, str | int], list[Figure], dict[str, str]]:
    try:
        report = json.loads(file.read_text())
        return report["about"], from_json(report), report["missing"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{file} is no report of this version ({type(error).__name__}: {error}): measure again"
        ) from None
