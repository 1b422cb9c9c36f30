"""`python -m benchmarks compare OLD [NEW]`: the ratios of two checkouts' figures, measured in turn.

Both are measured by the benchmarks and the interpreter that run this command; only `polos_redis` is taken
from the checkouts. Each scenario runs in a process of its own, in rounds: old, new; new, old; and so on. So
the machine's moods hit both, and what is judged is the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import scenarios
from benchmarks.figures import Figure, from_json, markdown_table, number
from benchmarks.options import add_options
from benchmarks.progress import Progress
from benchmarks.stage import BenchmarkError, choose_server
from benchmarks.surroundings import commit, surroundings

HERE = Path(__file__).resolve().parent


@dataclass(slots=True)
class Comparison:
    """One figure in both checkouts: a value of each per round."""

    scenario: str
    name: str
    unit: str
    more: bool
    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """New divided by old in each round in which the old value is not 0."""
        return [new / old for old, new in zip(self.old, self.new, strict=True) if old]


def compared(rounds: Sequence[tuple[Sequence[Figure], Sequence[Figure]]]) -> list[Comparison]:
    """Compares the figures of a scenario, and its CPU by process, over rounds of (old, new).

    A figure that a checkout lacks in some round is left out.
    """
    pairs = [(_values(old), _values(new)) for old, new in rounds]
    found = []
    for key in pairs[0][0]:
        if all(key in old and key in new for old, new in pairs):
            scenario, name, unit, more = key
            values = [(old[key], new[key]) for old, new in pairs]
            found.append(
                Comparison(scenario, name, unit, more, [old for old, _ in values], [new for _, new in values])
            )
    return found


def _values(figures: Sequence[Figure]) -> dict[tuple[str, str, str, bool], float]:
    values = {}
    for figure in figures:
        values[figure.scenario, figure.label, figure.unit, figure.more] = figure.value
        for process, us in asdict(figure.cpu).items() if figure.cpu is not None else ():
            if us is not None:
                values[figure.scenario, f"{figure.label}: CPU of {process}", "us", False] = us
    return values


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as a table in Markdown."""
    rows = []
    for one in comparisons:
        ratios = one.ratios
        rows.append(
            (
                one.scenario,
                one.name,
                number(statistics.median(one.old)),
                number(statistics.median(one.new)),
                one.unit,
                f"{statistics.median(ratios):.2f}" if ratios else "",
                f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "",
                _verdict(ratios, one.more),
            )
        )
    head = ("scenario", "figure", "old", "new", "unit", "new / old", "lowest to highest", "every round")
    return markdown_table(head, rows, numeric=(2, 3, 5))


def _verdict(ratios: Sequence[float], more: bool) -> str:
    """Whether every round says the same; empty if they differ."""
    if ratios and all(ratio > 1 for ratio in ratios):
        return "better" if more else "worse"
    if ratios and all(ratio < 1 for ratio in ratios):
        return "worse" if more else "better"
    return ""


class Checkout:
    """A checkout whose `polos_redis` is measured: `folder` has links to it and to these benchmarks."""

    def __init__(self, tree: Path, folder: Path) -> None:
        package = tree / "polos_redis"
        if not (package / "__init__.py").is_file():
            raise BenchmarkError(f"{tree} is no checkout of polos-redis: it has no polos_redis/__init__.py")
        self._folder = folder
        (folder / "polos_redis").symlink_to(package.resolve())
        (folder / "benchmarks").symlink_to(HERE)

    def run(self, scenario: str, options: Sequence[str]) -> list[Figure] | str:
        """The figures of a scenario, or why there are none."""
        command = [sys.executable, "-m", "benchmarks", "--json", "--only", scenario, *options]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            return lines[-1] if lines else f"exit status {done.returncode}"
        return from_json(json.loads(done.stdout))


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description="Run the scenarios in two checkouts (for example Git worktrees), in turn, and report new "
        "divided by old: the median of the rounds, and the lowest and highest.",
        epilog="Both run with this interpreter and its installed libraries. Without --only, everything but "
        "`suspended` runs, which takes long and is a comparison itself.",
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="folder of the old checkout")
    parser.add_argument(
        "new", type=Path, nargs="?", default=HERE.parent, metavar="NEW", help="of the new one (default: this)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs in each checkout (5)")
    add_options(parser)
    args = parser.parse_args(words)
    if args.rounds < 1 or args.in_flight < 1:
        parser.error("--rounds and --in-flight must be at least 1")
    return args


def compare(args: argparse.Namespace) -> tuple[list[Comparison], dict[str, str]]:
    """Runs everything. Returns the comparisons, and why the scenarios without one are missing."""
    options = ["--server", args.server, "--loop", args.loop, "--in-flight", str(args.in_flight)]
    options += ["--quick"] * args.quick + ["--full"] * args.full
    names = args.only or [name for name in scenarios.ALL if name != "suspended"]
    rounds: dict[str, list[tuple[list[Figure], list[Figure]]]] = {name: [] for name in names}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        trees = {"old": Checkout(args.old, folders[0]), "new": Checkout(args.new, folders[1])}
        progress = stack.enter_context(Progress(2 * args.rounds * len(names)))
        for turn in range(args.rounds):
            for name in names:
                found: dict[str, list[Figure]] = {}
                for which in ("old", "new") if turn % 2 == 0 else ("new", "old"):
                    progress.start(f"round {turn + 1}, {name}, {which}")
                    if name in missing:
                        continue
                    figures = trees[which].run(name, options)
                    if isinstance(figures, str):
                        missing[name] = f"{which}: {figures}"
                    else:
                        found[which] = figures
                if name not in missing:
                    rounds[name].append((found["old"], found["new"]))
    return [one for name in names if name not in missing for one in compared(rounds[name])], missing


def main(words: Sequence[str]) -> int:
    """Compares two checkouts and prints the ratios. Returns 1 if a scenario could not be compared."""
    args = arguments(words)
    try:
        server = choose_server(args.server)
        about = surroundings(server, args.loop, args.new)
        about |= {"commit": f"{commit(args.old)} -> {commit(args.new)}", "rounds": args.rounds}
        comparisons, missing = compare(args)
    except (BenchmarkError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json:
        rows = [{**asdict(one), "ratios": one.ratios} for one in comparisons]
        print(json.dumps({"about": about, "comparisons": rows, "missing": missing}, indent=2))
    else:
        print(table(comparisons))
        for name, why in missing.items():
            print(f"\nmissing: {name}: {why}")
        print(f"\n{', '.join(f'{name} {value}' for name, value in about.items())}")
    return 1 if missing else 0
