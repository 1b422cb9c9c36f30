"""Statuses: what executions are doing, and what they wait for.

Redis stores fewer statuses than people are told: a queued execution is running once a worker has its entry,
and a stuck one is paused if it has failed and waits to be retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from polos_redis.state import scripts
from polos_redis.state.executions import FINISHED
from polos_redis.state.partitions import Partitions
from polos_redis.state.stored_errors import ErrorRecord
from polos_redis.state.stuck import StuckReason
from polos_redis.state.timers import starts_ms
from polos_redis.values.text import raw, text

UNFINISHED = ("queued", "running", "waiting", "stuck", "paused")
STATUSES = (*UNFINISHED, *FINISHED)
KINDS = ("person", "time", "event", "child", "retry")  # of waits

PER_CALL = 50  # executions per call of the script, so that none takes long


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """A step whose function has run for a while. `progress`: what it has reported last (codec), empty for
    nothing; `progress_ms`: when that was written; `timed_out_ms`: when this attempt timed out, if the step
    now waits for its thread to end."""

    step_key: str
    attempt: int
    since_ms: int
    progress: bytes = b""
    progress_ms: int | None = None
    timed_out_ms: int | None = None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> RunningAttempt:
        """Read a running step in a row of read_statuses.lua."""
        key, attempt, since, progress, at, timed_out = row
        return cls(text(key), int(attempt), int(since), progress, _number(at), _number(timed_out))


@dataclass(frozen=True, slots=True)
class PendingWait:
    """An open wait. `kind`: one of `KINDS`; `until_ms`: its deadline, when its time comes or when the step is
    retried, None without; `topic` that of an event; `children`: how many have not ended."""

    kind: str
    step_key: str
    since_ms: int | None
    until_ms: int | None
    topic: str | None = None
    children: int | None = None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> PendingWait:
        """Read a wait in a row of read_statuses.lua."""
        kind, key, since, until, topic, children = row
        return cls(
            *(text(kind), text(key), _number(since), _number(until) or None),
            *(text(topic) or None, _number(children)),
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """What an execution is doing. `word`: one of `STATUSES`; `worker`: the id of the worker that runs it;
    `queued_ms`: since when it has been queued; `starts_ms`: when a delayed one is put on its queue; `ahead`:
    how many executions wait for a slot before it; `reason`: why it is stuck or paused; `error`: why it has
    failed, if that was read; `waits`: some of its open waits, `open_waits` in all."""

    word: str
    workflow_id: str
    created_us: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    worker: str | None = None
    queued_ms: int | None = None
    starts_ms: int | None = None
    ahead: int | None = None
    reason: StuckReason | None = None
    cancelled_by: str | None = None
    running: tuple[RunningAttempt, ...] = ()
    open_waits: int = 0
    waits: tuple[PendingWait, ...] = ()
    error: ErrorRecord | None = None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Condition:
        """Read a row of read_statuses.lua."""
        word, workflow, created, started, finished, worker, queued, starts, ahead, reason, by, *more = row
        running, open_waits, waits = more
        return cls(
            text(word),
            text(workflow),
            _number(created),
            _number(started),
            _number(finished),
            text(worker) or None,
            _number(queued),
            starts_ms(starts or None),
            _number(ahead),
            StuckReason.parse(reason) if reason else None,
            text(by) or None,
            tuple(map(RunningAttempt.from_row, running)),
            int(open_waits),
            tuple(sorted(map(PendingWait.from_row, waits), key=lambda one: one.until_ms or float("inf"))),
        )


class Statuses:
    """The statuses of all executions of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def read(self, execution_ids: Collection[str], most_waits: int = 10) -> dict[str, Condition]:
        """Returns the status of each of these executions that exists, with the newest `most_waits` of its
        waits, the soonest to end first."""
        by_prefix: dict[bytes, list[str]] = {}
        for one in dict.fromkeys(execution_ids):
            by_prefix.setdefault(self._partitions.prefix(one), []).append(one)
        found = await asyncio.gather(
            *(
                self._read(prefix, ids[first : first + PER_CALL], most_waits)
                for prefix, ids in by_prefix.items()
                for first in range(0, len(ids), PER_CALL)
            )
        )
        return {name: status for some in found for name, status in some}

    async def word(self, execution_id: str, stored: bytes) -> str:
        """Returns the word for a stored status of an execution, as a script has replied with it; any other
        reply as it is."""
        word = text(stored)
        if word not in ("queued", "stuck"):  # which can mean running and paused as well
            return word
        found = (await self.read([execution_id], 0)).get(execution_id)
        return word if found is None else found.word

    async def _read(self, prefix: bytes, ids: Sequence[str], most_waits: int) -> list[tuple[str, Condition]]:
        rows = await self._wire.call_script(
            scripts.READ_STATUSES, prefix, most_waits, *map(raw, ids), patience=self._partitions.patience
        )
        return [(one, Condition.from_row(row)) for one, row in zip(ids, rows, strict=True) if row]


def _number(found: bytes | int) -> int | None:
    return None if found == b"" else int(float(found))
