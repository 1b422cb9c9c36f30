"""`polos versions`: the versions of workflows that still have open executions."""

from __future__ import annotations

import typer

from . import commands
from .options import ConnectionOptions, Json
from .output import note, print_json
from .tables import table
from .times import ago


def add_to(app: typer.Typer) -> None:
    commands.add(app, versions, "List versions of workflows that have open executions.")


def versions(*, connection: ConnectionOptions, json: Json = False) -> None:
    """List the versions of workflows, how many executions each has started that are still open, the oldest of
    them, and how many workers announce the version. A version without open executions can be switched off.

    The line without a version counts executions that have not started yet, and those of code without one; it
    names no oldest one and no workers.

    \b
    Examples:
      polos versions
      polos versions --json | jq '.[] | select(.open > 0 and .workers == 0)'
    """
    rows = connection.run(lambda client: client.versions())
    if json:
        print_json(rows)
    elif not rows:
        note("no open executions")
    else:
        columns = ("WORKFLOW", "VERSION", "OPEN", "WORKERS", "OLDEST", "CREATED")
        table(
            columns,
            [
                (
                    row["workflow_id"],
                    row["version"] or "-",
                    str(row["open"]),
                    "-" if row["workers"] is None else str(row["workers"]),
                    row["oldest"] or "-",
                    ago(row["oldest_created_at"]),
                )
                for row in rows
            ],
        )
