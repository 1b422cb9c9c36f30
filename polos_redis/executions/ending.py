"""Cancelling, retrying and deleting executions."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from polos_redis.connection.connection import Connection
from polos_redis.decisions.people import check_name
from polos_redis.definitions.published import definition_of
from polos_redis.errors import (
    ExecutionFinishedError,
    ExecutionNotFoundError,
    InternalWorkflowError,
    InvalidInputError,
    NotFailedError,
    NotFinishedError,
    NotSkippableError,
)
from polos_redis.state import keys
from polos_redis.values.text import text
from polos_redis.wire.durable import Durability

MOST_SKIPPED = 100  # answers that one retry skips
LONGEST_REASON = 1000  # characters


async def cancel(
    connection: Connection,
    execution_id: str,
    *,
    cancelled_by: str | None = None,
    created: str | None = None,
    durability: Durability | None = None,
) -> None:
    """See `PolosClient.cancel`. `created` is the execution's time of creation (us) as the caller saw it; one
    that got the id of a deleted one later is not cancelled, but `ExecutionNotFoundError`."""
    if cancelled_by is not None and cancelled_by != "":
        check_name("cancelled_by", cancelled_by, InvalidInputError)
    store = await connection.acknowledging_store(durability)
    run, found = await store.executions.read_fields(execution_id, "run", "created")
    if run is None or found is None or text(found) != (created or text(found)):
        raise ExecutionNotFoundError(execution_id)
    tag, *rest = await store.executions.cancel(execution_id, int(run), cancelled_by or "", found)
    if tag == b"missing":
        raise ExecutionNotFoundError(execution_id)
    if tag == b"finished":
        raise ExecutionFinishedError(execution_id, text(rest[0]))
    if tag == b"run":
        await cancel(
            connection,
            execution_id,
            cancelled_by=cancelled_by,
            created=text(found),
            durability=durability,
        )


async def retry(
    connection: Connection,
    execution_id: str,
    *,
    skip: str | Collection[str] = (),
    reason: str | None = None,
    by: str | None = None,
    created: str | None = None,
    durability: Durability | None = None,
) -> int:
    """See `PolosClient.retry`. `created` as in `cancel`."""
    skipped = _skipped(skip, reason)
    if skipped and by:
        check_name("by", by, InvalidInputError)
    store = await connection.acknowledging_store(durability)
    run, found, workflow = await store.executions.read_fields(execution_id, "run", "created", "workflow")
    if run is None or found is None or text(found) != (created or text(found)):
        raise ExecutionNotFoundError(execution_id)
    # A parent has called an internal one once, for which a person may have approved: another run of a failed
    # one is the parent's to start. One that is stuck or paused has not ended yet.
    internal = (await definition_of(store, text(workflow))).internal
    tag, *rest = await store.executions.retry(
        execution_id, int(run), found, skipped, by or "", reason or "", only_stuck=internal
    )
    if tag == b"no answer":
        raise NotSkippableError(execution_id, text(rest[0]))
    if tag == b"retried":
        return int(rest[0])
    if tag == b"status":
        if internal:
            raise InternalWorkflowError(text(workflow), "retry")
        raise NotFailedError(execution_id, await store.statuses.word(execution_id, rest[0]))
    if tag == b"run":  # another caller retried it first
        return int(rest[0])
    raise ExecutionNotFoundError(execution_id)


def _skipped(skip: str | Collection[str], reason: str | None) -> tuple[str, ...]:
    """Returns the step keys to skip, each once. Raises `InvalidInputError`."""
    found = tuple(dict.fromkeys((skip,) if isinstance(skip, str) else skip))
    if len(found) > MOST_SKIPPED:
        raise InvalidInputError(f"skip names {len(found)} step keys, and {MOST_SKIPPED} are allowed")
    for key in found:
        keys.check_text("a step key to skip", key, keys.LONGEST_STEP_KEY)
    if found:
        if not isinstance(reason, str) or not reason.strip():
            raise InvalidInputError("skip needs a reason: say why an accepted answer is passed over")
        if len(reason) > LONGEST_REASON:
            raise InvalidInputError(
                f"the reason has {len(reason):,} characters, and {LONGEST_REASON:,} are allowed: shorten it"
            )
    elif reason is not None:
        raise InvalidInputError("a reason is given, but nothing to skip: name the step key in skip")
    return found


async def delete(connection: Connection, execution_id: str, *, durability: Durability | None = None) -> int:
    """See `PolosClient.delete`."""
    if keys.root_of(execution_id) != execution_id:
        raise InvalidInputError(
            f"execution {execution_id} is a child and shares its root's events: delete "
            f"{keys.root_of(execution_id)} instead"
        )
    store = await connection.acknowledging_store(durability)
    # The root first: its script refuses while any descendant still runs.
    tag, *rest = await store.executions.delete(execution_id)
    if tag == b"status":
        raise NotFinishedError(execution_id, await store.statuses.word(execution_id, rest[0]))
    deleted, entries = int(rest[0]), int(rest[1])
    async for descendants in store.executions.descendants(execution_id):
        for tag, *rest in await asyncio.gather(*map(store.executions.delete, descendants)):
            deleted += int(rest[0]) if tag == b"deleted" else 0
    if not deleted and not entries:
        raise ExecutionNotFoundError(execution_id)
    return deleted
