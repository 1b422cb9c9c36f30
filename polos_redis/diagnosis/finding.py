"""Findings: the results of the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    `check` is the check's name, which does not change. `level` is "problem" for what loses or stops work,
    "warning" for what may or costs more than it should, "unknown" for what could not be checked, else "ok".
    `where` names the server, worker, queue, workflow or execution that it is about, "" for the namespace.
    `found` is one sentence, and `remedy` says what to do, "" for nothing.
    """

    check: str
    level: Level
    where: str
    found: str
    remedy: str = ""


def ok(check: str, where: str, found: str) -> Finding:
    """Returns a finding that needs no action."""
    return Finding(check, "ok", where, found)


def warning(check: str, where: str, found: str, remedy: str) -> Finding:
    """Returns a finding about what may lose or stop work, or costs more than it should."""
    return Finding(check, "warning", where, found, remedy)


def problem(check: str, where: str, found: str, remedy: str) -> Finding:
    """Returns a finding about what loses or stops work."""
    return Finding(check, "problem", where, found, remedy)


def unknown(check: str, where: str, found: str, remedy: str) -> Finding:
    """Returns a finding about what could not be checked."""
    return Finding(check, "unknown", where, found, remedy)


def count(number: int, what: str, plural: str = "") -> str:
    """Returns a number and its noun: "1 worker", "1,200 workers"."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"
