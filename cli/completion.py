"""Completes what Redis knows in a shell that has run `polos --install-completion`: ids of executions, of
workflows and of schedules, and keys of open suspensions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import typer

from polos_redis.errors import PolosError

from .ids import full_id, is_beginning, matching_ids

if TYPE_CHECKING:
    from polos_redis.client import PolosClient

MOST = 50  # of the newest executions
SECONDS = 1.0  # a person has pressed Tab and waits
_HARMLESS = re.compile(r"[\w.@/+-]+", re.ASCII)  # zsh evaluates what is completed

Found = list[tuple[str, str]]  # values, and a word about each


def execution_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of the newest executions that begin like the word, or of any others if none do."""

    async def find(client: PolosClient) -> Found:
        page = await client.list_executions(limit=MOST)
        found = [(row["id"], row["status"]) for row in page if row["id"].startswith(incomplete)]
        if not found and is_beginning(incomplete):
            found = [(one, "") for one in sorted({one async for one in matching_ids(client, incomplete)})]
        return found

    return _ask(ctx, incomplete, find)


def workflow_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of the workflows that workers serve or that have executions."""

    async def find(client: PolosClient) -> Found:
        store = await client.store()
        served = set(await store.workers.served())
        listed = {
            one.decode("utf-8", "replace")
            for prefix in store.prefixes
            for one in await store.partitions.workflows(prefix, store.partitions.patience)
        }
        return [(one, "" if one in served else "no worker") for one in sorted(served | listed)]

    return _ask(ctx, incomplete, find)


def open_step_keys(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the keys of the open suspensions of the execution named before, and of those below it."""
    given = ctx.params.get("execution_id")
    if not given:
        return []

    async def find(client: PolosClient) -> Found:
        execution = await client.get_execution(await full_id(client, given) if is_beginning(given) else given)
        rows = execution["open_suspensions"] + execution["open_suspensions_below"]
        return [(row["step_key"], "") for row in rows]

    return _ask(ctx, incomplete, find)


def schedule_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of the schedules."""
    from polos_redis import schedules

    async def find(client: PolosClient) -> Found:
        return [(one.id, "paused" if one.paused else "") for one in await schedules.list(client)]

    return _ask(ctx, incomplete, find)


def _ask(ctx: typer.Context, incomplete: str, find: Callable[[PolosClient], Awaitable[Found]]) -> Found:
    """Returns those found that begin like the word; none if Redis does not answer soon, unless patience is
    asked for."""
    from polos_redis.client import PolosClient

    url, namespace = ctx.params.get("url"), ctx.params.get("namespace")
    source = ctx.get_parameter_source("patience")
    is_given = source is not None and source.name in ("ENVIRONMENT", "COMMANDLINE")
    seconds = ctx.params["patience"] if is_given else SECONDS

    async def ask() -> Found:
        async with asyncio.timeout(seconds), PolosClient(url, namespace, patience_seconds=seconds) as client:
            return await find(client)

    try:
        found = asyncio.run(ask())
    except (PolosError, TimeoutError, OSError):
        return []
    return [
        one for one in dict.fromkeys(found) if one[0].startswith(incomplete) and _HARMLESS.fullmatch(one[0])
    ]
