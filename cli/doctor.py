"""`polos doctor`: what is wrong with an installation, and what to do about it."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from . import commands
from .options import ConnectionOptions, Json
from .output import Part, console, line, print_json, status

if TYPE_CHECKING:
    from polos_redis.diagnosis import Diagnosis, Finding

WIDTHS = {"level": 9, "check": 13}
NARROW = 70  # columns of a terminal below which texts stand under their headings, not beside them


def add_to(app: typer.Typer) -> None:
    commands.add(app, doctor, "Check Redis, settings, workers and work.")


def doctor(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 also for warnings and for what can't be checked.")
    ] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Print every setting, not just those that were changed.")
    ] = False,
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """Check everything that an installation depends on, and say what to do about each problem.

    Of each server: kind and version, what a crash loses, eviction, memory, settings, clock, the rights of the
    user, replicas, the state of a cluster. Of the namespace: partitions, workers and their leases, consumers,
    overdue timers, failed errands, workflows and queues that no worker serves, and executions that are
    stuck or can't be read.
    Of this process: its effective settings.

    It changes nothing. Exit code 1 means at least one problem: something loses or stops work.

    \b
    Examples:
      polos doctor
      polos doctor --strict
      polos doctor --json | jq -r '.findings[] | select(.level != "ok") | .found'
    """
    from polos_redis.diagnosis import diagnose

    diagnosis = connection.run(diagnose)
    if json:
        print_json(diagnosis.plain())
    else:
        _print(diagnosis, all_)
    wrong = diagnosis.count("problem")
    if strict:
        wrong += diagnosis.count("warning") + diagnosis.count("unknown")
    if wrong:
        raise typer.Exit(1)


def _print(diagnosis: Diagnosis, all_: bool) -> None:
    line("Redis at ", (diagnosis.redis, "bold"), ", namespace ", (diagnosis.namespace, "bold"))
    line()
    several = len({one.where for one in diagnosis.findings if one.check == "server"}) > 1
    for finding in diagnosis.findings:
        _print_finding(finding, several)
    line()
    shown = [one for one in diagnosis.settings if all_ or one["source"] != "default"]
    if shown:
        line(("settings", "bold"))
        width = max(len(one["environment"]) for one in shown)
        for one in shown:
            value = "-" if one["value"] is None else str(one["value"])
            line("  ", one["environment"].ljust(width), "  ", value, (f"  ({one['source']})", "dim"))
        line()
    line(*_summary(diagnosis))


def _print_finding(finding: Finding, several: bool) -> None:
    where = finding.where if several or finding.check not in _OF_SERVERS else ""
    found = f"{where}: {finding.found}" if where else finding.found
    heading: list[Part] = [status(finding.level, WIDTHS["level"]), finding.check.ljust(WIDTHS["check"])]
    indent = " " * (2 if _is_narrow() else sum(WIDTHS.values()))
    texts = _wrapped(found, len(indent))
    if _is_narrow():
        line(*heading)
    else:
        line(*heading, texts.pop(0))
    for one in texts:
        line(indent, one)
    if finding.remedy:
        first, *rest = _wrapped(finding.remedy, len(indent) + 3)
        line(indent, ("-> ", "dim"), first)
        for one in rest:
            line(indent, "   ", one)


def _is_narrow() -> bool:
    return sys.stdout.isatty() and console(sys.stdout).width < NARROW


def _wrapped(text: str, indent: int) -> list[str]:
    """Wraps a text to the terminal's width; elsewhere it stays on one line."""
    if not sys.stdout.isatty():
        return [text]
    room = console(sys.stdout).width - indent
    return textwrap.wrap(text, max(room, 1), break_long_words=False, break_on_hyphens=False) or [""]


# Checks whose findings name a server; with only one server that need not be repeated.
_OF_SERVERS = frozenset(
    (
        *("clock", "cluster", "connections", "encoding", "eviction", "latency", "log-rewrite"),
        *("memory", "persistence", "replication", "rights", "server"),
    )
)


def _summary(diagnosis: Diagnosis) -> tuple[Part, ...]:
    counts = [
        (diagnosis.count("problem"), "problem", "bold red"),
        (diagnosis.count("warning"), "warning", "yellow"),
    ]
    found: list[Part] = [
        (f"{number} {word}{'' if number == 1 else 's'}", style) for number, word, style in counts if number
    ]
    if left := diagnosis.count("unknown"):
        found.append((f"{left} could not be checked", "yellow"))
    if not found:
        return (("nothing to do", "bold green"),)
    return tuple(part for one in found for part in (", ", one))[1:]
