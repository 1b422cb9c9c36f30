"""`polos suspensions` and `polos resume`: list open suspensions and answer them."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Any

import typer

from polos_redis.client import PolosClient
from polos_redis.decisions.answer_types import verdict
from polos_redis.decisions.answers import Resumed
from polos_redis.errors import AmbiguousSuspensionError, ResumeError
from polos_redis.values import schemas

from . import commands
from .json_option import read_json
from .options import (
    AnswerableId,
    By,
    ConnectionOptions,
    Cursor,
    DurableOptions,
    Full,
    Json,
    Limit,
    OfWorkflow,
    StepKey,
    person,
)
from .output import Part, compact, line, note, print_json, shortening
from .tables import table
from .times import since, until, utc
from .usage import UsageError


class NothingOpenError(ResumeError):
    """The execution has no open suspension, and the command named none."""


def add_to(app: typer.Typer) -> None:
    commands.add(app, suspensions, "List what waits for a person.")
    commands.add(app, resume, "Answer a suspension.")


# --- listing --------------------------------------------------------------------------------


def suspensions(
    workflow: OfWorkflow = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    full: Full = False,
    *,
    connection: ConnectionOptions,
    json: Json = False,
) -> None:
    """List open suspensions, oldest first: when each was opened, its deadline, and the data it shows.

    \b
    Examples:
      polos suspensions
      polos suspensions --workflow charge --json
    """
    page = connection.run(
        lambda client: client.list_suspensions(workflow=workflow, limit=limit, cursor=cursor)
    )
    if json:
        print_json({"suspensions": list(page), "next_cursor": page.next_cursor})
        return
    with shortening(full):
        _print_suspensions(list(page))
    if page.next_cursor is not None:
        note(f"more results: --cursor {page.next_cursor}")


def _print_suspensions(rows: list[dict[str, Any]]) -> None:
    if not rows:
        note("no open suspensions")
    elif sys.stdout.isatty():
        for row in rows:
            line((row["step_key"], "bold yellow"), f" of {row['workflow_id']}")
            line(
                ("  waits   ", "dim"),
                f"{since(row['opened_at'])}, {until(row['expires_at'])}{not_reached(row)}",
            )
            line(("  shown   ", "dim"), compact(row["data"]))
            if needed := requirements(row):
                line(("  needs   ", "dim"), needed)
            line(("  answer  ", "dim"), resume_command(row["execution_id"], row["step_key"]))
    else:
        titles = ("ID", "SINCE", "UNTIL", "STEP", "WORKFLOW", "SHOWN")
        table(titles, [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["execution_id"],
        utc(row["opened_at"]),
        utc(row["expires_at"]),
        row["step_key"] + not_reached(row),
        row["workflow_id"],
        compact(row["data"]),
    )


def not_reached(suspension: dict[str, Any]) -> str:
    """Returns a remark if the execution's code no longer reaches this open suspension; else ""."""
    return " (not reached by its code now)" if suspension["unreached"] else ""


def requirements(suspension: dict[str, Any]) -> str:
    """Returns who must answer a suspension, how often and with what; "" if anybody may answer anything."""
    found = []
    approvals = sum(verdict(decision["data"]) is True for decision in suspension["decisions"])
    if suspension["approvers"]:
        found.append(f"approvers: {', '.join(suspension['approvers'])}")
    if suspension["required"] > 1:
        found.append(f"{approvals} of {suspension['required']} approvals")
    if suspension["rejections"] > 1:
        rejections = len(suspension["decisions"]) - approvals
        found.append(f"{rejections} of {suspension['rejections']} rejections")
    if not suspension["allow_self"]:
        found.append("not the person who started it")
    if suspension["schema"]:
        fields = schemas.properties(suspension["schema"])
        found.append(f"fields: {', '.join(fields)}" if fields else "an answer of its own type")
    if suspension["reject_schema"]:
        found.append(f"to reject: {', '.join(schemas.properties(suspension['reject_schema']))}")
    return "; ".join(found)


def resume_command(execution_id: str, step_key: str, *, schema: dict[str, Any] | None = None) -> str:
    """Returns the shell command that answers a suspension."""
    answer = ["--approve"]
    if schema is not None and schemas.sample(schema) != {"approved": True}:
        answer = ["--data", compact(schemas.sample(schema))]
    return shlex.join(["polos", "resume", execution_id, step_key, *answer])


# --- answering ------------------------------------------------------------------------------


def resume(
    execution_id: AnswerableId,
    step_key: StepKey = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON|@FILE|-", help="The answer: JSON, @file, or - for stdin."),
    ] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="Short for --data '{\"approved\": true}'.")
    ] = False,
    reject: Annotated[
        bool, typer.Option("--reject", help="Short for --data '{\"approved\": false}'.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="With --approve or --reject: the reason.")
    ] = None,
    by: By = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="A group that you belong to. Repeatable."),
    ] = None,
    early: Annotated[
        bool,
        typer.Option(
            "--early",
            help="If the suspension is not open yet, store the answer until it is. Needs STEP_KEY and the id "
            "of the execution that will suspend, not of its root.",
        ),
    ] = False,
    *,
    connection: DurableOptions,
    json: Json = False,
) -> None:
    """Answer a suspension. The first answer stands; repeating it changes nothing. A suspension that needs
    several approvals records yours and stays open until it has enough.

    A refused answer (already decided differently, wrong type, not an approver, timed out, finished, unknown)
    is reported in one sentence with exit code 1.

    \b
    Examples:
      polos resume 3f2a... --approve
      polos resume 3f2a... high_value_approval --reject --reason 'too much' --by alice
      polos resume 3f2a... high_value_approval --data '{"approved": true, "limit": 100}'
    """
    answer = _answer(data, approve, reject, reason)
    if early and step_key is None:
        raise UsageError("--early needs STEP_KEY: a suspension that is not open yet can't be looked up")
    name = person(by)
    resumed = connection.run(
        lambda client: _resume(client, execution_id, step_key, answer, name, group or [], early)
    )
    if json:
        print_json(
            {
                "outcome": resumed.outcome,
                "execution_id": resumed.execution_id,
                "step_key": resumed.step_key,
                "resumed_by": resumed.resumed_by,
                "resumed_at": resumed.resumed_at.isoformat(timespec="milliseconds"),
                "approvals": resumed.approvals,
                "required": resumed.required,
            }
        )
    else:
        line(*_outcome(resumed))


def _answer(data: str | None, approve: bool, reject: bool, reason: str | None) -> Any:
    options = (("--data", data is not None), ("--approve", approve), ("--reject", reject))
    used = [option for option, present in options if present]
    if not used:
        raise UsageError("pass the answer: --approve, --reject or --data")
    if len(used) > 1:
        raise UsageError(f"{' and '.join(used)} contradict each other: pass one of them")
    if data is not None:
        if reason is not None:
            raise UsageError("--reason goes with --approve or --reject: with --data, put it into the data")
        return read_json("--data", data)
    return {"approved": approve} if reason is None else {"approved": approve, "reason": reason}


async def _resume(
    client: PolosClient,
    execution_id: str,
    step_key: str | None,
    answer: Any,
    by: str | None,
    groups: list[str],
    early: bool,
) -> Resumed:
    if step_key is None:
        execution_id, step_key = only_suspension(await client.get_execution(execution_id))
    return await client.resume(
        suspend_execution_id=execution_id,
        suspend_step_key=step_key,
        data=answer,
        resumed_by=by,
        groups=groups,
        early=early,
        channel="cli",
    )


def only_suspension(execution: dict[str, Any]) -> tuple[str, str]:
    """Returns the execution id and step key of the one open suspension of an execution or its descendants. If
    none is open, returns the only suspension there has been, so that repeating an answer works.

    Raises `AmbiguousSuspensionError` if several are open, `NothingOpenError` if none fits.
    """
    below = execution["open_suspensions_below"]
    open_rows = execution["open_suspensions"] + below
    for rows in (open_rows, execution["suspensions"]):
        if len(rows) == 1:
            return str(rows[0]["execution_id"]), str(rows[0]["step_key"])
        if rows and rows is open_rows:
            names = [row["step_key"] for row in execution["open_suspensions"]]
            names += [f"{row['step_key']} of {row['execution_id']}" for row in below]
            raise AmbiguousSuspensionError(execution["id"], names)
    past = "; ".join(_past(row) for row in execution["suspensions"])
    raise NothingOpenError(
        f"execution {execution['id']} has no open suspension: it is {execution['status']}; "
        + (past or "it has never had one")
    )


def _past(row: dict[str, Any]) -> str:
    by = f" by {row['resumed_by']}" if row["resumed_by"] else ""
    return f"{row['step_key']!r} was {row['status']}{by} at {utc(row['decided_at'])}"


def _outcome(resumed: Resumed) -> tuple[Part, ...]:
    by = f" by {resumed.resumed_by}" if resumed.resumed_by else ""
    suspension = f"{resumed.step_key} of {resumed.execution_id}"
    if resumed.outcome == "accepted":
        return ("accepted", "bold green"), f": {suspension} was answered{by}"
    if resumed.outcome == "recorded":
        return (
            "recorded",
            "bold",
        ), f"{by}: {suspension} has {resumed.approvals} of {resumed.required} approvals"
    if resumed.outcome == "same":
        at = utc(resumed.resumed_at)
        return ("unchanged", "bold"), f": {suspension} already has this answer, given{by} at {at}"
    return ("stored", "bold"), f": {suspension} is not open yet; it will get the answer{by} when it opens"
