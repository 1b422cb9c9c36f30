"""Command line of the benchmarks: `python -m benchmarks --help`, docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import scenarios
from benchmarks.figures import Figure, as_json, median, show
from benchmarks.options import add_options
from benchmarks.progress import Progress
from benchmarks.stage import BenchmarkError, choose_server, open_stage
from benchmarks.surroundings import surroundings
from polos_redis.embedded.binary import ServerBinary
from polos_redis.errors import PolosError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the speed and cost of polos-redis on this machine, with a private Redis "
        "(settings as shipped), one worker process and one client process.",
        epilog=f"scenarios: {', '.join(scenarios.ALL)}. `python -m benchmarks loss --help`: what a crash of "
        "Redis loses. `python -m benchmarks compare --help`: the ratios of two checkouts.",
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


async def measure(args: argparse.Namespace, server: ServerBinary) -> list[Figure]:
    """Run the selected scenarios, each on a fresh stage."""
    size = scenarios.QUICK if args.quick else scenarios.FULL
    names = args.only or list(scenarios.ALL)
    figures: list[Figure] = []
    with Progress(len(names) * args.repeat) as progress:
        for name in names:
            runs = []
            for turn in range(args.repeat):
                progress.start(name if args.repeat == 1 else f"{name}, run {turn + 1}")
                profile = str(args.profile / f"{name}.pstats") if args.profile else ""
                async with open_stage(
                    server,
                    loop=args.loop,
                    in_flight=args.in_flight,
                    profile=profile,
                    show_progress=progress.show,
                ) as stage:
                    runs.append(await scenarios.ALL[name](stage, size))
            figures += median(runs)
    return figures


def _loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        raise BenchmarkError("--loop uvloop needs the package: pip install uvloop") from None
    return uvloop.new_event_loop


def main() -> int:
    """Measures and prints the figures. Returns 1 if a benchmark failed; a missed target is not a failure."""
    match sys.argv[1:]:
        case ["loss", *words]:
            from benchmarks.loss import command

            return command.main(words)
        case ["compare", *words]:
            from benchmarks import compare

            return compare.main(words)
    args = arguments()
    for name in [name for name in os.environ if name.startswith("POLOS_")]:
        del os.environ[name]  # settings as shipped
    try:
        server = choose_server(args.server)
        about = surroundings(server, args.loop) | {"in flight": args.in_flight, "runs": args.repeat}
        if args.profile:
            args.profile.mkdir(parents=True, exist_ok=True)
        with asyncio.Runner(loop_factory=_loop_factory(args.loop)) as runner:
            figures = runner.run(measure(args, server))
    except (BenchmarkError, PolosError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json:
        print(as_json(about, figures))
    else:
        show(about, figures, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
