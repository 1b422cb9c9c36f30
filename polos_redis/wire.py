"""One multiplexed Redis connection: everything a process says to one node goes over it.

Calls of one event-loop tick are packed, joined and written at once; replies resolve futures in the
order of the calls. A user task never holds the connection, so cancelling one can't disturb another
call's answer. redis-py makes and prepares the connection (TLS, AUTH, SELECT, unix sockets); then its
transport is ours.

What a future or `call` can raise: `CallLostError` (`sent` says whether the call left the process: if
it did, its outcome is unknown), `TransientReplyError` (not executed, worth repeating),
`RefusedReplyError` (repeating won't cure it). The last two carry Redis' error word as `code`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from hiredis import Reader, ReplyError, pack_command

from polos_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    RedisRefusedError,
    RedisUnavailableError,
)

log = logging.getLogger("polos.wire")

Arg = bytes | str | int
Command = tuple[Arg, ...]

CHECKS = 8  # looks at a silent connection before it is given up: each after an eighth of the timeout
READ_SIZE = 1 << 16
WRITE_LIMIT = 1 << 20  # bytes in the transport's buffer before `room` says no
CLOSE_GRACE = 1.0  # seconds that `close` waits for replies, then again for the transport
FIRST_PAUSE, LONGEST_PAUSE = 0.025, 2.0  # seconds between attempts

TRANSIENT = {"LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"}
TRANSIENT |= {"UNBLOCKED", "NOREPLICAS", "MISCONF"}
HINTS = {
    "OOM": "its memory limit is reached: free memory or raise maxmemory",
    "NOPERM": "grant the ACL user ~polos:* &polos:* and the command",
    "NOAUTH": "put user and password into the URL: redis://user:password@host:port",
    "WRONGPASS": "check the user and password in the URL",
    "WRONGTYPE": "another program uses this key: give polos a namespace or a Redis of its own",
    "MOVED": "the key lives on another node of the cluster",
    "ASK": "the key is moving to another node of the cluster",
    "CROSSSLOT": "on a cluster all keys of one call must share one {slot}",
}
PUSHES = frozenset((b"message", b"smessage", b"pmessage"))
UNSUBSCRIBED = frozenset((b"unsubscribe", b"sunsubscribe", b"punsubscribe"))
CONFIRMATIONS = frozenset((b"subscribe", b"ssubscribe", b"psubscribe")) | UNSUBSCRIBED

_pack: Callable[[Command], bytes] = cast(Any, pack_command)  # its stub knows tuples of one item only
_NOTHING: Any = object()
_INHERITED: list[asyncio.Transport] = []  # of a parent process: kept, never touched


class CallLostError(ConnectionLostError):
    """The connection is gone. `sent` False: the call never left; True: its outcome is unknown."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class TransientReplyError(CallLostError):
    """Redis can't serve right now (`code` says why): not executed, so worth repeating."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, sent=True)
        self.code = code


class RefusedReplyError(RedisRefusedError):
    """Redis answered with an error that repeating won't cure; `code` is its first word."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script; `sha` is the SHA-1 of the source in hex."""

    name: str
    source: bytes
    sha: bytes


# future, command, the script it runs if it does
Entry = tuple["asyncio.Future[Any]", Command, Script | None]


class _Link(asyncio.BufferedProtocol):
    """One transport from its preparation to its loss."""

    __slots__ = (
        *("owner", "place", "loop", "pid", "timeout", "window", "on_push", "transport", "gone"),
        *("preparing", "lost", "paused", "waiters", "calls", "out", "healing", "answered"),
        *("confirmed", "drop"),
        *("buffer", "view", "feed", "gets", "ticker", "history", "quiet"),
    )

    def __init__(self, wire: Wire, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.owner = weakref.ref(wire)
        self.place, self.on_push = wire.place, wire._on_push
        self.timeout, self.window = wire.timeout, wire.window
        self.loop, self.pid, self.transport = loop, os.getpid(), transport
        self.gone: asyncio.Future[None] = loop.create_future()  # done once the transport is closed
        self.preparing, self.lost, self.paused = True, False, False
        self.waiters: deque[asyncio.Future[None]] = deque()  # callers that wait for room
        self.calls: deque[Entry] = deque()
        self.out: list[bytes] = []  # packed and not yet written: the last len(out) of calls
        self.healing: set[bytes] = set()  # scripts whose EVAL stands in out
        self.answered = 0
        self.confirmed = 0  # channels of the oldest call confirmed so far
        self.drop = ""  # why to give the connection up after this batch of replies
        self.buffer = bytearray(READ_SIZE)
        self.view = memoryview(self.buffer)  # asyncio's TLS slices it: of a bytearray that were a copy
        reader = Reader(notEnoughData=_NOTHING)
        self.feed, self.gets = reader.feed, reader.gets
        self.ticker: asyncio.TimerHandle | None = None
        self.history: deque[int] = deque(maxlen=CHECKS)  # calls written so far, at the latest checks
        self.quiet = 0  # checks since a subscriber last heard anything
        transport.set_write_buffer_limits(high=WRITE_LIMIT)
        transport.set_protocol(self)
        if self.on_push is not None:
            self.watch()

    # --- sending ---

    def put(self, command: Command, script: Script | None = None) -> asyncio.Future[Any]:
        packed = _pack(command)
        future: asyncio.Future[Any] = self.loop.create_future()
        out = self.out
        if not out:
            self.loop.call_soon(self.flush)
        out.append(packed)
        self.calls.append((future, command, script))
        return future

    def flush(self) -> None:
        out = self.out
        if not out or self.transport.is_closing():
            return  # connection_lost is on its way and fails them as never sent
        data = b"".join(out)
        out.clear()
        if self.healing:
            self.healing.clear()
        if self.ticker is None:
            self.watch()
        self.transport.write(data)

    def has_room(self) -> bool:
        return not self.paused and len(self.calls) < self.window

    async def wait_for_room(self) -> None:
        while not self.lost and not self.has_room():
            waiter: asyncio.Future[None] = self.loop.create_future()
            self.waiters.append(waiter)
            try:
                await waiter
            finally:
                # Once this caller has had its chance to send; it may be cancelled or not use it.
                self.loop.call_soon(self.wake)

    def wake(self) -> None:
        free = 0 if self.paused else self.window - len(self.calls)
        waiters = self.waiters
        while waiters and (free > 0 or self.lost):
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    # --- the transport's callbacks ---

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.feed(self.buffer, 0, nbytes)  # type: ignore[arg-type]  # takes any buffer
            if self.on_push is None:
                self.take_replies()
            else:
                self.take_pushes(self.on_push)
        except Exception as error:  # all that follows could go to the wrong caller
            self.lose(f"an answer of Redis at {self.place} can't be read ({error})")
            return
        if self.waiters:
            self.wake()
        if self.drop:
            self.lose(self.drop)

    def eof_received(self) -> None:
        self.lose(f"Redis at {self.place} closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        self.lose(f"the connection to Redis at {self.place} broke" + (f": {error}" if error else ""))
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.wake()

    # --- replies ---

    def take_replies(self) -> None:
        gets, popleft, error_reply = self.gets, self.calls.popleft, ReplyError
        count = 0
        while (reply := gets()) is not _NOTHING:
            future, command, script = popleft()
            count += 1
            if reply.__class__ is error_reply:
                self.refuse(future, command, script, str(reply))
            else:
                try:  # noqa: SIM105  # the hot path
                    future.set_result(reply)
                except asyncio.InvalidStateError:
                    pass  # cancelled meanwhile
        self.answered += count

    def take_pushes(self, on_push: Callable[[list[Any]], None]) -> None:
        while (reply := self.gets()) is not _NOTHING:
            self.quiet = 0
            kind = reply[0] if isinstance(reply, list) and reply and isinstance(reply[0], bytes) else None
            confirmed = kind in CONFIRMATIONS and self.confirms(reply)
            if kind in PUSHES or (kind in CONFIRMATIONS and not confirmed):
                try:
                    on_push(reply)
                except Exception:
                    log.exception("the receiver of messages pushed by Redis at %s failed", self.place)
                continue
            if confirmed:
                self.confirmed += 1
                if self.confirmed < len(self.calls[0][1]) - 1:
                    continue  # the confirmation of a call's last channel answers it
            future, command, script = self.calls.popleft()
            self.answered += 1
            self.confirmed = 0
            if isinstance(reply, ReplyError):
                self.refuse(future, command, script, str(reply))
            elif not future.done():
                future.set_result(reply)

    def confirms(self, reply: list[Any]) -> bool:
        """Whether this is an answer to the oldest call; the server unsubscribes by itself too."""
        if not self.calls:
            return False
        command = [_as_bytes(arg) for arg in self.calls[0][1]]
        return command[0].lower() == reply[0] and reply[1] in command[1:]

    def refuse(self, future: asyncio.Future[Any], command: Command, script: Script | None, text: str) -> None:
        code = text.partition(" ")[0]
        if code == "NOSCRIPT" and script is not None:
            if not future.done():
                self.heal(future, command, script)
            return
        if code == "READONLY":  # after a failover: find out anew who is the master
            self.drop = f"Redis at {self.place} is a replica now"
        if not future.done():
            what = f"script {script.name!r}" if script else _as_bytes(command[0]).decode(errors="replace")
            future.set_exception(_refusal(self.place, what, code, text))
            if code in TRANSIENT:
                future.exception()  # no report when nobody looks

    def heal(self, future: asyncio.Future[Any], command: Command, script: Script) -> None:
        """Send a call again that met an empty script cache: one EVAL, which fills it, then EVALSHA."""
        again = command
        if script.sha not in self.healing:
            self.healing.add(script.sha)
            again = (b"EVAL", script.source, *command[2:])
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append(_pack(again))
        self.calls.append((future, command, script))

    # --- the end ---

    def watch(self) -> None:
        self.ticker = self.loop.call_later(self.timeout / CHECKS, self.check)

    def check(self) -> None:
        """Give a silent peer up. Counts checks, not time: a blocked loop or a SIGSTOP is one check."""
        self.ticker = None
        if self.lost:
            return
        history = self.history
        if len(history) == CHECKS and self.answered < history[0]:
            self.lose(f"Redis at {self.place} gave no answer for {self.timeout:g} s")
            return
        if self.calls:
            history.append(self.answered + len(self.calls) - len(self.out))
            self.watch()
            return
        history.clear()
        if self.on_push is not None:  # a subscriber waits for ever without a call: ask
            self.quiet += 1
            if self.quiet >= CHECKS:
                self.quiet = 0
                self.put((b"PING",)).cancel()
            self.watch()

    def lose(self, reason: str) -> None:
        """End the connection at once and fail what is under way; never raises."""
        if self.lost:
            return
        self.lost = True
        if self.ticker is not None:
            self.ticker.cancel()
        if self.pid != os.getpid() or self.loop.is_closed():
            self.calls.clear()  # nobody can be awaiting them any more
            self.out.clear()
            _discard(self.transport)
            return
        self.transport.abort()
        wire = self.owner()
        if wire is not None:
            wire._lost(self)
        written = len(self.calls) - len(self.out)
        for index, (future, _, _) in enumerate(self.calls):
            if not future.done():
                sent = index < written
                what = "the outcome of this call is unknown" if sent else "this call was not sent"
                future.set_exception(CallLostError(f"{reason}: {what}", sent=sent))
                future.exception()  # no report when nobody looks
        self.calls.clear()
        self.out.clear()
        self.wake()

    async def finish(self) -> None:
        """Give outstanding replies a moment, then close."""
        if open_calls := [future for future, _, _ in self.calls if not future.done()]:
            await asyncio.wait(open_calls, timeout=CLOSE_GRACE)
        if not self.lost and not self.calls:
            self.lost = True  # nothing is failed: a plain close
            if self.ticker is not None:
                self.ticker.cancel()
            self.transport.close()
            self.wake()
        self.lose(f"the connection to Redis at {self.place} was closed")
        await asyncio.wait((self.gone,), timeout=CLOSE_GRACE)
        self.transport.abort()


class Wire:
    """One connection of one event loop to one Redis node, shared by any number of callers.

    `timeout` (seconds) is how long Redis may leave a call unanswered before the connection is given
    up: above BLOCK for a blocking read, which needs a Wire of its own. `window` bounds the calls
    under way. With `on_push` the connection is a subscriber's: pushed messages go there, and it is
    pinged when silent. `on_connect` runs on each new connection before callers get it;
    `on_disconnect` when one is lost, not when it is closed.
    """

    __slots__ = (
        *("url", "place", "name", "scripts", "timeout", "connect_timeout", "window", "epoch"),
        *("_on_push", "_on_connect", "_on_disconnect", "_link", "_loop", "_pid", "_attempt", "_guard"),
        *("_closed", "_failures", "_retry_at", "_last_error", "__weakref__"),
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
    ) -> None:
        self._link: _Link | None = None
        self._guard: AsyncGenerator[None, None] | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._closed = False
        self.url, self.place = url, place_of(url)
        self.name, self.scripts = name, tuple(scripts)
        self.timeout, self.connect_timeout, self.window = timeout, connect_timeout, window
        self.epoch = 0  # connections made so far: rises at every reconnect
        self._on_push, self._on_connect, self._on_disconnect = on_push, on_connect, on_disconnect
        self._failures = 0  # attempts to connect that failed in a row
        self._retry_at = 0.0  # loop time before which `call` makes no further attempt
        self._last_error = ""

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self.connected else "not connected"
        return f"<Wire {self.name!r} to {self.place}: {state}>"

    @property
    def connected(self) -> bool:
        return self._link is not None

    # --- calls ---

    def send(self, *args: Arg) -> asyncio.Future[Any]:
        """Queue a command; all of one loop tick leave in one write. Never waits, never repeats."""
        link = self._link
        if link is None and (link := self._prepared()) is None:
            return self._unsent()
        return link.put(args)

    def run(self, script: Script, key: bytes, *args: Arg) -> asyncio.Future[Any]:
        """Queue a script call with its one key; a server that forgot the script is told it again."""
        link = self._link
        if link is None and (link := self._prepared()) is None:
            return self._unsent()
        return link.put((b"EVALSHA", script.sha, b"1", key, *args), script)

    def room(self) -> bool:
        """Whether the window and the socket take another call."""
        link = self._link
        return link is None or link.has_room()

    async def wait_for_room(self) -> None:
        """Wait until there is room, or the connection is lost."""
        if self._link is not None:
            await self._link.wait_for_room()

    async def call(self, *args: Arg, patience: float | None = 30.0) -> Any:
        """Send a command that is safe to repeat, until Redis answers it.

        Connects when needed, backs off, waits for room. After `patience` seconds (None: never) it
        raises RedisUnavailableError; a refusal is raised at once.
        """
        return await self._repeat(lambda: self.send(*args), patience)

    async def call_script(self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0) -> Any:
        """As `call`, for a script that is safe to repeat."""
        return await self._repeat(lambda: self.run(script, key, *args), patience)

    async def _repeat(self, send: Callable[[], asyncio.Future[Any]], patience: float | None) -> Any:
        loop = asyncio.get_running_loop()
        until = float("inf") if patience is None else loop.time() + patience
        pause = FIRST_PAUSE
        while True:
            try:
                if self._loop is not loop or (self._link is None and not _inside_preparation(self)):
                    await self._reach(until)
                if not self.room():
                    await self.wait_for_room()
                return await send()
            except CallLostError as error:
                if self._closed or _inside_preparation(self):
                    raise
                left = until - loop.time()
                if left <= 0:
                    raise RedisUnavailableError(
                        f"Redis at {self.place} could not serve a call within {patience:g} s: {error}"
                    ) from error
            await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _unsent(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        state = "is closed" if self._closed else "is down"
        future.set_exception(CallLostError(f"the connection to Redis at {self.place} {state}", sent=False))
        future.exception()  # no report when nobody looks
        return future

    # --- connecting ---

    async def connect(self) -> None:
        """Make one attempt to connect; concurrent callers share it."""
        task = self._attempt_to_connect()
        if task is not None:
            await asyncio.wait((task,))
            self._outcome(task)

    async def _reach(self, until: float) -> None:
        """Attempt to connect until it works; all who wait share the attempts and the pauses."""
        loop = asyncio.get_running_loop()
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
                        self._outcome(task)
                        return
                except RedisUnavailableError:
                    if self._closed:
                        raise
            if loop.time() >= until:
                reason = self._last_error or f"Redis at {self.place} can't be reached in time"
                raise RedisUnavailableError(
                    f"{reason} (no further attempt: the patience of the call is over)"
                )

    def _attempt_to_connect(self, *, backing_off: bool = False) -> asyncio.Task[None] | None:
        """The attempt under way, or a new one; None when connected (or while backing off)."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise RedisUnavailableError(f"the connection to Redis at {self.place} was closed: make a new one")
        if self._loop is not loop or self._pid != os.getpid():
            self._move_to(loop)
        if self.connected or _inside_preparation(self):
            return None
        if self._attempt is None:
            if backing_off and loop.time() < self._retry_at:
                return None
            # in a context of its own: a caller's task factory must not hold this for the caller's task
            name = f"polos: connect to {self.place}"
            self._attempt = loop.create_task(self._open(), name=name, context=Context())
            self._attempt.add_done_callback(self._attempted)
        return self._attempt

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and self._pid == os.getpid() and not self._loop.is_closed():
            raise RuntimeError("a Wire belongs to the event loop it was first used on: make one per loop")
        if self._link is not None:
            link, self._link = self._link, None
            link.lose("")
        self._loop, self._pid, self._attempt = loop, os.getpid(), None
        self._failures, self._retry_at = 0, 0.0
        # asyncio.run ends open async generators before it closes the loop: the one moment at which
        # a connection that nobody closed can still be closed properly.
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

    def _outcome(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            raise RedisUnavailableError(f"the attempt to connect to Redis at {self.place} was cancelled")
        if (error := task.exception()) is not None:
            raise error.with_traceback(None)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        transport = await _dial(self.url, self.place, self.connect_timeout)
        link = _Link(self, transport, loop)
        try:
            await self._introduce(link)
            self.epoch += 1
            if self._on_connect is not None:
                _preparation.set(link)
                await self._on_connect(self)
            if link.lost:
                raise CallLostError(f"Redis at {self.place} closed the new connection", sent=True)
        except CallLostError as error:
            raise RedisUnavailableError(str(error)) from error
        else:
            self._link = link
        finally:
            link.preparing = False
            if self._link is not link:
                link.lose("the new connection was given up")

    async def _introduce(self, link: _Link) -> None:
        """Name the connection and load the scripts; a user without the rights for it may go on."""
        calls = [link.put((b"CLIENT", b"SETNAME", self.name))] if self.name else []
        calls += [link.put((b"SCRIPT", b"LOAD", script.source)) for script in self.scripts]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(error, (TransientReplyError, RefusedReplyError)) and error.code != "NOAUTH":
                log.debug("while preparing a connection: %s", error)
            elif isinstance(error, Exception):
                raise error

    def _prepared(self) -> _Link | None:
        """The new connection, for `on_connect` and what it calls."""
        link = _preparation.get()
        return link if link is not None and _inside_preparation(self) and not link.lost else None

    def _lost(self, link: _Link) -> None:
        if self._link is link:
            self._link = None
            if self._on_disconnect is not None and not self._closed:
                try:
                    self._on_disconnect()
                except Exception:
                    log.exception("the receiver of the loss of Redis at %s failed", self.place)

    # --- closing ---

    async def close(self) -> None:
        """Let outstanding replies arrive (about a second at most) and close; for good."""
        self._closed = True
        try:
            if (task := self._attempt) is not None and task.get_loop() is asyncio.get_running_loop():
                task.cancel()
                await asyncio.wait((task,))
            link = self._link
            if link is not None and link.loop is asyncio.get_running_loop() and link.pid == os.getpid():
                self._link = None  # a call from now on is refused
                try:
                    await link.finish()
                finally:
                    link.lose(f"the connection to Redis at {self.place} was closed")
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once, for good. Safe on a closed loop and after a fork (the parent's socket stays)."""
        self._closed = True
        task, self._attempt = self._attempt, None
        if task is not None and self._pid == os.getpid() and not task.get_loop().is_closed():
            task.cancel()
        link, self._link = self._link, None
        if link is not None:
            link.lose(f"the connection to Redis at {self.place} was closed")
        guard, self._guard = self._guard, None
        if guard is not None:
            with suppress(StopAsyncIteration, RuntimeError):
                guard.asend(None).send(None)

    def __del__(self) -> None:
        link = self._link
        if link is not None and link.loop.is_running() and asyncio._get_running_loop() is not link.loop:
            link.loop.call_soon_threadsafe(link.lose, "its Wire was dropped")  # from another thread
        else:
            self.abort()


_preparation: ContextVar[_Link | None] = ContextVar("polos_wire_preparation", default=None)


def _inside_preparation(wire: Wire) -> bool:
    link = _preparation.get()
    return link is not None and link.preparing and link.owner() is wire


async def _until_the_loop_ends(wire: weakref.ref[Wire]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        if (owner := wire()) is not None and owner._guard is not None:
            owner._guard = None
            owner.abort()


def place_of(url: str) -> str:
    """host:port or the socket's path. The URL and what parsers say of it may hold the password."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix" and parts.path:
            return unquote(parts.path)
        database = parts.path.strip("/")
        tcp = parts.scheme in ("redis", "rediss")
        if tcp and not parts.fragment and (not database or database.isdecimal()):
            host = unquote(parts.hostname or "localhost")
            return f"[{host}]:{parts.port or 6379}" if ":" in host else f"{host}:{parts.port or 6379}"
    except ValueError:
        pass
    raise _bad_url()


def _bad_url() -> ConfigurationError:
    return ConfigurationError(
        "the Redis URL can't be used: write redis://user:password@host:port/0, rediss://... for TLS or "
        "unix:///path/to/socket, with special characters of user and password as %XX"
    )


async def _dial(url: str, place: str, timeout: float) -> asyncio.Transport:
    """Have redis-py connect, authenticate and select; take the transport away from it."""
    from redis.asyncio import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, RedisError, ResponseError

    options: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "client_name": None,
        "health_check_interval": 0,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
    }
    try:
        from redis.driver_info import DriverInfo  # noqa: F401  # redis-py 7.1 and later

        options["driver_info"] = None
    except ImportError:
        options |= {"lib_name": None, "lib_version": None}
    try:
        pool: Any = ConnectionPool.from_url(url, **options)
        pool.connection_kwargs.update(options)  # options in the URL have won over these
        connection = pool.make_connection()
    except (ValueError, TypeError, RedisError):
        raise _bad_url() from None
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()
        writer, reader = connection._writer, connection._reader
        if reader.at_eof() or reader._buffer or connection._parser._reader.has_data():
            raise RedisUnavailableError(f"Redis at {place} closed the connection or spoke out of turn")
    except BaseException as error:
        connection._close()
        if isinstance(error, TimeoutError):
            raise RedisUnavailableError(f"Redis at {place} did not answer within {timeout:g} s") from error
        if isinstance(error, (AuthenticationError, ResponseError)):
            code, text = error.status_code, str(error)
            text = f"{code} {text}" if code and not text.startswith(code) else text
            refusal = _refusal(place, "the connection", text.partition(" ")[0], text)
            if isinstance(refusal, TransientReplyError):
                raise RedisUnavailableError(str(refusal)) from error
            raise refusal from error
        if isinstance(error, (RedisError, OSError)):
            raise RedisUnavailableError(f"Redis at {place} can't be reached: {error}") from error
        raise
    transport: asyncio.Transport = writer.transport
    # Else they would warn, or close it, when they are collected.
    connection._writer = connection._reader = None
    writer._transport = _CLOSED
    return transport


class _Closed:
    def is_closing(self) -> bool:
        return True


_CLOSED = _Closed()


def _refusal(place: str, what: str, code: str, text: str) -> TransientReplyError | RefusedReplyError:
    if code in TRANSIENT:
        return TransientReplyError(f"Redis at {place} can't serve {what} now: {text}", code)
    hint = f" ({HINTS[code]})" if code in HINTS else ""
    return RefusedReplyError(f"Redis at {place} refused {what}: {text}{hint}", code)


def _as_bytes(arg: Arg) -> bytes:
    return arg if isinstance(arg, bytes) else str(arg).encode()


def _discard(transport: Any) -> None:
    """Free a socket whose loop is closed, or the parent process's: the loop must not be touched."""
    if hasattr(transport, "_ssl_protocol"):
        transport._closed = True
        transport = transport._ssl_protocol._transport
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        transport._sock = None  # its __del__ would warn
        sock.close()
    else:
        _INHERITED.append(transport)
