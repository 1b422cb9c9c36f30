"""`polos invoke`: start an execution, and wait for its end."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from polos_redis.client import PolosClient
from polos_redis.workflow import InvokeOptions

from .options import PATIENCE_SECONDS, Json, Namespace, Patience, Url, ask, client_of
from .output import compact, note, print_json, printable
from .values import UsageError, read_json


def add_to(app: typer.Typer) -> None:
    app.command(short_help="Start an execution, and wait for its end.")(invoke)


def invoke(
    workflow_id: Annotated[str, typer.Argument(metavar="WORKFLOW_ID", help="The workflow's id.")],
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="JSON|@FILE|-", help="Its input: JSON, @file, or - for stdin."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the end and print the result.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="With --wait: give up waiting after so long."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Start one execution for this key and the workflow, however often it is asked.",
        ),
    ] = None,
    delay: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Start it after so long.")
    ] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="The queue it waits in, instead of the workflow's own.")
    ] = None,
    concurrency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The queue's limit counts for each key by itself.")
    ] = None,
    run_timeout: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="It fails when it has not ended by then, waiting included."
        ),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="The session it belongs to, for its code to see.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="ID", help="The user it is for, for its code to see.")
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
    patience: Patience = PATIENCE_SECONDS,
    json: Json = False,
) -> None:
    """Start an execution of a workflow. Prints its id, or with --wait its result as JSON.

    The workflow's code is not needed here: a worker has it, and checks the input. With --wait the exit code
    is 1 when the execution fails, is cancelled, or has not ended in time (it goes on then).

    \b
    Examples:
      polos invoke charge --input '{"customer_id": "cust_123", "amount": 5000}'
      polos invoke charge --input @request.json --wait --timeout 60
      echo '{"amount": 5}' | polos invoke charge --input - --json
      polos invoke charge --input @request.json --idempotency-key order-1234 --delay 60
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout is for waiting: give --wait too")
    value = None if input is None else read_json("--input", input)
    given: InvokeOptions = {
        "idempotency_key": idempotency_key,
        "start_delay": delay,
        "queue": queue,
        "concurrency_key": concurrency_key,
        "run_timeout_seconds": run_timeout,
        "session_id": session,
        "user_id": user,
    }
    client = client_of(url, namespace, patience)
    code = ask(client, lambda: _invoke(client, workflow_id, value, given, wait, timeout, json))
    raise typer.Exit(code)


async def _invoke(
    client: PolosClient,
    workflow_id: str,
    value: Any,
    options: InvokeOptions,
    wait: bool,
    timeout: float | None,
    json: bool,
) -> int:
    served = await client.served_workflows()
    if workflow_id not in served:
        note(f"polos: warning: {_unserved(workflow_id, served)}")
    handle = await client.invoke(workflow_id, value, **options)
    if not wait:
        if json:
            print_json({"id": handle.id, "workflow_id": workflow_id})
        else:
            print(handle.id, flush=True)
        return 0
    if not json:
        note(f"started {handle.id}")
    try:
        async with asyncio.timeout(timeout):
            await client.wait_for_end(handle.id)
    except TimeoutError:
        pass
    found = await client.get_execution(handle.id)
    if json:
        print_json({name: found[name] for name in ("id", "workflow_id", "status", "result", "error")})
    if found["status"] == "completed":
        if not json:
            print_json(found["result"])
        return 0
    note(f"polos: {_unfinished(found, timeout)}")
    return 1


def _unserved(workflow_id: str, served: set[str]) -> str:
    known = ", ".join(map(repr, sorted(served)))
    return printable(
        f"no worker announces the workflow {workflow_id!r}, so it waits for one that does"
        + (f" (announced: {known})" if known else " (no worker runs)")
    )


def _unfinished(found: dict[str, Any], timeout: float | None) -> str:
    name, status, error = found["id"], found["status"], found["error"]
    if status == "failed":
        said = f"{error['type']}: {error['message']}" if error else "for an unknown reason"
        return printable(f"execution {name} failed: {said} (`polos show {name}` has the traceback)")
    if status == "cancelled":
        by = found["cancelled_by"]
        return printable(f"execution {name} was cancelled" + (f" by {by}" if by else ""))
    waits = [one["step_key"] for one in found["open_suspensions"]]
    what = f": it waits for an answer to {', '.join(map(compact, waits))}" if waits else ""
    return printable(f"execution {name} has not ended within {timeout:g} s{what}; it goes on")
