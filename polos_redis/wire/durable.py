"""Calls of scripts that return once Redis has confirmed their writes: fsynced, or received by replicas.

WAITAOF and WAIT only wait for the writes of their own connection: on one that has written nothing they answer
at once. So each master gets a connection of its own for these calls. On it the scripts are sent, then the
mark, a small write, and behind it the wait. The mark makes the wait meaningful when the scripts wrote nothing
because an earlier call had done it all: what that call wrote comes before the mark.

The wait blocks its connection, so calls are confirmed in groups: all that arrive while a group waits form the
next one. If the connection is lost or the master changes, the whole call is repeated and confirmed again.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Literal

from polos_redis.errors import ConfigurationError, NotConfirmedError, RedisUnavailableError
from polos_redis.values.text import text
from polos_redis.wire.dialing import CredentialProvider
from polos_redis.wire.replies import CallLostError, RefusedReplyError
from polos_redis.wire.routing import wire_to
from polos_redis.wire.transport import Arg, Script
from polos_redis.wire.wire import Wire

Durability = Literal["server", "fsync", "replicated"]

WAIT_SECONDS = 3.0  # for one confirmation; then the call is repeated, as long as its patience lasts
REPLY_SECONDS = WAIT_SECONDS + 5.0  # timeout of a connection: longer than a wait
MARK_MS = 1000  # how long the mark's key lasts
MOST_CALLS = 1024  # in one group
PROBES, PROBE_MS = 8, 5  # waits that a server may not confirm; each takes it up to 100 ms


class DurableWire:
    """A wire beside the one that everything else uses, for scripts whose writes are to be confirmed.

    `durability` is "fsync" or "replicated"; the latter waits for `replicas` replicas of the master. `mark` is
    the script that writes the mark. `acknowledges` says of a script and its reply whether that acknowledges
    anything: a refusal needs no confirmation. A DurableWire belongs to one event loop.
    """

    def __init__(
        self,
        url: str,
        durability: Durability,
        replicas: int,
        mark: Script,
        acknowledges: Callable[[Script, Any], bool],
        *,
        partitions: int = 1,
        credentials: CredentialProvider | None = None,
    ) -> None:
        self._wire = wire_to(
            url,
            name="polos-durable",
            scripts=(),
            partitions=partitions,
            timeout=REPLY_SECONDS,
            credentials=credentials,
        )
        self._durability, self._replicas, self._mark = durability, replicas, mark
        self._acknowledges = acknowledges
        self._calls: dict[
            Wire, deque[_ConfirmedCall]
        ] = {}  # of the next group; a node's task runs while it is here
        self._tasks: set[asyncio.Task[None]] = set()

    async def call_script(self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `Wire.call_script`, and returns once the script's writes are confirmed.

        Raises `NotConfirmedError` if the script was executed, but not confirmed within `patience`.
        """
        call = _ConfirmedCall(script, key, args)
        try:
            return await self._wire.repeat(key, lambda node: self._join(node, call), patience)
        except RedisUnavailableError as error:
            if not call.executed:
                raise
            address = (self._wire.node(key) or self._wire).address
            raise NotConfirmedError(address, self._promise, error.__cause__ or error) from error

    @property
    def _promise(self) -> str:
        if self._durability == "fsync":
            return "is on disk"
        return "is on a replica" if self._replicas == 1 else f"is on {self._replicas} replicas"

    # --- groups ---

    def _join(self, node: Wire, call: _ConfirmedCall) -> Future[Any]:
        """Put a call into the next group of a node."""
        call.future = asyncio.get_running_loop().create_future()
        waiting = self._calls.get(node)
        if waiting is None:
            waiting = self._calls[node] = deque()
            # in a fresh context: a task factory must not attribute this task to the caller
            task = asyncio.get_running_loop().create_task(
                self._run(node, waiting), name=f"polos: confirm writes at {node.address}", context=Context()
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting.append(call)
        return call.future

    async def _run(self, node: Wire, waiting: deque[_ConfirmedCall]) -> None:
        """Run the groups of a node until no call waits."""
        group: list[_ConfirmedCall] = []
        try:
            while waiting:
                group = [waiting.popleft() for _ in range(min(len(waiting), MOST_CALLS))]
                await self._run_group(node, [call for call in group if not call.future.done()])
        finally:
            del self._calls[node]
            for call in (*group, *waiting):  # none, unless this task was cancelled
                call.fail(CallLostError(f"the connection to {node.address} was closed", sent=False))

    async def _run_group(self, node: Wire, group: Sequence[_ConfirmedCall]) -> None:
        epoch = node.epoch
        sent = [node.run(call.script, call.key, *call.args) for call in group]
        replies = await asyncio.gather(*sent, return_exceptions=True)
        executed: list[_ConfirmedCall] = []
        for call, reply in zip(group, replies, strict=True):
            if isinstance(reply, BaseException):
                call.fail(reply)
                continue
            call.reply = reply
            if self._acknowledges(call.script, reply):
                call.executed = True
                executed.append(call)
            else:
                call.succeed()
        if not executed:
            return
        try:
            if node.epoch != epoch:  # another connection, perhaps to another master
                raise CallLostError(f"the connection to {node.address} was lost before its wait", sent=True)
            await self._confirm(node, executed[0].key, WAIT_SECONDS)
        except Exception as error:
            for call in executed:
                call.fail(error)
        else:
            for call in executed:
                call.succeed()

    async def _confirm(self, node: Wire, prefix: bytes, seconds: float) -> None:
        """Wait until all writes so far of a node's connection are confirmed. Raises `CallLostError`."""
        # Not EVALSHA: if the script was not cached, it would be repeated behind the wait.
        mark = node.send("EVAL", self._mark.source, 1, prefix, MARK_MS)
        ms = int(seconds * 1000)
        fsync = self._durability == "fsync"
        wait = node.send("WAITAOF", 1, 0, ms) if fsync else node.send("WAIT", self._replicas, ms)
        await asyncio.wait((mark, wait))
        for error in [mark.exception(), wait.exception()]:
            if error is not None:
                raise error
        confirmed: int = wait.result()[0] if fsync else wait.result()
        if fsync and not confirmed:
            raise CallLostError(f"no fsync of its log within {seconds:g} s", sent=True)
        if not fsync and confirmed < self._replicas:
            raise CallLostError(
                f"{confirmed} of {_count(self._replicas)} confirmed within {seconds:g} s", sent=True
            )

    # --- what the servers can promise ---

    async def check(self, prefixes: Sequence[bytes], patience: float | None) -> None:
        """Raises `ConfigurationError` if the master of one of these partitions can't confirm writes."""
        checked: set[Wire | None] = set()
        for prefix in prefixes:
            await self._wire.repeat(prefix, lambda node: node.send("PING"), patience)
            node = self._wire.node(prefix)
            if node is not None and node not in checked:
                checked.add(node)
                check = self._check_log if self._durability == "fsync" else self._check_replicas
                await check(node, prefix, patience)

    async def _check_replicas(self, node: Wire, prefix: bytes, patience: float | None) -> None:
        # Nothing was written on this connection: every replica that is connected counts at once.
        found = await node.call("WAIT", self._replicas, int(WAIT_SECONDS * 1000), patience=patience)
        if found < self._replicas:
            raise ConfigurationError(
                f'durability="replicated" waits for {_count(self._replicas)}, and Redis at {node.address} '
                f"has {found} connected: start more replicas, or lower POLOS_REPLICAS"
            )

    async def _check_log(self, node: Wire, prefix: bytes, patience: float | None) -> None:
        where = f"Redis at {node.address}"
        try:
            await node.call("WAITAOF", 0, 0, 1, patience=patience)
        except RefusedReplyError as error:
            if "unknown command" not in str(error):
                raise
            raise ConfigurationError(
                f'durability="fsync" needs WAITAOF, which {where} does not know: use Redis 7.2 or newer'
            ) from None
        settings = await self._settings(node, patience)
        if settings.get("appendonly") == "no":
            raise ConfigurationError(
                f'durability="fsync" needs a log, and {where} keeps none: set appendonly to yes'
            )
        if settings.get("appendfsync") == "no":
            raise ConfigurationError(
                f'durability="fsync" needs fsync, and {where} has appendfsync no: '
                "set it to everysec or always"
            )
        if settings.get("appendfsync") != "always" and await self._answers_early(node, prefix, patience):
            raise ConfigurationError(
                f'durability="fsync" can\'t be promised, because {where} answers WAITAOF before it has '
                "fsynced, as Valkey and some releases of Redis 7 do: set appendfsync to always, or use "
                "Redis 8" + ("" if settings else " (appendfsync could not be read: grant +config|get)")
            )

    async def _settings(self, node: Wire, patience: float | None) -> dict[str, str]:
        """The settings of the log; empty if the user may not read them."""
        found: dict[str, str] = {}
        try:
            for name in ("appendonly", "appendfsync"):
                flat = await node.call("CONFIG", "GET", name, patience=patience)
                found |= {name: text(flat[1])} if len(flat) > 1 else {}
        except RefusedReplyError:
            return {}
        return found

    async def _answers_early(self, node: Wire, prefix: bytes, patience: float | None) -> bool:
        """Whether a server confirms writes that it can't have fsynced.

        Under `everysec`, a server starts one fsync a second. So of writes in a few seconds it can confirm as
        many, and two more: the first fsync may be due or under way. A server that answers early confirms all
        writes but those during an fsync.
        """
        loop = asyncio.get_running_loop()
        since, count = loop.time(), 0
        for _ in range(PROBES):
            await node.call("EVAL", self._mark.source, 1, prefix, MARK_MS, patience=patience)
            confirmed, _replicas = await node.call("WAITAOF", 1, 0, PROBE_MS, patience=patience)
            count += confirmed
            if count > loop.time() - since + 2:
                return True
        return False

    # --- closing ---

    async def close(self) -> None:
        """Like `Wire.close`."""
        await self._wire.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def abort(self) -> None:
        """Like `Wire.abort`."""
        self._wire.abort()


class _ConfirmedCall:
    """One call: its script, and the future that its caller awaits in this attempt."""

    __slots__ = ("args", "executed", "future", "key", "reply", "script")

    future: Future[Any]

    def __init__(self, script: Script, key: bytes, args: tuple[Arg, ...]) -> None:
        self.script, self.key, self.args = script, key, args
        self.executed = False  # whether Redis has acknowledged it, in any attempt
        self.reply: Any = None

    def succeed(self) -> None:
        if not self.future.done():
            self.future.set_result(self.reply)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # keeps asyncio from logging it if nobody awaits the future


def _count(replicas: int) -> str:
    return "1 replica" if replicas == 1 else f"{replicas} replicas"
