"""`polos events` and `polos tail`: the events of an execution, of a topic, and of all executions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

import typer

from polos_redis import events as event_streams
from polos_redis.client import PolosClient
from polos_redis.events import Event
from polos_redis.state.keys import root_of

from . import commands
from .all_executions import AllExecutions
from .completion import unfinished_ids
from .options import ConnectionOptions, ExecutionId
from .output import compact, line, note, print_json
from .usage import UsageError

NEW_ONLY = "$"
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def add_to(app: typer.Typer) -> None:
    commands.add(app, events, "Follow the events of an execution.")
    commands.add(app, tail, "Follow new events, of all executions too.")


def events(execution_id: ExecutionId, *, connection: ConnectionOptions, json: JsonLines = False) -> None:
    """Print the events of an execution, from the first one, and follow new ones until it finishes.

    \b
    Examples:
      polos events 3f2a...
      polos events 3f2a... --json | jq 'select(.event_type == "workflow_finish")'
    """

    async def follow(client: PolosClient) -> None:
        stream = event_streams.stream_workflow(client, "", execution_id, plain=True)
        await _print_all(stream, execution_id, json)

    connection.run(follow)


def tail(
    execution_id: Annotated[
        str | None,
        typer.Argument(
            metavar="EXECUTION_ID",
            help="Follow this execution until it finishes: its id, or the beginning if unique.",
            autocompletion=unfinished_ids,
        ),
    ] = None,
    topic: Annotated[
        str | None, typer.Option("--topic", metavar="TOPIC", help="Follow this topic instead.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Follow all executions instead.")] = False,
    *,
    connection: ConnectionOptions,
    json: JsonLines = False,
) -> None:
    """Print events as they happen from now on: of an execution until it finishes, of a topic, or of all
    executions.

    --all follows the 100 newest executions with their descendants. Each costs Redis a stream of its events,
    which an execution that nobody follows does without.

    \b
    Examples:
      polos tail 3f2a...
      polos tail --topic orders --json | jq .data
      polos tail --all
    """
    if (execution_id is not None) + (topic is not None) + all_ != 1:
        raise UsageError("say what to follow: an EXECUTION_ID, --topic TOPIC or --all")

    async def follow(client: PolosClient) -> None:
        if all_:
            await AllExecutions(client, lambda event: _print(event, None, json)).follow()
            return
        stream = await event_streams.follow(
            client,
            topic or root_of(execution_id or ""),
            execution_id=execution_id,
            last_event_id=NEW_ONLY,
            plain=True,
        )
        if stream is None:
            note(f"execution {execution_id} has finished: polos events {execution_id}")
        else:
            note(f"following {f'topic {topic}' if topic else f'execution {execution_id}'} (Ctrl-C ends it)")
            await _print_all(stream, execution_id, json)

    with contextlib.suppress(KeyboardInterrupt):  # the only way to end it
        connection.run(follow)


async def _print_all(stream: AsyncIterator[Event], execution_id: str | None, json: bool) -> None:
    async for event in stream:
        _print(event, execution_id, json)


def _print(event: Event, execution_id: str | None, json: bool) -> None:
    """Prints an event, with its execution unless that is `execution_id`."""
    at = event.created_at.isoformat(timespec="milliseconds")
    if json:
        fields = {name: getattr(event, name) for name in ("id", "sequence_id", "topic", "event_type", "data")}
        print_json({**fields, "created_at": at, "metadata": event.metadata}, indent=None)
    else:
        source = event.metadata.get("execution_id")
        of = f"  of {source}" if source not in (None, execution_id) else ""
        line((at, "dim"), "  ", (event.event_type.ljust(16), "bold"), "  ", compact(event.data), (of, "dim"))
