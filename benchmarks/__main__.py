"""`python -m benchmarks`: see `--help` and docs/benchmarks.md."""

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
        description="How fast polos-redis is on this machine, and what it costs: one Redis of its own "
        "with the settings as shipped, one worker process, one client process.",
        epilog=f"scenarios: {', '.join(scenarios.ALL)}",
    )
    parser.add_argument("--only", action="append", choices=list(scenarios.ALL), metavar="NAME", default=[])
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that it works")
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="medians of N runs")
    parser.add_argument(
        "--server", default="redis", metavar="WHICH", help="redis (default), valkey, or a path"
    )
    parser.add_argument(
        "--loop", choices=("asyncio", "uvloop"), default="asyncio", help="of worker and client"
    )
    parser.add_argument("--in-flight", type=int, default=256, metavar="N", help="calls of the client at once")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="cProfile of the worker, by scenario")
    chosen = parser.parse_args()
    if chosen.repeat < 1 or chosen.in_flight < 1:
        parser.error("--repeat and --in-flight are 1 or more")
    return chosen


class Progress:
    """One line on a terminal's standard error that tells what is going on."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._scenario = ""

    def begin(self, scenario: str) -> None:
        self._scenario = scenario
        self.say("")

    def say(self, text: str) -> None:
        if self._shown:
            print(f"\r\033[K{self._scenario} {text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


async def measure(chosen: argparse.Namespace, server: ServerBinary) -> list[Figure]:
    """Run the chosen scenarios, each on a stage of its own."""
    size = scenarios.QUICK if chosen.quick else scenarios.FULL
    progress = Progress()
    figures: list[Figure] = []
    try:
        for name in chosen.only or scenarios.ALL:
            runs = []
            for turn in range(chosen.repeat):
                progress.begin(name if chosen.repeat == 1 else f"{name} {turn + 1}/{chosen.repeat}")
                profile = str(chosen.profile / f"{name}.pstats") if chosen.profile else ""
                async with open_stage(
                    server, loop=chosen.loop, in_flight=chosen.in_flight, profile=profile, say=progress.say
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
        raise BenchmarkError("--loop uvloop needs it installed: pip install uvloop") from None
    return uvloop.new_event_loop


def main() -> int:
    """Measure and show. 1 when something broke; a missed target is shown, and is no failure."""
    chosen = arguments()
    for name in [name for name in os.environ if name.startswith("POLOS_")]:
        del os.environ[name]  # settings as shipped
    try:
        load = os.getloadavg()[0]
        server = choose_server(chosen.server)
        if chosen.profile:
            chosen.profile.mkdir(parents=True, exist_ok=True)
        with asyncio.Runner(loop_factory=_loop_factory(chosen.loop)) as runner:
            figures = runner.run(measure(chosen, server))
    except (BenchmarkError, PolosError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    about: dict[str, str | int] = {
        "polos-redis": version("polos-redis"),
        "python": platform.python_version(),
        "loop": chosen.loop,
        server.flavour: server.version,
        "cores": os.cpu_count() or 0,
        "in flight": chosen.in_flight,
        "runs": chosen.repeat,
        "load before": f"{load:.1f}",
    }
    if chosen.json:
        print(as_json(about, figures))
    else:
        show(about, figures, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
