"""The status of an execution as one text, for the errors of those who have waited for it."""

from __future__ import annotations

import asyncio

from polos_redis.connection.connection import Connection
from polos_redis.errors import PolosError
from polos_redis.executions.statuses import in_text, sentence, status_view
from polos_redis.state import keys
from polos_redis.state.store import Store
from polos_redis.values.text import text

LOOK_SECONDS = 1.0  # that the caller of an error waits for this


async def status_text(connection: Connection, execution_id: str) -> str:
    """Returns the status of an execution in the words of `statuses`, and that no worker serves it if that is
    so; empty if Redis does not say so at once."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            store = await connection.store()
            found = (await store.statuses.read([execution_id])).get(execution_id)
            if found is None:
                return "deleted"
            words = in_text(sentence(status_view(found)))
            if found.word == "queued" and await is_unserved(store, execution_id, found.workflow_id):
                words += f", and no worker serves its workflow {found.workflow_id!r}"
            return words
    except (PolosError, TimeoutError):
        return ""


async def is_unserved(store: Store, execution_id: str, workflow_id: str) -> bool:
    """Returns whether no worker serves an execution's workflow, or the version it is pinned to."""
    (queue,) = await store.executions.read_fields(execution_id, "queue")
    version = keys.parse_stream(text(queue))[1]
    prefix = store.partitions.prefix(execution_id)
    return not await store.workers.serve(prefix, workflow_id, version or None)
