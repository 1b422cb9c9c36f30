"""Options that the commands of the benchmarks share."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
from collections.abc import Callable

from benchmarks import scenarios
from benchmarks.stage import BenchmarkError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds which scenarios to run, and how."""
    parser.add_argument(
        "--only",
        action="append",
        choices=list(scenarios.ALL),
        metavar="NAME",
        default=[],
        help="run only this scenario; may be repeated",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small numbers, to check that it works")
    size.add_argument(
        "--full", action="store_true", help="also with a million suspended executions (about 10 minutes more)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--server", default="redis", metavar="WHICH", help="redis (default), valkey, or a server's path"
    )
    parser.add_argument(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        help="event loop of worker and client (default: uvloop if it is installed)",
    )
    parser.add_argument("--in-flight", type=int, default=256, metavar="N", help="concurrent client calls")


def size_of(args: argparse.Namespace) -> scenarios.Size:
    """The size that was chosen."""
    return scenarios.QUICK if args.quick else scenarios.FULL if args.full else scenarios.NORMAL


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes the event loop of the client's process. Raises `BenchmarkError` if it is not installed."""
    if loop == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        raise BenchmarkError("--loop uvloop needs the package: pip install uvloop") from None
    return uvloop.new_event_loop
