"""Server-sent events: an execution's events, and a topic's.

Each message's `id` is the event's id, its data the event as JSON. A reader that comes back with Last-Event-ID
misses nothing; one that comes back to an execution that has ended is told 204, so that a browser stops.
A stream ends soon after its key was revoked or has expired. All readers share the client's few connections to
Redis.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from polos_redis import apikeys, events
from polos_redis.errors import PolosError
from polos_redis.events import Event
from polos_redis.server import (
    paths,  # noqa: F401 - `anything` in the routes
    problems,
)
from polos_redis.server.callers import Caller
from polos_redis.server.security import require
from polos_redis.server.site import Client, Site, site_of
from polos_redis.server.tokens import for_caller
from polos_redis.state import keys

HEARTBEAT_SECONDS = 15.0  # so that nothing on the way takes a quiet stream for dead
RETRY_MS = 2000  # a browser's pause before it comes back

router = APIRouter(prefix="/api/v1", tags=["events"])

Reader = Annotated[Caller, Depends(require("read"))]
EVENT_ID = r"^([0-9]{1,19}(-[0-9]{1,19}(\.[0-9]{1,9})?)?)?$"  # 20 digits may be more than Redis counts to
# A browser keeps the header by itself; the query parameter is for its first request.
LastEventId = Annotated[str, Header(pattern=EVENT_ID, description="The id of the last event that was read.")]
After = Annotated[str, Query(pattern=EVENT_ID, description="The same as the header Last-Event-ID.")]
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events, as they come.", "content": {"text/event-stream": {}}},
    204: {"description": "The execution has ended, and nothing comes after that event."},
}


@router.get("/executions/{execution_id}/events", response_class=Response, responses=STREAM)
async def of_execution(
    execution_id: str,
    request: Request,
    client: Client,
    caller: Reader,
    last_event_id: LastEventId = "",
    after: After = "",
) -> Response:
    """The events of an execution and of its descendants, from the beginning; ends with its finish."""
    found = await events.follow(
        client,
        keys.root_of(execution_id),
        execution_id=execution_id,
        last_event_id=last_event_id or after,
        plain=True,
    )
    return _answer(site_of(request), caller, found)


@router.get("/topics/{topic:anything}/events", response_class=Response, responses=STREAM)
async def of_topic(
    topic: str,
    request: Request,
    client: Client,
    caller: Reader,
    last_event_id: LastEventId = "",
    after: After = "",
) -> Response:
    """The events of a topic, from its beginning; goes on until the reader leaves."""
    found = await events.follow(client, topic, last_event_id=last_event_id or after, plain=True)
    return _answer(site_of(request), caller, found)


def _answer(site: Site, caller: Caller, found: AsyncIterator[Event] | None) -> Response:
    if found is None:
        return Response(status_code=204)
    return StreamingResponse(_messages(site, caller, found), media_type="text/event-stream")


async def _messages(site: Site, caller: Caller, found: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % RETRY_MS  # the headers go out at once
    now = asyncio.get_running_loop().time
    stopping = asyncio.ensure_future(site.stopping.wait())
    coming: asyncio.Future[Event] | None = None
    beat = now() + HEARTBEAT_SECONDS
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(found))
            left = max(0.0, beat - now())
            await asyncio.wait((coming, stopping), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if now() >= beat:  # by the clock: a stream that is never quiet has one too
                if not await _still_known(site, caller):
                    return
                yield b":\n\n"
                beat = now() + HEARTBEAT_SECONDS
            if coming.done():
                yield _message(caller, coming.result())
                coming = None
            elif stopping.done():
                return
    except StopAsyncIteration:
        pass
    except PolosError as error:  # the reader comes back, and is told then if that is in vain
        problems.of(error)
    finally:
        stopping.cancel()
        if coming is not None:
            coming.cancel()


async def _still_known(site: Site, caller: Caller) -> bool:
    """Whether the key that a caller came or logged in with still holds. Raises `PolosError` without Redis."""
    if caller.key_id is None:  # a developer on their own machine
        return True
    key = await apikeys.get(site.client, caller.key_id)
    return key is not None and key.holds


def _message(caller: Caller, event: Event) -> bytes:
    told = {
        "id": event.id,
        "sequence_id": event.sequence_id,
        "topic": event.topic,
        "event_type": event.event_type,
        "data": for_caller(caller, event.data),
        "created_at": event.created_at.isoformat(timespec="milliseconds"),
        "metadata": event.metadata,
    }
    # no `event:` field: types are texts of any kind, and a browser's onmessage gets those without one
    return f"id: {event.id}\ndata: {json.dumps(told, allow_nan=False)}\n\n".encode("ascii")
