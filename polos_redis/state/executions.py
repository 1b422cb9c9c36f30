"""Executions: creating, loading, ending and reading them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from polos_redis.state import journal, keys, scripts
from polos_redis.state.fencing import Fence
from polos_redis.state.partitions import Partitions, pack_roots
from polos_redis.state.start import DEFAULTS, Start
from polos_redis.values.text import raw, text

UNFINISHED = ("queued", "waiting", "stuck")
FINISHED = ("completed", "failed", "cancelled")
NAMES_PER_CALL = 100  # workflows per call of a script, so that none takes long
ROWS_PER_CALL = 2000  # of an index: about as many are looked at
RECORDS_PER_CALL = 500  # of a journal
BYTES_PER_CALL = 1 << 20  # of records, beyond the last few
LEAST_LOOKED_AT = 100  # rows of all workflows that a page of one workflow looks at
STORED_STATUSES = (*UNFINISHED, *FINISHED)  # people see more, see statuses.py

_pack = msgpack.Packer(use_bin_type=False).pack  # no bin type: the scripts' cmsgpack can't read it

Place = tuple[int, bytes]  # in a listing: a time (us) and an execution's id


@dataclass(frozen=True, slots=True)
class Loaded:
    """An execution that has started before, as an activation loads it. `answers`: how many the journal has
    that were accepted since the execution was queued; `heartbeats`: the attempt and the progress (codec) that
    steps have reported last, by step key."""

    input: bytes
    started: bool
    losses: int
    origin: bytes | None
    journal: dict[bytes, bytes]
    answers: int = 0
    heartbeats: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """The status of an execution and, once it has finished, the value of that status."""

    status: str
    output: bytes | None = None
    error: bytes | None = None
    cancelled_by: str | None = None


class Executions:
    """All executions of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire
        self._acknowledging = partitions.acknowledging

    async def invoke(
        self, execution_id: str, workflow_id: str, input: bytes, retention_ms: int, start: Start = DEFAULTS
    ) -> int:
        """Create an execution: 1; 0 if one with this id exists, -1 if that one has another digest."""
        options = b"" if start is DEFAULTS else start.pack(self._partitions, execution_id)
        created: int = await self._acknowledging.call_script(
            scripts.INVOKE_WITH_OPTIONS if options else scripts.INVOKE,
            self._partitions.prefix(execution_id),
            execution_id,
            raw(workflow_id),
            input,
            retention_ms,
            *((options,) if options else ()),
            patience=self._partitions.patience,
        )
        return created

    async def fork(
        self,
        execution_id: str,
        workflow_id: str,
        input: bytes,
        retention_ms: int,
        start: Start,
        started: bytes,
        records: Mapping[bytes, bytes],
        copied: Sequence[tuple[str, str, str]] = (),
    ) -> bool:
        """Create an execution that goes on from these journal records; False if one with this id exists.

        `started` is the data of its start event. `copied` names the decisions among the records for the
        audit: step key, who copies it, and the reason.
        """
        created: int = await self._acknowledging.call_script(
            scripts.FORK,
            self._partitions.prefix(execution_id),
            execution_id,
            raw(workflow_id),
            input,
            retention_ms,
            start.pack(self._partitions, execution_id),
            started,
            _pack([tuple(map(raw, one)) for one in copied]),
            *(part for pair in records.items() for part in pair),
            patience=self._partitions.patience,
        )
        return created == 1

    async def load(self, by: Fence, version: str | None = None) -> Loaded | None:
        """Become the owner of a delivered execution; None if its entry is no longer the live one. One that
        has not started yet, and has no version, gets that of the code, unless it is None."""
        more = () if version is None else (raw(version),)
        reply = await self._wire.call_script(
            scripts.LOAD, by.prefix, by.id, by.entry, by.owner, *more, patience=None
        )
        if reply is None:
            return None
        packed, started, losses, origin, flat, answers, heartbeats = reply
        records = dict(zip(flat[::2], flat[1::2], strict=True))
        records.pop(journal.WRITER, None)
        return Loaded(
            packed,
            started is not None,
            int(losses or 0),
            origin,
            records,
            int(answers or 0),
            _heartbeats(heartbeats) if heartbeats else {},
        )

    async def cancel(self, execution_id: str, run: int, by: str, created: bytes) -> list[Any]:
        """End an execution as cancelled; returns the tagged reply of cancel.lua.

        `run` and `created` are those that the caller saw, so that a late duplicate does nothing to a newer
        run, or to another execution that has got the id of a deleted one.
        """
        reply: list[Any] = await self._acknowledging.call_script(
            scripts.CANCEL,
            self._partitions.prefix(execution_id),
            raw(execution_id),
            run,
            raw(by),
            created,
            patience=self._partitions.patience,
        )
        return reply

    async def retry(
        self,
        execution_id: str,
        run: int,
        created: bytes,
        skip: Sequence[str],
        by: str,
        reason: str,
        *,
        only_stuck: bool,
    ) -> list[Any]:
        """Continue a failed, stuck or paused execution as a new run, which need not reach the accepted
        answers under the step keys in `skip`; returns the tagged reply of retry.lua. With `only_stuck`, a
        failed one is left.

        `run` and `created` as in `cancel`.
        """
        reply: list[Any] = await self._acknowledging.call_script(
            scripts.RETRY,
            self._partitions.prefix(execution_id),
            raw(execution_id),
            run,
            created,
            raw(by),
            raw(reason),
            b"1" if only_stuck else b"",
            *map(raw, skip),
            patience=self._partitions.patience,
        )
        return reply

    async def delete(self, execution_id: str) -> list[Any]:
        """Delete an execution that has ended; returns the tagged reply of delete_execution.lua."""
        reply: list[Any] = await self._acknowledging.call_script(
            scripts.DELETE_EXECUTION,
            self._partitions.prefix(execution_id),
            raw(execution_id),
            patience=self._partitions.patience,
        )
        return reply

    async def descendants(self, root_id: str) -> AsyncIterator[list[str]]:
        """Yields the descendants of a root that are not deleted or forgotten yet, a page at a time."""
        key, cursor = self._partitions.prefix(root_id) + keys.DESCENDANTS.encode() + raw(root_id), b"0"
        while True:
            cursor, members = await self._wire.call(
                "SSCAN", key, cursor, "COUNT", 1000, patience=self._partitions.patience
            )
            yield list(map(text, members))
            if cursor == b"0":
                return

    async def watch(self, execution_id: str, channel: str) -> Ended | None:
        """Returns an execution's status, and registers for the notice of its end if it has not finished; None
        if there is no such execution. Without a channel, does not register."""
        reply = await self._wire.call_script(
            scripts.WATCH_EXECUTION,
            self._partitions.prefix(execution_id),
            raw(execution_id),
            channel,
            patience=self._partitions.patience,
        )
        if reply is None:
            return None
        status, output, error, by = (*reply, None, None, None)[:4]
        return Ended(text(status), output, error, text(by) or None)

    # --- reading ---

    async def read(self, execution_id: str) -> dict[str, bytes]:
        """Returns all fields of an execution's hash; empty if there is none."""
        key = self._partitions.prefix(execution_id) + keys.EXEC.encode() + raw(execution_id)
        flat = await self._wire.call("HGETALL", key, patience=self._partitions.patience)
        return {text(k): v for k, v in zip(flat[::2], flat[1::2], strict=True)}

    async def read_fields(self, execution_id: str, *fields: str) -> list[bytes | None]:
        """Returns some fields of an execution's hash."""
        key = self._partitions.prefix(execution_id) + keys.EXEC.encode() + raw(execution_id)
        found: list[bytes | None] = await self._wire.call(
            "HMGET", key, *fields, patience=self._partitions.patience
        )
        return found

    async def journal_pages(self, execution_id: str) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Yields an execution's journal a page at a time, in no order: step keys and records, and "" with the
        number of changes. A record may come twice."""
        cursor = b"0"
        while True:
            cursor, flat = await self._wire.call_script(
                scripts.READ_JOURNAL,
                self._partitions.prefix(execution_id),
                raw(execution_id),
                cursor,
                RECORDS_PER_CALL,
                BYTES_PER_CALL,
                patience=self._partitions.patience,
            )
            yield list(zip(flat[::2], flat[1::2], strict=True))
            if cursor == b"0":
                return

    async def read_records(self, execution_id: str, names: Sequence[bytes]) -> list[bytes | None]:
        """Returns some records of an execution's journal."""
        key = self._partitions.prefix(execution_id) + keys.JOURNAL.encode() + raw(execution_id)
        found: list[bytes | None] = await self._wire.call(
            "HMGET", key, *names, patience=self._partitions.patience
        )
        return found

    async def newest(
        self,
        statuses: Sequence[str],
        workflow: str,
        before: Place | None,
        limit: int,
        roots: Collection[str] = (),
    ) -> tuple[list[list[Any]], Place | None]:
        """Returns executions listed before a place, newest first, and the place before which the next page
        begins; None after the last one. They are listed by creation, queued executions alone by the time
        they were queued.

        A row is [id, workflow, status, created us, started ms, finished ms, start of a delayed one ms,
        version, listed at us]. There may be fewer rows than `limit`, even none, on a page that is not the
        last one. With `roots`, the page is restricted to executions whose root is of one of these
        workflows, and without a workflow to those that are themselves of one of these. `statuses` are words
        of `statuses.py`, or all `STORED_STATUSES`; the status in a row is the stored one.
        """
        packed = pack_roots(roots)
        filters = bool(workflow or roots) or ("stuck" in statuses) != ("paused" in statuses)
        found: list[list[Any]] = []
        next_pages: list[Place] = []
        at, one = before or ("+inf", b"")
        for prefix in self._partitions.prefixes:
            for names, queues in await self._indexes(prefix, statuses, workflow, roots):
                next_at, next_id, rows = await self._wire.call_script(
                    scripts.LIST_EXECUTIONS,
                    prefix,
                    at,
                    one,
                    max(limit, LEAST_LOOKED_AT) if filters else limit,
                    raw(workflow),
                    packed,
                    ROWS_PER_CALL,
                    len(statuses),
                    len(names),
                    *statuses,
                    *names,
                    *queues,
                    patience=self._partitions.patience,
                )
                found += rows
                next_pages += [(int(next_at), next_id)] if next_at else []
        # Below the highest of them, some index has rows that were not read.
        complete = max(next_pages, default=None)
        rows = sorted(found, key=_place, reverse=True)
        if complete is not None:
            rows = [row for row in rows if _place(row) >= complete]
        if len(rows) > limit:
            return rows[:limit], _place(rows[limit - 1])
        return rows, complete

    async def _indexes(
        self, prefix: bytes, statuses: Sequence[str], workflow: str, roots: Collection[str]
    ) -> list[tuple[list[bytes], list[bytes]]]:
        """The names of the indexes and the queues to look at in a partition, a bounded number per call of the
        script. Queued executions with an entry are only in the index of all and in their queue."""
        patience = self._partitions.patience
        if workflow or roots:
            names = [*([raw(workflow)] if workflow else map(raw, sorted(roots))), b""]
        else:
            names = await self._partitions.workflows(prefix, patience)
        from_queues = bool({"queued", "running"}.intersection(statuses)) and "completed" not in statuses
        queues = await self._partitions.queues(prefix, patience) if from_queues else []
        return [
            (names[first : first + NAMES_PER_CALL], queues[first : first + NAMES_PER_CALL])
            for first in range(0, max(len(names), len(queues)), NAMES_PER_CALL)
        ]


def _heartbeats(packed: bytes) -> dict[str, tuple[int, bytes]]:
    """Read the field `heartbeats`, without rows of newer releases."""
    return {text(row[1]): (row[2], row[3]) for row in msgpack.unpackb(packed, raw=True) if row[0] == 1}


def _place(row: list[Any]) -> Place:
    """Where a row is listed."""
    return int(row[-1]), row[0]
