"""`polos audit` and `polos delete`: what was decided, and an end to what is kept."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from .executions import Id
from .options import PATIENCE_SECONDS, Json, Namespace, Patience, Url, ask, client_of
from .output import compact, line, moment, note, print_json, table
from .values import UsageError


def add_to(app: typer.Typer) -> None:
    app.command(short_help="Show who decided what, when and how.")(audit)
    app.command(short_help="Delete all that is kept of an execution.")(delete)


def audit(
    execution_id: Id,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Show the audit of an execution's suspensions, and of its descendants': who decided what, when, by which
    way, and the digest of what they were shown. It is kept for longer than the execution (a year).

    \b
    Examples:
      polos audit 3f2a...
      polos audit 3f2a... --json | jq '.[] | select(.by == "alice")'
    """
    client = client_of(url, namespace, patience)
    found = ask(client, lambda: client.audit(execution_id))
    if json:
        print_json(found)
    elif not found:
        note("nothing has been decided so far")
    else:
        _print(found, execution_id)


def _print(found: list[dict[str, Any]], execution_id: str) -> None:
    titles = ("AT", "STEP", "WHAT", "BY", "CHANNEL", "ANSWER", "SHOWN")
    rows = []
    for one in found:
        below = "" if one["execution_id"] == execution_id else f" of {one['execution_id']}"
        answer = "" if one["data"] is None else compact(one["data"])
        digest = (one["digest"] or "")[:16]
        rows.append(
            (
                moment(one["at"]),
                one["step_key"] + below,
                one["status"],
                one["by"] or "",
                one["channel"] or "",
                answer,
                digest,
            )
        )
    table(titles, rows)


def delete(
    execution_id: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Delete an execution that has ended, with its descendants: input, results, journal, events. Of its audit
    who, when and what it was about stay; the answers go. It can't be undone.

    \b
    Example:
      polos delete 3f2a... --yes
    """
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("polos delete asks before it deletes, and there is nobody to ask: give --yes")
        typer.confirm(f"Delete all that is kept of {execution_id}?", abort=True)
    client = client_of(url, namespace, patience)
    count = ask(client, lambda: client.delete(execution_id))
    if json:
        print_json({"id": execution_id, "deleted": count})
    else:
        line(("deleted", "bold"), f": {count} execution{'' if count == 1 else 's'}")
