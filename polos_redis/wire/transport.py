"""Transport of one connection to Redis: writes calls in batches and matches replies to them in order.

All calls made in one tick of the event loop leave in a single write. Replies resolve the calls' futures in
order. The reply to a cancelled call is skipped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable
from functools import cached_property
from hashlib import sha1
from typing import Any, Protocol, cast

from hiredis import Reader, ReplyError, pack_command

from polos_redis.wire.replies import REDIRECTS, CallLostError, TransientReplyError, refusal

log = logging.getLogger("polos.wire")

Arg = bytes | str | int
Command = tuple[Arg, ...]

CHECKS = 8  # checks of a silent connection before it is dropped, an eighth of the timeout apart
READ_SIZE = 1 << 16  # bytes
REPLIES_PER_TURN = 32
WRITE_LIMIT = 1 << 20  # bytes in the transport's buffer above which `has_room` is False
CLOSE_GRACE = 1.0  # seconds that `finish` waits for replies, and then for the transport

PUSHES = frozenset((b"message", b"smessage", b"pmessage"))
UNSUBSCRIBED = frozenset((b"unsubscribe", b"sunsubscribe", b"punsubscribe"))
CONFIRMATIONS = frozenset((b"subscribe", b"ssubscribe", b"psubscribe")) | UNSUBSCRIBED

_pack: Callable[[Command], bytes] = cast(Any, pack_command)  # its stub allows only tuples of one item
_NOTHING: Any = object()
_INHERITED: list[asyncio.Transport] = []  # from a parent process: kept alive, never touched


class Script:
    """A Lua script, which is read when it is first needed."""

    def __init__(self, name: str, read: Callable[[], bytes]) -> None:
        self.name = name
        self._read = read

    @cached_property
    def source(self) -> bytes:
        return self._read()

    @cached_property
    def sha(self) -> bytes:
        """The SHA-1 of the source in hex."""
        return sha1(self.source, usedforsecurity=False).hexdigest().encode()


class TransportOwner(Protocol):
    """Owner of a transport: its settings and its callbacks for redirections and for the loss."""

    address: str
    timeout: float
    window: int

    def redirected(self, link: Transport, text: str) -> bool: ...
    def transport_lost(self, link: Transport) -> None: ...


# future, command, the script that the command runs or None
Entry = tuple["asyncio.Future[Any]", Command, Script | None]


class Transport(asyncio.BufferedProtocol):
    """One connection, from its preparation until it is lost."""

    __slots__ = (
        *("owner", "address", "loop", "pid", "timeout", "window", "on_push", "transport", "gone"),
        *("preparing", "lost", "garbled", "paused", "waiters", "calls", "out", "healing", "answered"),
        *("confirmed", "drop", "scheduled"),
        *("buffer", "view", "feed", "gets", "ticker", "history", "quiet"),
    )

    def __init__(
        self,
        owner: TransportOwner,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        on_push: Callable[[list[Any]], None] | None,
    ) -> None:
        self.owner = weakref.ref(owner)
        self.address, self.on_push = owner.address, on_push
        self.timeout, self.window = owner.timeout, owner.window
        self.loop, self.pid, self.transport = loop, os.getpid(), transport
        self.gone: asyncio.Future[None] = loop.create_future()  # done once the transport is closed
        self.preparing, self.lost, self.paused = True, False, False
        self.garbled = False  # whether it was lost because of a reply that is none of Redis' protocol
        self.waiters: deque[asyncio.Future[None]] = deque()  # callers waiting for room
        self.calls: deque[Entry] = deque()
        self.out: list[bytes] = []  # packed but not yet written: the last len(out) of calls
        self.healing: set[bytes] = set()  # scripts with an EVAL in out
        self.answered = 0
        self.confirmed = 0  # confirmed channels of the oldest call
        self.scheduled = False  # whether the next turn of the loop continues with the replies
        self.drop = ""  # reason to drop the connection after this batch of replies
        self.buffer = bytearray(READ_SIZE)
        self.view = memoryview(self.buffer)  # asyncio's TLS slices it, which would copy a bytearray
        reader = Reader(notEnoughData=_NOTHING)
        self.feed, self.gets = reader.feed, reader.gets
        self.ticker: asyncio.TimerHandle | None = None
        self.history: deque[int] = deque(maxlen=CHECKS)  # calls written so far, at each recent check
        self.quiet = 0  # checks since a subscriber last received anything
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
            return  # connection_lost follows and fails these calls as not sent
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
                # After this caller's chance to send, which it may not use (it may be cancelled).
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
        except Exception as error:
            self.unreadable(error)
            return
        if not self.scheduled:
            self.process()

    def eof_received(self) -> None:
        self.process(everything=True)
        self.lose(f"Redis at {self.address} closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        self.process(everything=True)
        self.lose(f"the connection to Redis at {self.address} broke" + (f": {error}" if error else ""))
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.wake()

    # --- replies ---

    def process(self, everything: bool = False) -> None:
        """Deliver the replies received so far, a limited number per turn of the loop.

        If all were delivered at once, the callers' next calls would leave in one write, and Redis and this
        process would work in turns instead of in parallel.
        """
        self.scheduled = False
        if self.lost:
            return
        try:
            if self.on_push is not None:
                self.process_pushes(self.on_push)
            elif self.process_replies(len(self.calls) if everything else REPLIES_PER_TURN):
                self.scheduled = True
                self.loop.call_soon(self.process)
        except Exception as error:
            self.unreadable(error)
            return
        if self.waiters:
            self.wake()
        if self.drop:
            self.lose(self.drop)

    def unreadable(self, error: Exception) -> None:
        """Drop the connection after a malformed reply: later replies could reach the wrong callers."""
        self.garbled = True
        self.lose(f"a reply of Redis at {self.address} can't be read ({error})")

    def process_replies(self, limit: int) -> bool:
        """Resolve up to `limit` of the oldest calls. True if more replies may be available."""
        gets, popleft, error_reply = self.gets, self.calls.popleft, ReplyError
        count = 0
        while count < limit:
            reply = gets()
            if reply is _NOTHING:
                break
            future, command, script = popleft()
            count += 1
            if reply.__class__ is error_reply:
                self.refuse(future, command, script, str(reply))
            else:
                try:  # noqa: SIM105  # the hot path
                    future.set_result(reply)
                except asyncio.InvalidStateError:
                    pass  # cancelled
        self.answered += count
        return count == limit and bool(self.calls)

    def process_pushes(self, on_push: Callable[[list[Any]], None]) -> None:
        while (reply := self.gets()) is not _NOTHING:
            self.quiet = 0
            kind = reply[0] if isinstance(reply, list) and reply and isinstance(reply[0], bytes) else None
            confirmed = kind in CONFIRMATIONS and self.confirms(reply)
            if kind in PUSHES or (kind in CONFIRMATIONS and not confirmed):
                try:
                    on_push(reply)
                except Exception:
                    log.exception("the callback for messages pushed by Redis at %s failed", self.address)
                continue
            if confirmed:
                self.confirmed += 1
                if self.confirmed < len(self.calls[0][1]) - 1:
                    continue  # a call is answered once its last channel is confirmed
            future, command, script = self.calls.popleft()
            self.answered += 1
            self.confirmed = 0
            if isinstance(reply, ReplyError):
                self.refuse(future, command, script, str(reply))
            elif not future.done():
                future.set_result(reply)

    def confirms(self, reply: list[Any]) -> bool:
        """Whether this answers the oldest call: the server also unsubscribes clients on its own."""
        if not self.calls:
            return False
        command = [as_bytes(arg) for arg in self.calls[0][1]]
        return command[0].lower() == reply[0] and reply[1] in command[1:]

    def refuse(self, future: asyncio.Future[Any], command: Command, script: Script | None, text: str) -> None:
        code = text.partition(" ")[0]
        if code == "NOSCRIPT" and script is not None:
            if not future.done():
                self.heal(future, command, script)
            return
        if code == "READONLY":  # after a failover: reconnect to the new master
            self.drop = f"Redis at {self.address} is now a replica"
        owner = self.owner()
        redirected = code in REDIRECTS and owner is not None and owner.redirected(self, text)
        if not future.done():
            what = f"script {script.name!r}" if script else as_bytes(command[0]).decode(errors="replace")
            error = refusal(self.address, what, code, text, redirected=redirected)
            future.set_exception(error)
            if isinstance(error, TransientReplyError):
                future.exception()  # keeps asyncio from logging it if nobody awaits the future

    def heal(self, future: asyncio.Future[Any], command: Command, script: Script) -> None:
        """Repeat a call whose script was not cached: first with EVAL, which caches it, then with EVALSHA."""
        repeated = command
        if script.sha not in self.healing:
            self.healing.add(script.sha)
            repeated = (b"EVAL", script.source, *command[2:])
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append(_pack(repeated))
        self.calls.append((future, command, script))

    # --- the end ---

    def watch(self) -> None:
        self.ticker = self.loop.call_later(self.timeout / CHECKS, self.check)

    def check(self) -> None:
        """Drop a silent connection. Counts checks, not time: a blocked loop or a SIGSTOP is one check."""
        self.ticker = None
        if self.lost:
            return
        history = self.history
        if len(history) == CHECKS and self.answered < history[0]:
            self.lose(f"Redis at {self.address} did not answer for {self.timeout:g} s")
            return
        if self.calls:
            history.append(self.answered + len(self.calls) - len(self.out))
            self.watch()
            return
        history.clear()
        if self.on_push is not None:  # a subscriber may wait for ever without a call, so ping
            self.quiet += 1
            if self.quiet >= CHECKS:
                self.quiet = 0
                self.put((b"PING",)).cancel()
            self.watch()

    def lose(self, reason: str) -> None:
        """Close the connection at once and fail all outstanding calls. Never raises."""
        if self.lost:
            return
        self.lost = True
        if self.ticker is not None:
            self.ticker.cancel()
        if self.pid != os.getpid() or self.loop.is_closed():
            self.calls.clear()  # nobody can await them any more
            self.out.clear()
            discard(self.transport)
            return
        self.transport.abort()
        owner = self.owner()
        if owner is not None:
            owner.transport_lost(self)
        written = len(self.calls) - len(self.out)
        for index, (future, _, _) in enumerate(self.calls):
            if not future.done():
                sent = index < written
                what = "the outcome of this call is unknown" if sent else "this call was not sent"
                future.set_exception(CallLostError(f"{reason}: {what}", sent=sent))
                future.exception()  # keeps asyncio from logging it if nobody awaits the future
        self.calls.clear()
        self.out.clear()
        self.wake()

    async def finish(self) -> None:
        """Wait up to CLOSE_GRACE for outstanding replies, then close."""
        if open_calls := [future for future, _, _ in self.calls if not future.done()]:
            await asyncio.wait(open_calls, timeout=CLOSE_GRACE)
        if not self.lost and not self.calls:
            self.lost = True  # a plain close: no calls to fail
            if self.ticker is not None:
                self.ticker.cancel()
            self.transport.close()
            self.wake()
        self.lose(f"the connection to Redis at {self.address} was closed")
        await asyncio.wait((self.gone,), timeout=CLOSE_GRACE)
        self.transport.abort()


def as_bytes(arg: Arg) -> bytes:
    return arg if isinstance(arg, bytes) else str(arg).encode()


def discard(transport: Any) -> None:
    """Release a transport without touching its loop, which is closed or belongs to the parent process.

    A transport whose socket is not accessible (uvloop's) is kept alive instead of closed.
    """
    if hasattr(transport, "_ssl_protocol"):
        transport._closed = True
        transport = transport._ssl_protocol._transport
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        transport._sock = None  # its __del__ would warn
        sock.close()
    else:
        _INHERITED.append(transport)
