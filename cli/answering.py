"""`polos suspensions` and `polos resume`: what waits for a person, and the answer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polos_redis.client import PolosClient
from polos_redis.decisions.answers import Resumed
from polos_redis.errors import AmbiguousSuspensionError, ResumeError

from .account import answer_line, asked_of
from .executions import Cursor, Limit
from .options import PATIENCE_SECONDS, By, Json, Namespace, Patience, Url, ask, client_of, who
from .output import compact, line, moment, note, print_json, since, table, until
from .values import UsageError, read_json


class NothingOpenError(ResumeError):
    """No suspension of the execution is open, and none was named."""


def add_to(app: typer.Typer) -> None:
    app.command(short_help="List what waits for a person.")(suspensions)
    app.command(short_help="Answer what waits for a person.")(resume)


def suspensions(
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
    """List what waits for a person, oldest first: since when, until when, and what is shown.

    \b
    Examples:
      polos suspensions
      polos suspensions --workflow charge --json
    """
    client = client_of(url, namespace, patience)
    page = ask(client, lambda: client.list_suspensions(workflow=workflow, limit=limit, cursor=cursor))
    if json:
        print_json({"suspensions": list(page), "next_cursor": page.next_cursor})
        return
    _print_suspensions(list(page))
    if page.next_cursor is not None:
        note(f"there are more: --cursor {page.next_cursor}")


def _print_suspensions(rows: list[dict[str, Any]]) -> None:
    import sys

    if not rows:
        note("nothing waits for a person")
    elif sys.stdout.isatty():
        for row in rows:
            line((row["step_key"], "bold yellow"), f" of {row['workflow_id']}")
            line(("  waits   ", "dim"), f"{since(row['opened_at'])}, {until(row['expires_at'])}")
            line(("  shown   ", "dim"), compact(row["data"]))
            if asks := asked_of(row):
                line(("  asks    ", "dim"), asks)
            line(("  answer  ", "dim"), answer_line(row["execution_id"], row["step_key"]))
    else:
        titles = ("ID", "SINCE", "UNTIL", "STEP", "WORKFLOW", "SHOWN")
        table(
            titles,
            [
                (
                    row["execution_id"],
                    moment(row["opened_at"]),
                    moment(row["expires_at"]),
                    row["step_key"],
                    row["workflow_id"],
                    compact(row["data"]),
                )
                for row in rows
            ],
        )


def resume(
    execution_id: Annotated[str, typer.Argument(metavar="EXECUTION_ID", help="The execution that waits.")],
    step_key: Annotated[
        str | None,
        typer.Argument(metavar="STEP_KEY", help="Which suspension; not needed when only one is open."),
    ] = None,
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
        str | None, typer.Option("--reason", metavar="TEXT", help="With --approve or --reject: why.")
    ] = None,
    by: By = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="A group that who answers belongs to; may be repeated."),
    ] = None,
    early: Annotated[
        bool,
        typer.Option("--early", help="Keep the answer if the suspension is not open yet; needs STEP_KEY."),
    ] = False,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Answer a suspension. Exactly one answer counts; the same one again changes nothing. Where several
    people have to agree, one of them is recorded.

    Any refusal (answered otherwise before, not the type that is asked for, not an approver, timed out, ended,
    no such suspension) is one sentence and exit code 1.

    \b
    Examples:
      polos resume 3f2a... --approve
      polos resume 3f2a... high_value_approval --reject --reason 'too much' --by alice
      polos resume 3f2a... high_value_approval --data '{"approved": true, "limit": 100}'
    """
    answer = _answer(data, approve, reject, reason)
    if early and step_key is None:
        raise UsageError("--early needs STEP_KEY: a suspension that is not open yet can't be found by itself")
    client, name = client_of(url, namespace, patience), who(by)
    resumed = ask(client, lambda: _resume(client, execution_id, step_key, answer, name, group or [], early))
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
        line(*_told(resumed))


def _answer(data: str | None, approve: bool, reject: bool, reason: str | None) -> Any:
    ways = [
        word
        for word, given in (("--data", data is not None), ("--approve", approve), ("--reject", reject))
        if given
    ]
    if len(ways) != 1:
        raise UsageError(
            f"{' and '.join(ways)} contradict each other: give one of them"
            if ways
            else "what is the answer? give --approve, --reject or --data"
        )
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
        execution_id, step_key = the_one(await client.get_execution(execution_id))
    return await client.resume(
        suspend_execution_id=execution_id,
        suspend_step_key=step_key,
        data=answer,
        resumed_by=by,
        groups=groups,
        early=early,
        channel="cli",
    )


def the_one(found: dict[str, Any]) -> tuple[str, str]:
    """The suspension that is meant when none is named, execution and step key: the open one, of a descendant
    too, else the only one there ever was (the store then says what became of it, and takes the same answer
    again for what it is)."""
    below = found["open_suspensions_below"]
    open_ones = found["open_suspensions"] + below
    for rows in (open_ones, found["suspensions"]):
        if len(rows) == 1:
            return str(rows[0]["execution_id"]), str(rows[0]["step_key"])
        if rows and rows is open_ones:
            named = [row["step_key"] for row in found["open_suspensions"]]
            named += [f"{row['step_key']} of {row['execution_id']}" for row in below]
            raise AmbiguousSuspensionError(found["id"], named)
    past = "; ".join(_past(row) for row in found["suspensions"])
    raise NothingOpenError(
        f"execution {found['id']} waits for no answer: it is {found['status']}"
        + (f", and {past}" if past else " and has had no suspension so far")
    )


def _past(row: dict[str, Any]) -> str:
    by = f" by {row['resumed_by']}" if row["resumed_by"] else ""
    return f"{row['step_key']!r} was {row['status']}{by} at {moment(row['decided_at'])}"


def _told(resumed: Resumed) -> tuple[Any, ...]:
    who = f" by {resumed.resumed_by}" if resumed.resumed_by else ""
    at = moment(resumed.resumed_at.isoformat())
    what = f"{resumed.step_key} of {resumed.execution_id}"
    if resumed.outcome == "accepted":
        return ("accepted", "bold green"), f": {what} is answered{who}"
    if resumed.outcome == "recorded":
        count = f"{resumed.approvals} of {resumed.required}"
        return ("recorded", "bold"), f", {count}: {what} waits for more answers like this{who}"
    if resumed.outcome == "same":
        return ("same answer again", "bold"), f": {what} was answered so{who} at {at}; nothing was changed"
    return ("kept", "bold"), f": {what} is not open yet; the answer{who} is used when it opens"
