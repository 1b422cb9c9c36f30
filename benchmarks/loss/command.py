"""`python -m benchmarks loss`: what is lost of acknowledged calls, as a table in Markdown or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.loss.installations import Installation, cluster, one_server, sentinel
from benchmarks.loss.load import approval, load, look
from benchmarks.stage import BenchmarkError, choose_server
from polos_redis import PolosClient
from polos_redis.embedded.binary import ServerBinary
from polos_redis.errors import PolosError
from polos_redis.wire.durable import Durability

Install = Callable[[Path, Path], AbstractAsyncContextManager[Installation]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A crash, and with what durability the calls before it were made."""

    name: str
    crash: str
    install: Callable[..., AbstractAsyncContextManager[Installation]]
    durability: Durability = "server"
    late: bool = False  # whether the installation has a replica that is late


SCENARIOS = (
    Scenario("everysec, process", "the process", partial(one_server, fsync="everysec", machine=False)),
    Scenario("everysec", "the machine", partial(one_server, fsync="everysec", machine=True)),
    Scenario("always", "the machine", partial(one_server, fsync="always", machine=True)),
    Scenario("everysec, fsync", "the machine", partial(one_server, fsync="everysec", machine=True), "fsync"),
    Scenario("sentinel", "the master's machine", sentinel, late=True),
    Scenario("sentinel, replicated", "the master's machine", sentinel, "replicated", late=True),
    Scenario("cluster", "the master's machine", cluster, late=True),
    Scenario("cluster, replicated", "the master's machine", cluster, "replicated", late=True),
)


@dataclass(slots=True)
class Row:
    """What several crashes of one kind lost, in all."""

    scenario: str
    durability: str
    crashes: int = 0
    acknowledged: int = 0  # starts and answers
    lost_starts: int = 0
    lost_answers: int = 0
    window_ms: float = 0.0  # from the acknowledgement of the oldest lost call to the crash, at most
    away_seconds: float = 0.0  # from the crash to the next call that Redis has executed, at most
    left: int = 0  # executions that were not lost
    finished: int = 0  # how many of them a worker has finished afterwards


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks loss",
        description="Crash Redis while clients start executions and answer them, and count what was "
        "acknowledged and is gone.",
        epilog=f"scenarios: {'; '.join(one.name for one in SCENARIOS)}",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[one.name for one in SCENARIOS],
        metavar="NAME",
        default=[],
        help="run only this scenario; may be repeated",
    )
    parser.add_argument("--crashes", type=int, default=3, metavar="N", help="crashes in each scenario")
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="load before a crash, and up to a second more"
    )
    parser.add_argument(
        "--lag-ms", type=float, default=10.0, metavar="MS", help="how late replicas get what a master sends"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--server", default="redis", metavar="WHICH", help="redis (default), valkey, or a server's path"
    )
    args = parser.parse_args(words)
    if args.crashes < 1 or args.seconds <= 0 or args.lag_ms < 0:
        parser.error("--crashes must be at least 1, --seconds above 0, and --lag-ms at least 0")
    return args


async def crash(scenario: Scenario, binary: Path, args: argparse.Namespace, row: Row) -> None:
    """Crash an installation once, and add what was lost to the row."""
    loop = asyncio.get_running_loop()
    lag = {"lag": args.lag_ms / 1000} if scenario.late else {}
    with tempfile.TemporaryDirectory(prefix="loss-") as folder:
        async with scenario.install(Path(folder), binary, **lag) as at:
            durable = PolosClient(at.url, at.namespace, durability=scenario.durability)
            after = PolosClient(at.url, at.namespace, patience_seconds=60)
            async with durable, after:
                async with load(durable) as acknowledged:
                    async with asyncio.timeout(60):
                        await acknowledged.first_answer.wait()
                    await asyncio.sleep(args.seconds + random.random())
                    at.crash()
                    crashed = loop.time()
                first = asyncio.create_task(after.invoke(approval, 0))
                await at.recover(acknowledged)
                await first
                row.away_seconds = max(row.away_seconds, loop.time() - crashed)
                left = await look(after, acknowledged)
    lost = [acknowledged.starts[one] for one in left.lost_starts]
    lost += [acknowledged.answers[one] for one in left.lost_answers]
    row.crashes += 1
    row.acknowledged += len(acknowledged)
    row.lost_starts += len(left.lost_starts)
    row.lost_answers += len(left.lost_answers)
    row.window_ms = max([row.window_ms, *((crashed - one) * 1000 for one in lost)])
    row.left += len(acknowledged.starts) - len(left.lost_starts)
    row.finished += left.finished


async def measure(args: argparse.Namespace, server: ServerBinary) -> list[Row]:
    """Run the selected scenarios."""
    rows = []
    for scenario in SCENARIOS:
        if args.only and scenario.name not in args.only:
            continue
        row = Row(scenario.name, scenario.durability)
        for number in range(args.crashes):
            if sys.stderr.isatty():
                print(f"\r\033[K{scenario.name} {number + 1}", end="", file=sys.stderr, flush=True)
            await crash(scenario, server.path, args, row)
        rows.append(row)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return rows


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    head = (
        *("scenario", "what crashes", "acknowledged", "lost starts", "lost answers", "oldest lost"),
        *("away", "finished afterwards"),
    )
    crashes = {one.name: one.crash for one in SCENARIOS}
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = (
            row.scenario,
            crashes[row.scenario],
            f"{row.acknowledged:,}",
            f"{row.lost_starts:,}",
            f"{row.lost_answers:,}",
            f"{row.window_ms:,.0f} ms" if row.lost_starts + row.lost_answers else "",
            f"{row.away_seconds:.1f} s",
            f"{row.finished:,} of {row.left:,}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Crashes installations and prints what was lost. Returns 1 if that could not be measured."""
    args = arguments(words)
    for name in [name for name in os.environ if name.startswith("POLOS_")]:
        del os.environ[name]  # settings as shipped
    try:
        server = choose_server(args.server)
        rows = asyncio.run(measure(args, server))
    except (BenchmarkError, PolosError, OSError) as error:  # TimeoutError is an OSError
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    about = {server.flavour: server.version, "crashes": args.crashes, "lag_ms": args.lag_ms}
    if args.json:
        print(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(table(rows))
        print(f"\n{', '.join(f'{name} {value}' for name, value in about.items())}")
    return 0
