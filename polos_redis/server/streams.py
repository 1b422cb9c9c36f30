"""Routes of event streams: an execution's events and a topic's, as server-sent events.

Each message's `id` is the event's id, its data the event as JSON. A reader that reconnects with Last-Event-ID
misses nothing; after the end of an execution it gets 204, which stops a browser's EventSource. A stream ends
soon after its key expires or is revoked, or its reader logs out. All readers share the client's few
connections to Redis.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from polos_redis import apikeys, events
from polos_redis.errors import PolosError
from polos_redis.events import Event
from polos_redis.redaction import redact_json, redact_text
from polos_redis.server import (
    paths,  # noqa: F401 - `anything` in the routes
    problems,
)
from polos_redis.server.callers import Caller
from polos_redis.server.security import address_of, require
from polos_redis.server.sessions import open_session
from polos_redis.server.site import Client, Site, site_of
from polos_redis.state import keys

HEARTBEAT_SECONDS = 15.0  # keeps proxies from closing an idle stream
RETRY_MS = 2000  # a browser's delay before it reconnects

router = APIRouter(prefix="/api/v1", tags=["events"])

Reader = Annotated[Caller, Depends(require("read"))]
EVENT_ID = r"^([0-9]{1,19}(-[0-9]{1,19}(\.[0-9]{1,9})?)?)?$"  # 20 digits may exceed Redis's 64-bit integers
# Browsers send the header when they reconnect; the query parameter is for the first request.
LastEventId = Annotated[str, Header(pattern=EVENT_ID, description="The id of the last event received.")]
After = Annotated[str, Query(pattern=EVENT_ID, description="The same as the header Last-Event-ID.")]
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events, as they occur.", "content": {"text/event-stream": {}}},
    204: {"description": "The execution has finished, and no events follow."},
}


@router.get("/executions/{execution_id}/events", response_class=Response, responses=STREAM)
async def execution_events(
    execution_id: str,
    request: Request,
    client: Client,
    caller: Reader,
    last_event_id: LastEventId = "",
    after: After = "",
) -> Response:
    """Stream the events of an execution and its descendants from the beginning, until it finishes."""
    stream = await events.follow(
        client,
        keys.root_of(execution_id),
        execution_id=execution_id,
        last_event_id=last_event_id or after,
        plain=True,
    )
    return _response(request, caller, stream)


@router.get("/topics/{topic:anything}/events", response_class=Response, responses=STREAM)
async def topic_events(
    topic: str,
    request: Request,
    client: Client,
    caller: Reader,
    last_event_id: LastEventId = "",
    after: After = "",
) -> Response:
    """Stream the events of a topic from its beginning, until the reader disconnects."""
    stream = await events.follow(client, topic, last_event_id=last_event_id or after, plain=True)
    return _response(request, caller, stream)


def _response(request: Request, caller: Caller, stream: AsyncIterator[Event] | None) -> Response:
    if stream is None:
        return Response(status_code=204)
    return _EventStream(site_of(request), caller, caller.key_id or address_of(request), stream)


class _EventStream(StreamingResponse):
    """A stream of events, one of the reader's number of streams. Raises `Problem` 429 or 503 beyond that."""

    def __init__(self, site: Site, caller: Caller, reader: str, stream: AsyncIterator[Event]) -> None:
        site.streams.take(reader)
        super().__init__(_messages(site, caller, stream), media_type="text/event-stream")
        self._site, self._reader = site, reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._site.streams.give_back(self._reader)


async def _messages(site: Site, caller: Caller, stream: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % RETRY_MS  # sends the headers at once
    now = asyncio.get_running_loop().time
    stopping = asyncio.ensure_future(site.stopping.wait())
    pending: asyncio.Future[Event] | None = None
    beat = now() + HEARTBEAT_SECONDS
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(stream))
            timeout = max(0.0, beat - now())
            await asyncio.wait((pending, stopping), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if now() >= beat:  # by the clock, so busy streams check their key, too
                if not await _key_is_valid(site, caller):
                    return
                yield b":\n\n"
                beat = now() + HEARTBEAT_SECONDS
            if pending.done():
                yield _message(caller, pending.result())
                pending = None
            elif stopping.done():
                return
    except StopAsyncIteration:
        pass
    except PolosError as error:  # logged; the reader reconnects and gets the problem then
        problems.of(error)
    finally:
        stopping.cancel()
        if pending is not None:
            pending.cancel()


async def _key_is_valid(site: Site, caller: Caller) -> bool:
    """Whether the key of a caller is still valid, and their session open. Raises `RedisUnavailableError`."""
    if caller.key_id is None:  # --insecure-dev
        return True
    if caller.session_id:
        return await open_session(site.client, caller.session_id, caller.key_id) is not None
    key = await apikeys.get(site.client, caller.key_id)
    return key is not None and key.held_at(await (await site.client.store()).clock.now())


def _message(caller: Caller, event: Event) -> bytes:
    data = {
        "id": event.id,
        "sequence_id": event.sequence_id,
        "topic": event.topic,
        "event_type": event.event_type,
        "data": event.data,
        "created_at": event.created_at.isoformat(timespec="milliseconds"),
        "metadata": event.metadata,
    }
    # No `event:` field: event types are arbitrary, and onmessage only gets messages without one.
    rendered = json.dumps(data, allow_nan=False)
    rendered = redact_json(rendered) if caller.may("approve") else redact_text(rendered)
    return f"id: {event.id}\ndata: {rendered}\n\n".encode("ascii")
