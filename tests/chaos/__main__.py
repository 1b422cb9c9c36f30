"""The command: `python -m tests.chaos --help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.chaos.audit import audit
from tests.chaos.report import Report, describe
from tests.chaos.run import Plan, run
from tests.harness.servers import KINDS, chosen_binary, server_binaries

# With --varied, the seeds take these in turn: appendfsync, partitions, cluster, kind of server.
VARIATIONS = (
    ("always", 1, False, "valkey"),
    ("everysec", 1, False, "redis8"),
    ("everysec", 4, False, "redis7"),
    ("everysec", 6, True, "valkey"),
    ("always", 4, False, "redis7"),
    ("everysec", 1, False, "valkey"),
    ("always", 1, False, "redis8"),
)


def main(arguments: list[str]) -> int:
    """Run what the arguments say. Returns 1 if there was a violation."""
    options = _parser().parse_args(arguments)
    total = Report()
    for plan in _plans(options):
        print(plan, flush=True)
        total.add(_one(plan, keep=options.keep))
    if len(total.seeds) > 1:
        print("\nIn all:", *total.lines(), sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(total.json(), indent=2) + "\n")
    return 1 if total.violations else 0


def _one(plan: Plan, *, keep: bool) -> Report:
    folder = Path(tempfile.mkdtemp(prefix="polos-chaos-"))
    try:
        history = asyncio.run(run(plan, folder, lambda line: print(line, flush=True)))
        violations = audit(history)
        keep = keep or bool(violations)
        report = Report.of(history, plan.seconds, violations)
        print(*describe(history, violations), *report.lines(), sep="\n", flush=True)
        return report
    finally:
        if keep or sys.exc_info()[0]:
            print(f"logs and effects are kept in {folder}", flush=True)
        else:
            shutil.rmtree(folder)


def _plans(options: argparse.Namespace) -> Iterator[Plan]:
    plan = Plan(
        seed=options.seed,
        seconds=options.seconds,
        workers=options.workers,
        users=options.users,
        fsync=options.fsync,
        partitions=options.partitions or (6 if options.cluster else 1),
        cluster=options.cluster,
        binary=_binary(options.server),
        lease_seconds=options.lease,
    )
    for number in range(options.seeds):
        one = replace(plan, seed=options.seed + number)
        if options.varied:
            fsync, partitions, cluster, server = VARIATIONS[number % len(VARIATIONS)]
            found = server_binaries()[server]
            binary = found if isinstance(found, Path) else chosen_binary()  # what this machine has
            one = replace(one, fsync=fsync, partitions=partitions, cluster=cluster, binary=binary)
        yield one


def _binary(server: str | None) -> Path:
    """The program of this kind of server. Exits with the reason if this machine has none."""
    if server is None:
        return chosen_binary()
    found = server_binaries()[server]
    if isinstance(found, str):
        raise SystemExit(f"--server {server}: {found}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Load every feature, inject faults, and audit what came of it. Exits with 1 if a "
        "guarantee was broken, after printing the seed and the histories of the executions concerned.",
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long faults are injected (default: 60)"
    )
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default: 4)")
    parser.add_argument("--users", type=int, default=24, help="users who start executions (default: 24)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the load's and the faults' choices (default: 1)"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="number of runs, with consecutive seeds (default: 1)"
    )
    parser.add_argument("--varied", action="store_true", help="the runs differ in server, log and partitions")
    parser.add_argument(
        "--fsync",
        choices=("always", "everysec"),
        default="always",
        help="the server's appendfsync; with everysec, crashes lose the end of the log (default: always)",
    )
    parser.add_argument("--partitions", type=int, help="of the namespace (default: 1; on a cluster 6)")
    parser.add_argument(
        "--cluster", action="store_true", help="three masters with replicas instead of a server"
    )
    parser.add_argument(
        "--server", choices=tuple(KINDS), help="the kind of server (default: the first one found)"
    )
    parser.add_argument("--lease", type=float, default=2.0, help="the workers' lease in seconds (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file, too")
    parser.add_argument("--keep", action="store_true", help="keep logs and effects without a violation, too")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
