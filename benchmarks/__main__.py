"""Command line of the benchmarks: `python -m benchmarks --help`, docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks import scenarios
from benchmarks.figures import as_json, show
from benchmarks.options import add_options, size_of
from benchmarks.runs import run
from benchmarks.stage import BenchmarkError, choose_server
from benchmarks.surroundings import surroundings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the speed and cost of polos-redis on this machine, with a private Redis "
        "(settings as shipped), one worker process and one client process.",
        epilog=f"scenarios: {', '.join(scenarios.ALL)}. `python -m benchmarks loss --help`: what a crash of "
        "Redis loses. `python -m benchmarks compare --help`: the ratios of two checkouts. "
        "`python -m benchmarks peers --help`: how others compare. "
        "`python -m benchmarks report --help`: a page with plots.",
    )
    add_options(parser)
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="report medians of N runs")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="save a cProfile of each scenario's worker"
    )
    args = parser.parse_args()
    if args.repeat < 1 or args.in_flight < 1:
        parser.error("--repeat and --in-flight must be at least 1")
    return args


def main() -> int:
    """Measures and prints the figures. Returns 1 if a benchmark failed; a missed target is not a failure."""
    match sys.argv[1:]:
        case ["loss", *words]:
            from benchmarks.loss import command

            return command.main(words)
        case ["compare", *words]:
            from benchmarks import compare

            return compare.main(words)
        case ["report", *words]:
            from benchmarks.report import command as report

            return report.main(words)
        case ["peers", *words]:
            from benchmarks.peers import command as peers

            return peers.main(words)
    args = arguments()
    try:
        server = choose_server(args.server)
        about = surroundings(server, args.loop) | {"in flight": args.in_flight, "runs": args.repeat}
        if args.profile:
            args.profile.mkdir(parents=True, exist_ok=True)
        results = run(
            args.only,
            size_of(args),
            server,
            loop=args.loop,
            in_flight=args.in_flight,
            repeat=args.repeat,
            profile=args.profile,
        )
    except (BenchmarkError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json:
        print(as_json(about, results.figures, results.missing))
    else:
        show(about, results.figures, sys.stdout)
    for name, why in results.missing.items():
        print(f"benchmarks: {name} failed: {why}", file=sys.stderr)
    return 1 if results.missing else 0


def main_for_readers() -> int:
    """Runs `main`; ends without a traceback if nobody reads its output any more, as with `| head`."""
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more
        return 1


if __name__ == "__main__":
    sys.exit(main_for_readers())
