"""`polos list`, `show`, `cancel`, `retry`, `fork` and `delete`: existing executions."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from polos_redis.executions.statuses import details
from polos_redis.values.json_value import from_json

from . import commands
from .execution_report import print_report
from .json_option import read_json
from .options import (
    By,
    ConnectionOptions,
    Cursor,
    DeletableId,
    DurableOptions,
    ExecutionId,
    Full,
    Json,
    Limit,
    OfWorkflow,
    RetryableId,
    UnfinishedId,
    person,
)
from .output import Long, line, note, print_json, shortening, status, write
from .tables import table
from .times import ago, in_words
from .usage import UsageError


class Status(StrEnum):
    queued = "queued"
    running = "running"
    waiting = "waiting"
    stuck = "stuck"
    paused = "paused"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


def add_to(app: typer.Typer) -> None:
    commands.add(app, list_executions, "List executions, newest first.", "list")
    commands.add(app, show, "Show everything about an execution.")
    commands.add(app, cancel, "Cancel an execution.")
    commands.add(app, retry, "Retry a failed, stuck or paused execution.")
    commands.add(app, fork, "Start a new execution from a step of another one.")
    commands.add(app, delete, "Delete a finished execution.")


def list_executions(
    status_: Annotated[Status | None, typer.Option("--status", help="Only those with this status.")] = None,
    workflow: OfWorkflow = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    full: Full = False,
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """List executions, newest first, and what each is doing: the step that runs, or what it waits for.

    \b
    Examples:
      polos list
      polos list --status waiting --workflow charge --limit 10
      polos list --json | jq -r '.executions[].id'
    """
    status_name = None if status_ is None else status_.value
    page = connection.run(
        lambda client: client.list_executions(
            status=status_name, workflow=workflow, limit=limit, cursor=cursor
        )
    )
    if json:
        print_json({"executions": list(page), "next_cursor": page.next_cursor})
        return
    shows_versions = any(row["version"] for row in page)
    shows_details = any(map(details, page))
    rows = [
        (
            row["id"],
            status(row["status"]),
            ago(row["created_at"]),
            ago(row["finished_at"]),
            row["workflow_id"],
            *((row["version"] or "-",) if shows_versions else ()),
            *((Long(in_words(details(row), brief=True)),) if shows_details else ()),
        )
        for row in page
    ]
    if rows:
        more = ("VERSION",) * shows_versions + ("DETAILS",) * shows_details
        with shortening(full):
            table(("ID", "STATUS", "CREATED", "FINISHED", "WORKFLOW", *more), rows)
    else:
        note("no executions")
    if page.next_cursor is not None:
        note(f"more results: --cursor {page.next_cursor}")


def show(
    execution_id: ExecutionId, full: Full = False, *, connection: ConnectionOptions, json: Json = False
) -> None:
    """Show everything about an execution: status, input, steps, open waits, decisions, error. A terminal
    shows up to three lines of each value; --full shows all, and all frames of tracebacks instead of those of
    your code.

    \b
    Examples:
      polos show 3f2a...
      polos show 3f2a... --json | jq .steps
    """
    execution = connection.run(lambda client: client.get_execution(execution_id))
    if json:
        print_json(execution)
    else:
        with shortening(full):
            print_report(execution, full=full)


def cancel(
    execution_id: UnfinishedId, by: By = None, *, connection: DurableOptions, json: Json = False
) -> None:
    """Cancel an execution and its children: no further step starts, and open suspensions are closed.

    \b
    Example:
      polos cancel 3f2a... --by alice
    """
    name = person(by)
    connection.run(lambda client: client.cancel(execution_id, cancelled_by=name))
    if json:
        print_json({"id": execution_id, "status": "cancelled", "cancelled_by": name})
    else:
        line("cancelled ", (execution_id, "bold"))


def retry(
    execution_id: RetryableId,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            "--skip",
            metavar="STEP_KEY",
            help="Pass over the accepted answer of this suspension. May be repeated.",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why it is passed over, for the audit.")
    ] = None,
    by: By = None,
    *,
    connection: DurableOptions,
    json: Json = False,
) -> None:
    """Retry a failed, stuck or paused execution from its journal, as a new run.

    Whatever succeeded keeps its result; of a failed or paused execution, whatever failed, timed out or was
    closed runs again, children too. A paused one keeps its open waits. A stuck one goes on from its whole
    journal: deploy code that reaches the answers it must not pass over, or skip them.

    \b
    Examples:
      polos retry 3f2a...
      polos retry 3f2a... --skip review --reason 'the review was asked for twice'
    """
    if skip and not reason:
        raise UsageError("--skip needs --reason: say why an accepted answer is passed over")
    if reason is not None and not skip:
        raise UsageError("--reason is for --skip: name the step key of an accepted answer to pass over")
    name = person(by)
    run = connection.run(lambda client: client.retry(execution_id, skip=skip or (), reason=reason, by=name))
    if json:
        print_json({"id": execution_id, "run": run})
    else:
        skipped = f", skipping {', '.join(skip)}" if skip else ""
        line("retrying ", (execution_id, "bold"), f" as run {run}{skipped}")


def fork(
    execution_id: ExecutionId,
    from_step: Annotated[
        str, typer.Option("--from", metavar="STEP_KEY", help="The first step that the fork runs again.")
    ],
    results: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="STEP_KEY=JSON",
            help="Another result for a step: JSON, @file, or - for stdin. May be repeated.",
        ),
    ] = None,
    keep_decisions: Annotated[
        bool,
        typer.Option("--keep-decisions", help="Copy the answers of people instead of asking again."),
    ] = False,
    by: By = None,
    *,
    connection: DurableOptions,
    json: Json = False,
) -> None:
    """Start a new execution with the input and the journal of another one up to a step, and print its id.

    It runs that step and what had not ended when the step began; earlier results are copied, those of
    children as well, with what people have decided in them. The execution's own questions are asked again,
    unless --keep-decisions copies the answers, which the audit notes. The other execution is left as it is,
    running or not. With --set, a copied step has another result, or the step of --from has one and does not
    run; it is refused where a copied decision, or a child, came after that step, as people may have decided
    on what it had returned.

    \b
    Examples:
      polos fork 3f2a... --from charge
      polos fork 3f2a... --from charge --set 'quote={"amount": 4200}'
      polos fork 3f2a... --from ship --keep-decisions --by alice
    """
    values = dict(map(_result, results or ()))
    name = person(by)
    handle = connection.run(
        lambda client: client.fork(
            execution_id, from_step=from_step, results=values, keep_decisions=keep_decisions, by=name
        )
    )
    if json:
        print_json({"id": handle.id, "workflow_id": handle.workflow_id, "forked_from": execution_id})
    else:
        write(handle.id)


def _result(given: str) -> tuple[str, Any]:
    """Returns the step key and the value of --set."""
    key, equals, value = given.partition("=")
    if not equals or not key:
        raise UsageError(f"--set must be STEP_KEY=JSON, not {given!r}")
    return key, from_json(read_json(f"--set {key}", value))


def delete(
    execution_id: DeletableId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    *,
    connection: DurableOptions,
    json: Json = False,
) -> None:
    """Delete a finished execution and its descendants: input, results, journal, events. The audit keeps who
    decided, when, and the digest of the data shown, but loses the answers. This can't be undone.

    \b
    Example:
      polos delete 3f2a... --yes
    """
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("polos delete asks for confirmation, but there is no terminal: pass --yes")
        typer.confirm(f"Delete execution {execution_id} and its descendants?", abort=True)
    count = connection.run(lambda client: client.delete(execution_id))
    if json:
        print_json({"id": execution_id, "deleted": count})
    else:
        line(("deleted", "bold"), f": {count} execution{'' if count == 1 else 's'}")
