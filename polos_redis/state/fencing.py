"""Fenced writes: those of an activation, without effect once another activation owns the execution.

Every write names the activation's queue entry and owner nonce and the number of journal changes it knows of.
The methods of `FencedWrites` return the wire's future and repeat nothing: when the connection is lost, the
activation decides what to do.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from polos_redis.state import scripts
from polos_redis.state.partitions import Partitions
from polos_redis.state.start import Child
from polos_redis.state.suspensions import SuspensionRequest
from polos_redis.values.text import raw
from polos_redis.wire.transport import Arg, Script

LOST, WENT_BACK, NO_SUCH_WAIT = -1, -2, -3  # replies to a write that was refused

_pack = msgpack.Packer(use_bin_type=False).pack  # no bin type: the scripts' cmsgpack can't read it


class Fence(NamedTuple):
    """The identity of a writer, as scripts take it: an activation's execution, queue entry and owner
    nonce."""

    prefix: bytes
    id: bytes
    entry: bytes
    owner: bytes


class RaceMembership(NamedTuple):
    """The races a wait takes part in. `race` is the step key of the race it decides, empty for none; `races`
    a msgpack list of [race, branch, step keys started in that branch ...], empty for none."""

    race: bytes = b""
    races: bytes = b""

    @classmethod
    def of(cls, race: bytes, races: Sequence[Sequence[bytes]]) -> RaceMembership:
        """Returns the membership, packed for `join` in scripts/lib/resolve.lua."""
        return cls(race, _pack(races) if races else b"")


class NotedStep(NamedTuple):
    """A step that runs, as note_starts.lua takes it: for how many ms, whether its start was emitted before,
    and how many ms ago its attempt has timed out, None if it has not."""

    key: bytes
    attempt: int
    age_ms: int
    emitted: bool
    timed_out_ms: int | None = None


class FencedWrites:
    """All writes of activations. `by` is the writer's fence, `known` the number of journal changes it knows,
    `events` alternates types and encoded data.

    `park`, `stick`, `finish` and `continue_as_new` end the activation. `answers` says how many answers that
    were accepted since its execution was queued the activation has seen. When there are more, they change
    nothing, and reply with the journal's number of changes, which is above 0: the activation has to look
    again.
    """

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    def _run(self, script: Script, by: Fence, known: int, *rest: Arg) -> Future[Any]:
        return self._wire.run(script, *by, known, *rest)

    def write(
        self, by: Fence, known: int, key: bytes, record: bytes, starts: bytes, events: Sequence[bytes] = ()
    ) -> Future[int]:
        """Journal a step's record. One that has succeeded comes without events, and with the `starts` that
        are emitted with it, see write_step.lua. With an empty key, emit events only."""
        return self._wire.run(scripts.WRITE_STEP, *by, known, key, record, starts, *events)

    def note_starts(self, by: Fence, known: int, first: bool, steps: Sequence[NotedStep]) -> Future[int]:
        """Note the steps that run; with `first`, emit the start of the execution."""
        return self._run(scripts.NOTE_STARTS, by, known, _pack(steps), b"1" if first else b"")

    def note_progress(
        self, by: Fence, known: int, reports: Sequence[tuple[bytes, int, bytes]]
    ) -> Future[int]:
        """Store what steps that run have reported: key, attempt and value (codec)."""
        return self._run(scripts.NOTE_PROGRESS, by, known, _pack(reports))

    def note_span(self, by: Fence, origin: bytes) -> Future[int]:
        """Store an origin with the span of this activation, for the next one to link to."""
        return self._wire.run(scripts.NOTE_SPAN, *by, origin)

    def backoff(
        self,
        by: Fence,
        known: int,
        key: bytes,
        record: bytes,
        *,
        delay_ms: int,
        races: bytes,
        events: Sequence[bytes],
    ) -> Future[int]:
        """Journal a failed attempt and wait for its retry; `races` as in `RaceMembership`."""
        return self._run(scripts.BACK_OFF, by, known, key, record, delay_ms, races, *events)

    def suspend(
        self,
        by: Fence,
        known: int,
        key: bytes,
        request: SuspensionRequest,
        race_membership: RaceMembership,
        events: Sequence[bytes],
    ) -> Future[Any]:
        """Open a wait for a person."""
        return self._run(
            scripts.SUSPEND,
            by,
            known,
            key,
            request.timeout_ms,
            request.shown,
            *race_membership,
            request.digest,
            request.audit_ms,
            request.pack_optional(),
            *events,
        )

    def wait(
        self,
        by: Fence,
        known: int,
        key: bytes,
        *,
        for_ms: int | None,
        until_ms: int | None,
        topic: str,
        subscriber: str,
        race_membership: RaceMembership,
        events: Sequence[bytes],
    ) -> Future[Any]:
        """Open a wait for a time, or for an event of a topic as its subscriber."""
        return self._run(
            scripts.OPEN_WAIT,
            by,
            known,
            key,
            "" if for_ms is None else for_ms,
            "" if until_ms is None else until_ms,
            raw(topic),
            raw(subscriber),
            *race_membership,
            *events,
        )

    def spawn(
        self,
        by: Fence,
        known: int,
        key: bytes,
        *,
        status: str,
        total: int,
        first: int,
        retention_ms: int,
        children: Sequence[Child],
        race_membership: RaceMembership,
        events: Sequence[bytes],
    ) -> Future[Any]:
        """Start some of a step's `total` children; `first` is the index of the first of them."""
        parts: list[Any] = []
        for child in children:
            options = child.start.pack(self._partitions, child.id, parent=by.id, key=key)
            parts += (child.id, raw(child.workflow_id), child.input, options)
        return self._run(
            scripts.START_CHILDREN,
            by,
            known,
            key,
            status,
            total,
            first,
            retention_ms,
            *race_membership,
            len(events),
            *events,
            *parts,
        )

    def choose(
        self, by: Fence, known: int, key: bytes, branch: bytes, races: bytes, started: Sequence[bytes]
    ) -> Future[Any]:
        """Journal the winner of a race and close the waits of the other branches; `races` are those around
        this one, as in `RaceMembership`."""
        return self._run(scripts.CHOOSE_WINNER, by, known, key, branch, races, *started)

    def park(
        self,
        by: Fence,
        known: int,
        answers: int,
        state: bytes,
        given_up: Sequence[bytes],
        waits: Sequence[bytes],
        unreached: Sequence[bytes] = (),
    ) -> Future[Any]:
        """End the activation at its open waits, closing those it has given up as `give_up` does; `unreached`
        are the open suspensions in its journal that its code has not reached."""
        passed_over = _pack(unreached) if unreached else b""
        return self._run(
            scripts.PARK, by, known, state, answers, passed_over, len(given_up), *given_up, *waits
        )

    def give_up(self, by: Fence, known: int, given_up: Sequence[bytes]) -> Future[int]:
        """Close waits that the code has given up; those that are answered are marked as left."""
        return self._run(scripts.GIVE_UP, by, known, *given_up)

    def stick(
        self,
        by: Fence,
        known: int,
        answers: int,
        state: bytes,
        reason: bytes,
        error: bytes = b"",
        events: Sequence[bytes] = (),
    ) -> Future[int]:
        """End the activation, and leave its execution stuck, or with an `error` paused, until somebody
        retries or cancels it; `reason` is a packed `StuckReason`."""
        return self._run(scripts.STICK, by, known, state, answers, reason, error, *events)

    def finish(
        self,
        by: Fence,
        known: int,
        answers: int,
        status: str,
        value: bytes,
        event: bytes,
        fields: Sequence[bytes],
        events: Sequence[bytes],
    ) -> Future[int]:
        """End the execution with its output or error. `event` is its finish event, `fields` what else is
        stored with it: names and values in turn."""
        return self._run(
            scripts.FINISH,
            by,
            known,
            answers,
            status,
            value,
            event,
            _pack(fields) if fields else b"",
            *events,
        )

    def continue_as_new(
        self,
        by: Fence,
        known: int,
        answers: int,
        input: bytes,
        origin: bytes,
        state: bytes,
        events: Sequence[bytes],
    ) -> Future[Any]:
        """End the activation, and begin the next run with this input and origin and an empty journal. Replies
        with the step keys of open waits, if there are any, having changed nothing."""
        return self._run(scripts.CONTINUE_AS_NEW, by, known, answers, input, origin, state, *events)

    def auto_retry(
        self, by: Fence, known: int, error: bytes, times: int, delay_ms: int, events: Sequence[bytes]
    ) -> Future[int]:
        """Let a failed execution go on as a new run and reply with the number of that run; 0 if it has been
        retried `times` times before."""
        return self._run(scripts.AUTO_RETRY, by, known, error, times, delay_ms, *events)
