"""Completes what Redis knows in a shell that has run `polos --install-completion`: ids of executions, of
workflows and of schedules, and keys of open suspensions. A command gets only those that it can do something
with."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import typer

from polos_redis.errors import ExecutionNotFoundError, PolosError
from polos_redis.state.executions import FINISHED
from polos_redis.state.keys import root_of
from polos_redis.state.statuses import STATUSES, UNFINISHED

from .ids import full_id, is_beginning, matching_ids

if TYPE_CHECKING:
    from polos_redis.client import PolosClient
    from polos_redis.results import ExecutionSummary
    from polos_redis.schedules import Schedule

MOST = 50  # of the newest executions
SECONDS = 1.0  # a person has pressed Tab and waits
_HARMLESS = re.compile(r"[\w.@/+-]+", re.ASCII)  # zsh evaluates what is completed

Found = list[tuple[str, str]]  # values, and a word about each


def execution_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of the newest executions that begin like the word, or of any others if none do."""
    return _ids(ctx, incomplete, STATUSES)


def unfinished_ids(ctx: typer.Context, incomplete: str) -> Found:
    """As `execution_ids`, of executions that can be cancelled."""
    return _ids(ctx, incomplete, UNFINISHED)


def retryable_ids(ctx: typer.Context, incomplete: str) -> Found:
    """As `execution_ids`, of executions that can be retried."""
    return _ids(ctx, incomplete, ("failed", "stuck", "paused"))


def deletable_ids(ctx: typer.Context, incomplete: str) -> Found:
    """As `execution_ids`, of executions that can be deleted."""
    return _ids(ctx, incomplete, FINISHED, only_roots=True)


def _ids(ctx: typer.Context, incomplete: str, statuses: Sequence[str], *, only_roots: bool = False) -> Found:
    async def find(client: PolosClient) -> Found:
        if statuses == STATUSES:
            pages = [await client.list_executions(limit=MOST)]
        else:
            pages = await asyncio.gather(
                *(client.list_executions(status=one, limit=MOST) for one in statuses)
            )
        rows = sorted((row for page in pages for row in page), key=_created_at, reverse=True)
        found = [(row["id"], row["status"]) for row in rows if row["id"].startswith(incomplete)]
        if not found and is_beginning(incomplete):
            ids = sorted({one async for one in matching_ids(client, incomplete)})
            conditions = await (await client.store()).statuses.read(ids, 0)
            words = [(one, conditions[one].word) for one in ids if one in conditions]
            found = [(one, word) for one, word in words if word in statuses]
        return [(one, word) for one, word in found if not only_roots or one == root_of(one)]

    return _ask(ctx, incomplete, find)


def _created_at(row: ExecutionSummary) -> str:
    return row.created_at or ""


def answerable_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of executions with open suspensions that begin like the word: those that have waited
    longest, or any others if none do. For an answer that comes early, those of all that have not finished."""
    if ctx.params.get("early"):
        return unfinished_ids(ctx, incomplete)

    async def find(client: PolosClient) -> Found:
        page = await client.list_suspensions(limit=MOST)
        found: dict[str, list[str]] = {}
        for row in page:
            found.setdefault(row.execution_id, []).append(row.step_key)
        if not any(one.startswith(incomplete) for one in found) and is_beginning(incomplete):
            async for one in matching_ids(client, incomplete):
                with contextlib.suppress(ExecutionNotFoundError):
                    found[one] = await _open_keys(client, one)
        return [(one, ", ".join(keys)) for one, keys in found.items() if keys]

    return _ask(ctx, incomplete, find)


async def _open_keys(client: PolosClient, execution_id: str) -> list[str]:
    execution = await client.get_execution(execution_id)
    rows = [*execution.open_suspensions, *execution.open_suspensions_below]
    return [row.step_key for row in rows]


def workflow_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of the workflows that workers serve or that have executions."""
    return _workflows(ctx, incomplete, only_invocable=False)


def invocable_workflow_ids(ctx: typer.Context, incomplete: str) -> Found:
    """As `workflow_ids`, without internal workflows."""
    return _workflows(ctx, incomplete, only_invocable=True)


def _workflows(ctx: typer.Context, incomplete: str, *, only_invocable: bool) -> Found:
    async def find(client: PolosClient) -> Found:
        from polos_redis.definitions.published import definition_of

        store = await client.store()
        served = set(await store.workers.served())
        listed = {
            one.decode("utf-8", "replace")
            for prefix in store.prefixes
            for one in await store.partitions.workflows(prefix, store.partitions.patience)
        }
        ids = [one for one in sorted(served | listed) if one.startswith(incomplete)]
        if only_invocable:
            definitions = await asyncio.gather(*(definition_of(store, one) for one in ids))
            ids = [one for one, found in zip(ids, definitions, strict=True) if not found.internal]
        return [(one, "" if one in served else "no worker") for one in ids]

    return _ask(ctx, incomplete, find)


def open_step_keys(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the keys of the open suspensions of the execution named before, and of those below it."""
    given = ctx.params.get("execution_id")
    if not given:
        return []

    async def find(client: PolosClient) -> Found:
        whole = await full_id(client, given) if is_beginning(given) else given
        return [(key, "") for key in await _open_keys(client, whole)]

    return _ask(ctx, incomplete, find)


def schedule_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of the schedules."""
    return _schedules(ctx, incomplete, lambda one: True)


def paused_schedule_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of the schedules that can be resumed."""
    return _schedules(ctx, incomplete, lambda one: one.paused)


def active_schedule_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Returns the ids of the schedules that can be paused."""
    return _schedules(ctx, incomplete, lambda one: not one.paused)


def _schedules(ctx: typer.Context, incomplete: str, fits: Callable[[Schedule], bool]) -> Found:
    from polos_redis import schedules

    async def find(client: PolosClient) -> Found:
        return [(one.id, "paused" if one.paused else "") for one in await schedules.list(client) if fits(one)]

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
