"""`polos invoke`: start an execution and, with --wait, wait for its result."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from polos_redis.client import PolosClient
from polos_redis.executions.statuses import in_text, sentence
from polos_redis.values.json_value import from_json
from polos_redis.workflow import InvokeOptions

from . import commands, completion
from .json_option import read_json
from .options import DurableOptions, Json
from .output import note, print_json, printable, write
from .usage import UsageError


def add_to(app: typer.Typer) -> None:
    commands.add(app, invoke, "Start an execution.")


def invoke(
    workflow_id: Annotated[
        str,
        typer.Argument(
            metavar="WORKFLOW_ID", help="The workflow's id.", autocompletion=completion.invocable_workflow_ids
        ),
    ],
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="JSON|@FILE|-", help="The input: JSON, @file, or - for stdin."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait until the execution finishes and print its result.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="With --wait: stop waiting after this time."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Start at most one execution of the workflow for this key."),
    ] = None,
    delay: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Start the execution after this time.")
    ] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="The queue to use instead of the workflow's own.")
    ] = None,
    concurrency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Apply the queue's concurrency limit to this key separately."),
    ] = None,
    run_timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Fail the execution after this time, waits included."),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="A session id for the workflow's code to read.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="ID", help="A user id for the workflow's code to read.")
    ] = None,
    *,
    connection: DurableOptions,
    json: Json = False,
) -> None:
    """Start an execution of a workflow and print its id; with --wait, wait and print its result as JSON.

    The workflow's code is not needed here: the worker that runs it validates the input. With --wait, the exit
    code is 1 if the execution fails, is cancelled, or is still running after --timeout (it keeps running).

    \b
    Examples:
      polos invoke charge --input '{"customer_id": "cust_123", "amount": 5000}'
      polos invoke charge --input @request.json --wait --timeout 60
      echo '{"amount": 5}' | polos invoke charge --input - --json
      polos invoke charge --input @request.json --idempotency-key order-1234 --delay 60
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout needs --wait")
    value = None if input is None else from_json(read_json("--input", input))
    options: InvokeOptions = {
        "idempotency_key": idempotency_key,
        "start_delay": delay,
        "queue": queue,
        "concurrency_key": concurrency_key,
        "run_timeout_seconds": run_timeout,
        "session_id": session,
        "user_id": user,
    }

    async def run(client: PolosClient) -> int:
        execution_id = await _start(client, workflow_id, value, options)
        if wait:
            return await _wait(client, execution_id, timeout, json)
        if json:
            print_json({"id": execution_id, "workflow_id": workflow_id})
        else:
            write(execution_id)
        return 0

    raise typer.Exit(connection.run(run))


async def _start(client: PolosClient, workflow_id: str, value: Any, options: InvokeOptions) -> str:
    served = await client.served_workflows()
    if workflow_id not in served:
        note(f"polos: warning: {_unserved(workflow_id, served)}")
    execution_id = (await client.invoke(workflow_id, value, **options)).id
    if workflow_id in served:
        queue, read = await _queue(client, execution_id), await client.served_queues(workflow_id)
        if queue not in read:
            note(f"polos: warning: {_unread(queue, workflow_id, read)}")
    return execution_id


async def _queue(client: PolosClient, execution_id: str) -> str:
    return str((await client.get_execution(execution_id))["queue"])


async def _wait(client: PolosClient, execution_id: str, timeout: float | None, json: bool) -> int:
    """Waits for the end and prints the result; returns the exit code."""
    if not json:
        note(f"started {execution_id}")
    try:
        async with asyncio.timeout(timeout):
            await client.wait_for_end(execution_id)
    except TimeoutError:
        pass
    execution = await client.get_execution(execution_id)
    if json:
        print_json({name: execution[name] for name in ("id", "workflow_id", "status", "result", "error")})
    if execution["status"] == "completed":
        if not json:
            print_json(execution["result"])
        return 0
    note(f"polos: {_unsuccessful(execution, timeout)}")
    return 1


def _unserved(workflow_id: str, served: set[str]) -> str:
    names = ", ".join(map(repr, sorted(served)))
    return printable(
        f"no worker serves workflow {workflow_id!r}, so the execution stays queued until one does "
        + (f"(served: {names})" if names else "(no worker is running)")
    )


def _unread(queue: str, workflow_id: str, read: set[str]) -> str:
    names = ", ".join(map(repr, sorted(read)))
    return printable(
        f"no worker that serves workflow {workflow_id!r} reads queue {queue!r}, so the execution stays "
        f"queued until one does (read: {names})"
    )


def _unsuccessful(execution: dict[str, Any], timeout: float | None) -> str:
    name, status, error = execution["id"], execution["status"], execution["error"]
    if status == "failed":
        reason = f"{error['type']}: {error['message']}" if error else "for an unknown reason"
        return printable(f"execution {name} failed: {reason} (traceback: `polos show {name}`)")
    if status == "cancelled":
        by = execution["cancelled_by"]
        return printable(f"execution {name} was cancelled" + (f" by {by}" if by else ""))
    doing = in_text(sentence(execution))
    if execution["unserved"]:
        doing += f", and no worker serves its workflow {execution['workflow_id']!r}"
    return printable(f"execution {name} did not finish within {timeout:g} s: it is {doing}")
