"""`python -m benchmarks peers`: the same work with polos-redis and its peers, in rounds, and the ratios."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.peers import dbos, polos, restate, saq, servers, streaq, taskiq
from benchmarks.peers.children import peer_process
from benchmarks.peers.environments import Environment, cache_folder, environment
from benchmarks.peers.peer import Peer
from benchmarks.peers.report import Row, as_json, as_markdown, figures
from benchmarks.stage import BenchmarkError, choose_server
from benchmarks.surroundings import surroundings
from polos_redis.embedded.binary import ServerBinary
from polos_redis.errors import PolosError

PEERS = (
    polos.PEER,
    saq.PEER,
    taskiq.PEER,
    streaq.PEER,
    dbos.PEER,
    dbos.PEER_OFF,
    restate.PEER,
    restate.PEER_NO_FSYNC,
)
REFERENCE = polos.PEER
SAMPLES = 500
QUICK_SAMPLES = 20


def arguments(words: list[str]) -> argparse.Namespace:
    names = [*dict.fromkeys(peer.module for peer in PEERS)]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers",
        description="Do the same work with polos-redis and with what people would use instead, in several "
        "rounds, and report how they compare. The first run installs the peers into a cache folder.",
        epilog=f"peers: {', '.join(names)}. DBOS needs PostgreSQL's programs, Restate needs npm.",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        default=[],
        help="run only this peer, beside polos-redis; may be repeated",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="report medians of N rounds (default 3)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="duration of each measurement, about (default 5)",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to check that it works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write peers.json and peers.md there, too"
    )
    parser.add_argument(
        "--server", default="redis", metavar="WHICH", help="redis (default), valkey, or a server's path"
    )
    parser.add_argument(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="uvloop",
        help="event loop of everything (default uvloop)",
    )
    parser.add_argument(
        "--in-flight", type=int, default=32, metavar="N", help="concurrent calls of a client (default 32)"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help=f"where peers are installed (default {cache_folder()})"
    )
    args = parser.parse_args(words)
    if args.rounds < 1 or args.in_flight < 1 or args.seconds <= 0:
        parser.error("--rounds and --in-flight must be at least 1, and --seconds above 0")
    if args.quick:
        args.rounds, args.seconds = 1, 0.2
    return args


def show(text: str) -> None:
    """Show what is going on, on standard error: in one line of a terminal, otherwise a line each."""
    start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def clear() -> None:
    """Clear the terminal's line."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@asynccontextmanager
async def running_server(peer: Peer, installed: Environment, binary: ServerBinary) -> AsyncIterator[str]:
    """The server of a peer; gives its address."""
    if peer.server == "redis":
        opened = servers.redis(binary.path)
    elif peer.server == "postgres":
        opened = servers.postgres(peer.settings)
    else:
        opened = servers.restate(installed.folder, peer.settings)
    async with opened as address:
        yield address


async def measure_peer(
    peer: Peer, installed: Environment, binary: ServerBinary, args: argparse.Namespace, progress: str
) -> dict[str, float]:
    """The figures of a peer in a round, on a fresh server, with one worker process and one client process."""
    found: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-peer-")))
        address = await stack.enter_async_context(running_server(peer, installed, binary))
        common = (installed.python, peer.module, address, args.loop)
        if peer.has_worker:
            await stack.enter_async_context(peer_process("worker", *common, folder / "worker.log"))
        client = await stack.enter_async_context(peer_process("client", *common, folder / "client.log"))
        for case in peer.cases:
            show(f"{progress} {peer.name}: {case}")
            answer = await client.ask(
                case=case,
                seconds=args.seconds,
                samples=QUICK_SAMPLES if args.quick else SAMPLES,
                in_flight=args.in_flight,
            )
            found |= figures(case, answer)
    return found


async def install(peers: Sequence[Peer], cache: Path) -> tuple[list[Row], dict[str, Environment]]:
    """A row for each peer, and the environments of those that are not missing."""
    rows, made = [], {}
    for peer in peers:
        row = Row(peer)
        rows.append(row)
        try:
            if peer.server == "postgres":
                servers.postgres_programs()
            made[peer.name] = await environment(peer, cache, show)
        except (BenchmarkError, OSError) as error:
            row.missing = str(error)
    return rows, made


async def measure(args: argparse.Namespace, binary: ServerBinary) -> list[Row]:
    """Run all peers in each round, each time beginning with another one."""
    wanted = [peer for peer in PEERS if peer is REFERENCE or not args.only or peer.module in args.only]
    rows, made = await install(wanted, args.cache or cache_folder())
    for turn in range(args.rounds):
        first = turn % len(rows)
        for row in [*rows[first:], *rows[:first]]:
            if row.missing or row.failed:
                continue
            progress = f"round {turn + 1}/{args.rounds}"
            try:
                row.rounds.append(await measure_peer(row.peer, made[row.peer.name], binary, args, progress))
            except (BenchmarkError, PolosError, OSError) as error:
                row.failed = str(error)
                row.rounds.clear()
    return rows


def main(words: list[str]) -> int:
    """Measures the peers and prints the report. Returns 1 if one has failed; a missing one is no failure."""
    args = arguments(words)
    for name in [name for name in os.environ if name.startswith("POLOS_")]:
        del os.environ[name]  # settings as shipped
    try:
        binary = choose_server(args.server)
        about: dict[str, str | int | float] = {
            **surroundings(binary, args.loop),
            "in flight": args.in_flight,
            "seconds": args.seconds,
            "rounds": args.rounds,
        }
        rows = asyncio.run(measure(args, binary))
        if any(row.peer.server == "postgres" and row.rounds for row in rows):
            about["postgresql"] = servers.postgres_version()
        reference = next(row for row in rows if row.peer is REFERENCE)
        table, data = as_markdown(about, rows, reference), as_json(about, rows, reference)
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            (args.output / "peers.json").write_text(data + "\n")
            (args.output / "peers.md").write_text(table + "\n")
    except (BenchmarkError, PolosError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        clear()
    print(data if args.json else table)
    return 1 if any(row.failed for row in rows) else 0
