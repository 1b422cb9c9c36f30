"""Multiplexed connection to one Redis node, shared by all tasks of a process.

A task never holds the connection, so cancelling one can't disturb the replies of others. replies.py defines
the errors of calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import Any

from polos_redis.errors import RedisUnavailableError
from polos_redis.wire.dialing import CredentialProvider, dial
from polos_redis.wire.replies import CallLostError, NotRedisError, RefusedReplyError, TransientReplyError
from polos_redis.wire.transport import Arg, Script, Transport
from polos_redis.wire.urls import parse

__all__ = ["Script", "Wire", "client_id"]

log = logging.getLogger("polos.wire")

FIRST_PAUSE, LONGEST_PAUSE = 0.025, 2.0  # seconds between attempts
UNUSABLE = ("NOAUTH", "DENIED")  # codes of refusals that concern all calls of a connection

Locate = Callable[[], Awaitable[str]]


class Wire:
    """Connection to one Redis node that reconnects by itself. Belongs to one event loop.

    `timeout` is the time in seconds after which an unanswered call drops the connection. A blocking read
    needs a separate Wire with a timeout above its BLOCK. `window` limits the number of outstanding calls.
    With `on_push` the connection is a subscriber's: pushed messages go to that callback, and silence leads to
    a ping. `on_connect` runs on each new connection before callers can use it, `on_disconnect` when a
    connection is lost, but not when it is closed.

    If the server can change (the master of a sentinel service, the owner of a cluster's slot), `locate`
    returns its URL before each attempt to connect. With `on_moved`, which gets the text of a MOVED reply,
    redirected calls fail with an error that allows repeating them; with `locate` as well, the wire then
    reconnects.
    """

    __slots__ = (
        *("url", "address", "name", "scripts", "timeout", "connect_timeout", "window", "epoch"),
        *(
            "_on_push",
            "_on_connect",
            "_on_disconnect",
            "_on_moved",
            "_locate",
            "_transport",
            "_loop",
            "_pid",
            "_attempt",
            "_guard",
            "credentials",
        ),
        *("_closed", "_failures", "_retry_at", "_last_error", "_lost_at", "_lost_seconds", "__weakref__"),
    )

    def __init__(
        self,
        url: str,
        *,
        name: str = "polos",
        scripts: Sequence[Script] = (),
        timeout: float = 5.0,
        connect_timeout: float = 5.0,
        window: int = 8192,
        on_push: Callable[[list[Any]], None] | None = None,
        on_connect: Callable[[Wire], Awaitable[None]] | None = None,
        on_disconnect: Callable[[], None] | None = None,
        on_moved: Callable[[str], None] | None = None,
        locate: Locate | None = None,
        credentials: CredentialProvider | None = None,
    ) -> None:
        self._transport: Transport | None = None
        self._guard: AsyncGenerator[None, None] | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._closed = False
        self.url, self.address = url, parse(url).address
        self.name, self.scripts = name, tuple(scripts)
        self.timeout, self.connect_timeout, self.window = timeout, connect_timeout, window
        self.epoch = 0  # number of connections made so far
        self._on_push, self._on_connect, self._on_disconnect = on_push, on_connect, on_disconnect
        self._on_moved, self._locate = on_moved, locate
        self.credentials = credentials
        self._failures = 0  # failed attempts to connect in a row
        self._retry_at = 0.0  # loop time of the next attempt that `call` may make
        self._last_error = ""
        self._lost_at: float | None = None  # since when there is no connection; monotonic
        self._lost_seconds = 0.0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self.connected else "not connected"
        return f"<Wire {self.name!r} to {self.address}: {state}>"

    @property
    def connected(self) -> bool:
        return self._transport is not None

    @property
    def lost_seconds(self) -> float:
        """The seconds without a connection so far, since the first one was lost."""
        now = 0.0 if self._lost_at is None else time.monotonic() - self._lost_at
        return self._lost_seconds + now

    # --- calls ---

    def send(self, *args: Arg) -> asyncio.Future[Any]:
        """Queue a command. All commands of one loop tick leave in one write. Never waits or repeats."""
        transport = self._transport
        if transport is None and (transport := self._prepared()) is None:
            return self._unsent()
        return transport.put(args)

    def run(self, script: Script, key: bytes, *args: Arg) -> asyncio.Future[Any]:
        """Queue a script call with one key. A server that lost the script gets its source again."""
        transport = self._transport
        if transport is None and (transport := self._prepared()) is None:
            return self._unsent()
        return transport.put((b"EVALSHA", script.sha, b"1", key, *args), script)

    def room(self) -> bool:
        """Whether the window and the socket's buffer have room for another call."""
        transport = self._transport
        return transport is None or transport.has_room()

    async def wait_for_room(self) -> None:
        """Wait until there is room or the connection is lost."""
        if self._transport is not None:
            await self._transport.wait_for_room()

    async def call(self, *args: Arg, patience: float | None = 30.0) -> Any:
        """Send a command that is safe to repeat, and repeat it until Redis answers.

        Connects if necessary, waits for room, and backs off between attempts. Raises RedisUnavailableError
        after `patience` seconds (None: never), and RedisRefusedError at once if Redis rejects the command.
        """
        return await self._repeat(lambda: self.send(*args), patience)

    async def call_script(self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `call`, for a script that is safe to repeat."""
        transport = self._transport
        if transport is not None and transport.has_room() and self._loop is asyncio.get_running_loop():
            try:  # the common case, without the overhead of retries
                return await transport.put((b"EVALSHA", script.sha, b"1", key, *args), script)
            except CallLostError:
                pass
        return await self._repeat(lambda: self.run(script, key, *args), patience)

    async def repeat(
        self, key: bytes, send: Callable[[Wire], asyncio.Future[Any]], patience: float | None
    ) -> Any:
        """Like `call`, with a `send` that makes the call on the wire to the server that has a key."""
        return await self._repeat(lambda: send(self), patience)

    async def _repeat(self, send: Callable[[], asyncio.Future[Any]], patience: float | None) -> Any:
        loop = asyncio.get_running_loop()
        until = float("inf") if patience is None else loop.time() + patience
        pause = FIRST_PAUSE
        while True:
            try:
                if self._loop is not loop or (self._transport is None and not _inside_preparation(self)):
                    await self.reach(until)
                if not self.room():
                    await self.wait_for_room()
                return await send()
            except CallLostError as error:
                if self._closed or _inside_preparation(self):
                    raise
                left = until - loop.time()
                if left <= 0:
                    raise RedisUnavailableError(
                        f"Redis at {self.address} could not serve a call within {patience:g} s: {error}"
                    ) from error
            await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _unsent(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        state = "is closed" if self._closed else "is down"
        future.set_exception(CallLostError(f"the connection to Redis at {self.address} {state}", sent=False))
        future.exception()  # keeps asyncio from logging it if nobody awaits the future
        return future

    # --- nodes, with the interface of ClusterWire ---

    def groups(self, prefixes: Sequence[bytes]) -> list[list[bytes]]:
        """Groups of partitions that one blocking read can cover: here all of them."""
        return [list(prefixes)]

    def beside(self, key: bytes, **options: Any) -> Wire:
        """A separate connection, with these options, to the server that has a key."""
        return Wire(self.url, locate=self._locate, credentials=self.credentials, **options)

    def node(self, key: bytes) -> Wire | None:
        """The connection to the server that has a key."""
        return self

    async def nodes(self) -> list[Wire]:
        """The connections to all masters: this one."""
        return [self]

    async def ready(self, key: bytes) -> None:
        """Wait until the server that has a key can be called."""
        await self.call("PING", patience=None)

    # --- connecting ---

    async def connect(self) -> None:
        """Make one attempt to connect. Concurrent callers share it."""
        task = self._attempt_to_connect()
        if task is not None:
            await asyncio.wait((task,))
            self._raise_failure(task)

    async def reach(self, until: float) -> None:
        """Attempt to connect until it succeeds or the loop time `until` has come.

        Concurrent callers share the attempts and the pauses between them. Raises RedisUnavailableError, or
        NotRedisError if that is what the attempts met.
        """
        loop = asyncio.get_running_loop()
        failure: RedisUnavailableError | None = None
        while True:
            task = self._attempt_to_connect(backing_off=True)
            if self.connected:
                return
            left = max(0.0, until - loop.time())
            if task is None:
                await asyncio.sleep(min(left, self._retry_at - loop.time()))
            else:
                await asyncio.wait((task,), timeout=None if left == float("inf") else left)
                try:
                    if task.done():
                        self._raise_failure(task)
                        return
                except RedisUnavailableError as error:
                    if self._closed:
                        raise
                    failure = error
            if loop.time() >= until:
                if isinstance(failure, NotRedisError):
                    raise failure
                reason = self._last_error or f"Redis at {self.address} can't be reached in time"
                raise RedisUnavailableError(f"{reason} (is it running, and is the URL correct?)")

    def _attempt_to_connect(self, *, backing_off: bool = False) -> asyncio.Task[None] | None:
        """The current attempt or a new one; None if connected, or while backing off."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise RedisUnavailableError(
                f"the connection to Redis at {self.address} was closed: create a new one"
            )
        if self._loop is not loop or self._pid != os.getpid():
            self._move_to(loop)
        if self.connected or _inside_preparation(self):
            return None
        if self._attempt is None:
            if backing_off and loop.time() < self._retry_at:
                return None
            # in a fresh context: a task factory must not attribute this task to the caller
            name = f"polos: connect to {self.address}"
            self._attempt = loop.create_task(self._open(), name=name, context=Context())
            self._attempt.add_done_callback(self._attempted)
        return self._attempt

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and self._pid == os.getpid() and not self._loop.is_closed():
            raise RuntimeError("a Wire belongs to the event loop it was first used on: create one per loop")
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.lose("")
        self._loop, self._pid, self._attempt = loop, os.getpid(), None
        self._failures, self._retry_at = 0, 0.0
        # asyncio.run finishes open async generators before it closes the loop. That is the last chance to
        # close a connection properly that nobody closed.
        self._guard = _until_the_loop_ends(weakref.ref(self))
        with suppress(StopIteration):
            self._guard.asend(None).send(None)

    def _attempted(self, task: asyncio.Task[None]) -> None:
        if self._attempt is task:
            self._attempt = None
        if task.cancelled():
            return
        error = task.exception()
        self._last_error = str(error) if error else ""
        if error is None:
            self._failures, self._retry_at = 0, 0.0
        else:
            pause = min(FIRST_PAUSE * 2.0 ** min(self._failures, 16), LONGEST_PAUSE)
            self._failures += 1
            self._retry_at = task.get_loop().time() + pause * random.uniform(0.5, 1.0)

    def _raise_failure(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            raise RedisUnavailableError(f"the attempt to connect to Redis at {self.address} was cancelled")
        if (error := task.exception()) is not None:
            raise error.with_traceback(None)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        url = self.url
        if self._locate is not None:
            url = await self._locate()
            self.address = parse(url).address
        stream = await dial(url, self.address, self.connect_timeout, self.credentials)
        transport = Transport(self, stream, loop, self._on_push)
        try:
            await self._introduce(transport)
            self.epoch += 1
            if self._on_connect is not None:
                _preparation.set(transport)
                await self._on_connect(self)
            if transport.lost:
                raise CallLostError(f"Redis at {self.address} closed the new connection", sent=True)
        except CallLostError as error:
            if transport.garbled:
                raise NotRedisError(f"{error}; is it a Redis server?") from error
            raise RedisUnavailableError(str(error)) from error
        else:
            self._transport = transport
            self._lost_seconds, self._lost_at = self.lost_seconds, None
        finally:
            transport.preparing = False
            if self._transport is not transport:
                transport.lose("the new connection was dropped")

    async def _introduce(self, transport: Transport) -> None:
        """Name the connection and load the scripts. A user without permission to do so can still connect."""
        calls = [transport.put((b"CLIENT", b"SETNAME", self.name))] if self.name else []
        calls += [transport.put((b"SCRIPT", b"LOAD", script.source)) for script in self.scripts]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(error, (TransientReplyError, RefusedReplyError)) and error.code not in UNUSABLE:
                log.debug("while preparing a connection: %s", error)
            elif isinstance(error, Exception):
                raise error

    def _prepared(self) -> Transport | None:
        """The connection under preparation, if the caller is `on_connect` or code called by it."""
        transport = _preparation.get()
        return (
            transport if transport is not None and _inside_preparation(self) and not transport.lost else None
        )

    def redirected(self, transport: Transport, text: str) -> bool:
        """Handle a cluster's redirection. True if the call may be repeated on another node."""
        if self._on_moved is None:
            return False
        if text.startswith("MOVED"):
            self._on_moved(text)
        if self._locate is not None and not text.startswith("ASK"):
            transport.drop = f"Redis at {self.address} does not serve this slot: {text}"
        return True

    def drop(self, reason: str) -> None:
        """Drop the connection in the next turn of the loop. The next call makes a new one."""
        if self._transport is not None:
            self._transport.loop.call_soon(self._transport.lose, reason)

    def transport_lost(self, transport: Transport) -> None:
        if self._transport is transport:
            self._transport, self._lost_at = None, time.monotonic()
            if self._on_disconnect is not None and not self._closed:
                try:
                    self._on_disconnect()
                except Exception:
                    log.exception("the callback for the lost connection to Redis at %s failed", self.address)

    # --- closing ---

    async def close(self) -> None:
        """Wait about a second for outstanding replies and close. The wire can't be used afterwards."""
        self._closed = True
        try:
            if (task := self._attempt) is not None and task.get_loop() is asyncio.get_running_loop():
                task.cancel()
                await asyncio.wait((task,))
            transport = self._transport
            if (
                transport is not None
                and transport.loop is asyncio.get_running_loop()
                and transport.pid == os.getpid()
            ):
                self._transport = None  # refuses new calls
                try:
                    await transport.finish()
                finally:
                    transport.lose(f"the connection to Redis at {self.address} was closed")
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once. Safe on a closed loop and after a fork, where the parent keeps its connection."""
        self._closed = True
        task, self._attempt = self._attempt, None
        if task is not None and self._pid == os.getpid() and not task.get_loop().is_closed():
            task.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.lose(f"the connection to Redis at {self.address} was closed")
        guard, self._guard = self._guard, None
        if guard is not None:
            with suppress(StopAsyncIteration, RuntimeError):
                guard.asend(None).send(None)

    def __del__(self) -> None:
        transport = self._transport
        if (
            transport is not None
            and transport.loop.is_running()
            and asyncio._get_running_loop() is not transport.loop
        ):
            transport.loop.call_soon_threadsafe(transport.lose, "its Wire was dropped")  # from another thread
        else:
            self.abort()


async def client_id(wire: Wire) -> int | None:
    """The server's id of a wire's connection, for CLIENT UNBLOCK; None if the server doesn't tell it."""
    try:
        found: int = await wire.send("CLIENT", "ID")
    except RefusedReplyError:
        return None
    return found


_preparation: ContextVar[Transport | None] = ContextVar("polos_wire_preparation", default=None)


def _inside_preparation(wire: Wire) -> bool:
    transport = _preparation.get()
    return transport is not None and transport.preparing and transport.owner() is wire


async def _until_the_loop_ends(wire: weakref.ref[Wire]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        if (owner := wire()) is not None and owner._guard is not None:
            owner._guard = None
            owner.abort()
