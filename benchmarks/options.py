"""Options that the commands of the benchmarks share."""

from __future__ import annotations

import argparse

from benchmarks import scenarios


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
    parser.add_argument("--quick", action="store_true", help="small numbers, to check that it works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--server", default="redis", metavar="WHICH", help="redis (default), valkey, or a server's path"
    )
    parser.add_argument(
        "--loop", choices=("asyncio", "uvloop"), default="asyncio", help="event loop of worker and client"
    )
    parser.add_argument("--in-flight", type=int, default=256, metavar="N", help="concurrent client calls")
