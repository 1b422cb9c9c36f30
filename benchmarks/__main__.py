"""Command line of the benchmarks: `python -m benchmarks --help`, docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks import scenarios
from benchmarks.figures import Figure, as_json, median, show
from benchmarks.stage import BenchmarkError, choose_server, open_stage
from polos_redis.embedded.binary import ServerBinary
from polos_redis.errors import PolosError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the speed and cost of polos-redis on this machine, with a private Redis "
        "(settings as shipped), one worker process and one client process.",
        epilog=f"scenarios: {', '.join(scenarios.ALL)}. `python -m benchmarks loss --help`: what a crash of "
        "Redis loses. `python -m benchmarks peers --help`: how others compare.",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(scenarios.ALL),
        metavar="NAME",
        default=[],
        help="run only this scenario; may be repeated",
    )
    parser.add_argument("--quick", action="store_true", help="small numbers, to check that it works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="report medians of N runs")
    parser.add_argument(
        "--server", default="redis", metavar="WHICH", help="redis (default), valkey, or a server's path"
    )
    parser.add_argument(
        "--loop", choices=("asyncio", "uvloop"), default="asyncio", help="event loop of worker and client"
    )
    parser.add_argument("--in-flight", type=int, default=256, metavar="N", help="concurrent client calls")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="save a cProfile of each scenario's worker"
    )
    args = parser.parse_args()
    if args.repeat < 1 or args.in_flight < 1:
        parser.error("--repeat and --in-flight must be at least 1")
    return args


class Progress:
    """Progress line on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._scenario = ""

    def start(self, scenario: str) -> None:
        self._scenario = scenario
        self.show("")

    def show(self, text: str) -> None:
        if self._shown:
            print(f"\r\033[K{self._scenario} {text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


async def measure(args: argparse.Namespace, server: ServerBinary) -> list[Figure]:
    """Run the selected scenarios, each on a fresh stage."""
    size = scenarios.QUICK if args.quick else scenarios.FULL
    progress = Progress()
    figures: list[Figure] = []
    try:
        for name in args.only or scenarios.ALL:
            runs = []
            for turn in range(args.repeat):
                progress.start(name if args.repeat == 1 else f"{name} {turn + 1}/{args.repeat}")
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
    finally:
        progress.clear()
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
    if sys.argv[1:2] == ["loss"]:
        from benchmarks.loss import command

        return command.main(sys.argv[2:])
    if sys.argv[1:2] == ["peers"]:
        from benchmarks.peers import command as peers

        return peers.main(sys.argv[2:])
    args = arguments()
    for name in [name for name in os.environ if name.startswith("POLOS_")]:
        del os.environ[name]  # settings as shipped
    try:
        load = os.getloadavg()[0]
        server = choose_server(args.server)
        if args.profile:
            args.profile.mkdir(parents=True, exist_ok=True)
        with asyncio.Runner(loop_factory=_loop_factory(args.loop)) as runner:
            figures = runner.run(measure(args, server))
    except (BenchmarkError, PolosError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    about: dict[str, str | int] = {
        "polos-redis": version("polos-redis"),
        "python": platform.python_version(),
        "loop": args.loop,
        server.flavour: server.version,
        "cores": os.cpu_count() or 0,
        "in flight": args.in_flight,
        "runs": args.repeat,
        "load before": f"{load:.1f}",
    }
    if args.json:
        print(as_json(about, figures))
    else:
        show(about, figures, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
