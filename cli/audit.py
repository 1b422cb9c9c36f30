"""`polos audit`: who decided what about an execution."""

from __future__ import annotations

from typing import Any

import typer

from . import commands
from .options import ConnectionOptions, ExecutionId, Full, Json
from .output import Long, compact, note, print_json, shortening
from .tables import table
from .times import utc


def add_to(app: typer.Typer) -> None:
    commands.add(app, audit, "Show who decided what, when and how.")


def audit(
    execution_id: ExecutionId, full: Full = False, *, connection: ConnectionOptions, json: Json = False
) -> None:
    """Show who decided the suspensions of an execution and its descendants: when, through which channel, and
    the digest of the data shown. The audit outlives the execution (a year by default).

    \b
    Examples:
      polos audit 3f2a...
      polos audit 3f2a... --json | jq '.[] | select(.by == "alice")'
    """
    entries = connection.run(lambda client: client.audit(execution_id))
    if json:
        print_json(entries)
    elif not entries:
        note("no decisions yet")
    else:
        titles = ("AT", "STEP", "WHAT", "BY", "CHANNEL", "ANSWER", "SHOWN", "REASON")
        with shortening(full):
            table(titles, [_row(entry, execution_id) for entry in entries])


def _row(entry: dict[str, Any], execution_id: str) -> tuple[str, ...]:
    descendant = "" if entry["execution_id"] == execution_id else f" of {entry['execution_id']}"
    return (
        utc(entry["at"]),
        entry["step_key"] + descendant,
        entry["status"],
        entry["by"] or "",
        entry["channel"] or "",
        "" if entry["data"] is None else compact(entry["data"]),
        (entry["digest"] or "")[:16],
        Long(entry["reason"] or ""),
    )
