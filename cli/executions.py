"""`polos list`, `show`, `events`, `cancel` and `retry`: executions as they are."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from polos_redis import events as event_streams
from polos_redis.client import PolosClient
from polos_redis.executions.queries import LIST_LIMIT

from . import account
from .options import PATIENCE_SECONDS, By, Json, Namespace, Patience, Url, ask, client_of, who
from .output import compact, line, moment, note, print_json, status, table

Id = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]
Limit = Annotated[int, typer.Option(min=1, max=LIST_LIMIT, help="How many at the most.")]
Cursor = Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on from an earlier page.")]


class Status(StrEnum):
    queued = "queued"
    waiting = "waiting"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


def add_to(app: typer.Typer) -> None:
    app.command("list", short_help="List executions, newest first.")(list_executions)
    app.command(short_help="Show everything about an execution.")(show)
    app.command(short_help="Follow the events of an execution.")(events)
    app.command(short_help="End an execution.")(cancel)
    app.command(short_help="Let a failed execution go on.")(retry)


def list_executions(
    status_: Annotated[Status | None, typer.Option("--status", help="Only these.")] = None,
    workflow: Annotated[
        str | None, typer.Option(metavar="WORKFLOW_ID", help="Only of this workflow.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """List executions, newest first.

    \b
    Examples:
      polos list
      polos list --status waiting --workflow charge --limit 10
      polos list --json | jq -r '.executions[].id'
    """
    client = client_of(url, namespace, patience)
    wanted = None if status_ is None else status_.value
    page = ask(
        client, lambda: client.list_executions(status=wanted, workflow=workflow, limit=limit, cursor=cursor)
    )
    if json:
        print_json({"executions": list(page), "next_cursor": page.next_cursor})
        return
    rows = [
        (
            row["id"],
            status(row["status"]),
            moment(row["created_at"]),
            moment(row["finished_at"]),
            row["workflow_id"],
        )
        for row in page
    ]
    if rows:
        table(("ID", "STATUS", "CREATED", "FINISHED", "WORKFLOW"), rows)
    else:
        note("no executions")
    if page.next_cursor is not None:
        note(f"there are more: --cursor {page.next_cursor}")


def show(
    execution_id: Id,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Show everything about an execution: status, input, steps, what it waits for, who answered, its error.

    \b
    Examples:
      polos show 3f2a...
      polos show 3f2a... --json | jq .steps
    """
    client = client_of(url, namespace, patience)
    found = ask(client, lambda: client.get_execution(execution_id))
    if json:
        print_json(found)
    else:
        account.print_account(found)


def events(
    execution_id: Id,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Follow the events of an execution, from its first to its last.

    \b
    Examples:
      polos events 3f2a...
      polos events 3f2a... --json | jq 'select(.event_type == "workflow_finish")'
    """
    client = client_of(url, namespace, patience)
    ask(client, lambda: _follow(client, execution_id, json))


async def _follow(client: PolosClient, execution_id: str, json: bool) -> None:
    async for event in event_streams.stream_workflow(client, "", execution_id, plain=True):
        at = event.created_at.isoformat(timespec="milliseconds")
        if json:
            told = {
                name: getattr(event, name) for name in ("id", "sequence_id", "topic", "event_type", "data")
            }
            print_json({**told, "created_at": at, "metadata": event.metadata}, indent=None)
        else:
            whose = event.metadata.get("execution_id")
            child = f"  of {whose}" if whose not in (None, execution_id) else ""
            line(
                *((at, "dim"), "  ", (event.event_type.ljust(16), "bold"), "  ", compact(event.data)),
                (child, "dim"),
            )


def cancel(
    execution_id: Id,
    by: By = None,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """End an execution and its children: no step of them begins afterwards, and what waits is closed.

    \b
    Example:
      polos cancel 3f2a... --by alice
    """
    client, name = client_of(url, namespace, patience), who(by)
    ask(client, lambda: client.cancel(execution_id, cancelled_by=name))
    told: dict[str, Any] = {"id": execution_id, "status": "cancelled", "cancelled_by": name}
    if json:
        print_json(told)
    else:
        line("cancelled ", (execution_id, "bold"))


def retry(
    execution_id: Id,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Let a failed execution go on from its journal, as a new run.

    What has succeeded is kept; what failed or timed out is tried again, failed children too.

    \b
    Example:
      polos retry 3f2a...
    """
    client = client_of(url, namespace, patience)
    run = ask(client, lambda: client.retry(execution_id))
    if json:
        print_json({"id": execution_id, "run": run})
    else:
        line("goes on ", (execution_id, "bold"), f" as run {run}")
