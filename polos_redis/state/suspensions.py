"""Suspensions: opening, answering and listing them, and their audit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from polos_redis.state import keys, scripts
from polos_redis.state.partitions import Partitions, pack_roots
from polos_redis.values.names import canonical
from polos_redis.values.text import raw, text
from polos_redis.values.versioned import items_of
from polos_redis.wire.transport import Script

MOST_ROWS = 1000  # rows that a page looks at, in each partition
MOST_BYTES = 1 << 20  # of records that a page returns, and reads from each partition, beyond the last one

_ACCEPTED = (b"accepted", b"same", b"kept", b"recorded")  # tags of the replies to answers that stand

_pack = msgpack.Packer(use_bin_type=False).pack  # no bin type: the scripts' cmsgpack can't read it


@dataclass(frozen=True, slots=True)
class SuspensionRequest:
    """A suspension to open.

    It shows `shown` (codec), whose digest is `digest`. `timeout_ms` is 0 for none, `audit_ms` the retention
    of its audit, `policy` the packed answer policy. `default` is the answer (codec) after the timeout, empty
    for none. `event_data` is the data of its event if that differs from `shown`. `channels` notify people.
    `run` is the execution's. `form` (codec) is the form that its page shows, empty for none.
    """

    shown: bytes
    digest: bytes
    timeout_ms: int
    audit_ms: int
    policy: bytes = b""
    default: bytes = b""
    event_data: bytes = b""
    channels: Sequence[str] = ()
    run: int = 1
    form: bytes = b""

    def pack_optional(self) -> bytes:
        """Returns the script's argument for optional fields; empty if all have their defaults."""
        found: dict[str, Any] = {name: value for name in _OPTIONAL if (value := getattr(self, name))}
        if self.run > 1:
            found["run"] = self.run
        packed: bytes = _pack(found) if found else b""
        return packed


_OPTIONAL = ("policy", "default", "event_data", "channels", "form")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a suspension: its value (codec) and canonical digest, who gives it and how.

    `key_id` is the id of the API key it is given with, empty for none. An early answer only counts if that
    key is still valid when the suspension opens.

    `opening` is the opening of the suspension it was checked against, empty for none. `approves` says whether
    it counts as an approval.
    """

    value: bytes
    digest: bytes
    by: str
    groups: Sequence[str]
    channel: str
    opening: str = ""
    approves: bool = False
    key_id: str = ""


def acknowledges(script: Script, reply: Any) -> bool:
    """Whether a script's reply acknowledges a change, made by this call or by an earlier one."""
    return script is not scripts.ANSWER or reply[0] in _ACCEPTED


class Suspensions:
    """All suspensions of the namespace. An activation opens them with `FencedWrites.suspend`."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire
        self._acknowledging = partitions.acknowledging

    async def answer(
        self, execution_id: str, step_key: str, answer: Answer, *, early: bool, invalid_key: str = ""
    ) -> list[Any]:
        """Decide a suspension; returns the tagged reply of answer.lua. With `early`, an answer that comes
        before its suspension is kept. It replaces one that was given with the API key `invalid_key`."""
        reply: list[Any] = await self._acknowledging.call_script(
            scripts.ANSWER,
            self._partitions.prefix(execution_id),
            raw(execution_id),
            raw(step_key),
            answer.value,
            answer.digest,
            raw(answer.by),
            answer.channel,
            int(early),
            answer.opening,
            int(answer.approves),
            _pack([raw(group) for group in answer.groups]) if answer.groups else b"",
            raw(canonical(answer.by)),
            answer.key_id,
            invalid_key,
            patience=self._partitions.patience,
        )
        return reply

    async def early_answer(self, execution_id: str, step_key: str) -> Answer | None:
        """Returns the answer that came before its suspension; None if there is none."""
        key = self._partitions.prefix(execution_id) + keys.EARLY.encode() + raw(execution_id)
        packed = await self._wire.call("HGET", key, raw(step_key), patience=self._partitions.patience)
        return None if packed is None else _early(packed)

    async def early_answers(self, execution_id: str) -> dict[str, Answer | None]:
        """Returns the answers that came before their suspensions, by step key; None for a damaged one."""
        key = self._partitions.prefix(execution_id) + keys.EARLY.encode() + raw(execution_id)
        flat = await self._wire.call("HGETALL", key, patience=self._partitions.patience)
        found: dict[str, Answer | None] = {}
        for step, packed in zip(flat[::2], flat[1::2], strict=True):
            try:
                found[text(step)] = _early(packed)
            except Exception:
                found[text(step)] = None
        return found

    async def drop_early_answer(self, execution_id: str, step_key: str, answer: Answer) -> None:
        """Remove an early answer that was accepted or refused; the audit names one that was refused."""
        await self._wire.call_script(
            scripts.DROP_EARLY,
            self._partitions.prefix(execution_id),
            raw(execution_id),
            raw(step_key),
            answer.digest,
            patience=self._partitions.patience,
        )

    async def below(self, root_id: str) -> AsyncIterator[list[tuple[str, str]]]:
        """Yields pages of (execution id, step key): the suspensions below a root, open or decided."""
        key = self._partitions.prefix(root_id) + keys.BELOW.encode() + raw(root_id)
        cursor = b"0"
        while True:
            cursor, members = await self._wire.call(
                "SSCAN", key, cursor, "COUNT", MOST_ROWS, patience=self._partitions.patience
            )
            names = [text(member).partition(" ") for member in members]
            yield [(execution_id, step_key) for execution_id, _, step_key in names]
            if cursor == b"0":
                return

    async def open_below(self, root_id: str, most: int) -> list[tuple[str, str]]:
        """Returns open suspensions of a root's descendants, `most` at most: (execution id, step key)."""
        key = self._partitions.prefix(root_id) + keys.SUSPENSIONS.encode()
        found: dict[tuple[str, str], None] = {}
        async for names in self.below(root_id):
            if names:
                members = [raw(f"{execution_id} {step_key}") for execution_id, step_key in names]
                scores = await self._wire.call("ZMSCORE", key, *members, patience=self._partitions.patience)
                found |= {name: None for name, score in zip(names, scores, strict=True) if score is not None}
            if len(found) >= most:
                break
        return list(found)[:most]

    async def oldest_open(
        self, after: str, limit: int, workflow: str = "", roots: Collection[str] = ()
    ) -> tuple[list[list[Any]], str | None]:
        """Returns open suspensions, oldest first, and where the next page begins (us), None after the last.

        A row is [execution id, step key, workflow, opened us, record, 1 if code no longer reaches it].
        A page that is not the last may have fewer rows than `limit`, even none: after many rows of other
        workflows, or when records are large. With `roots`, the page is restricted to executions whose root is
        of one of these workflows.
        """
        found: list[list[Any]] = []
        next_pages: list[int] = []
        for prefix in self._partitions.prefixes:
            next_page, rows = await self._wire.call_script(
                scripts.LIST_SUSPENSIONS,
                prefix,
                after,
                limit,
                raw(workflow),
                MOST_ROWS,
                MOST_BYTES,
                pack_roots(roots),
                patience=self._partitions.patience,
            )
            found += rows
            next_pages += [int(next_page)] if next_page else []
        # Beyond the lowest of them, some partition has rows that were not read.
        complete = min(next_pages, default=None)
        rows = sorted(
            (row for row in found if complete is None or int(row[3]) <= complete), key=lambda row: int(row[3])
        )
        fitting = _fitting(rows[:limit])
        if len(rows) > fitting:
            return rows[:fitting], text(rows[fitting - 1][3])
        return rows, None if complete is None else str(complete)

    async def audit(self, root_id: str, skipped: int, count: int) -> tuple[int, list[bytes]]:
        """Returns the number of audit entries of a root and its descendants, and some of them packed, oldest
        first. Large entries make it fewer than `count`, but not none."""
        total, found = await self._wire.call_script(
            scripts.READ_AUDIT,
            self._partitions.prefix(root_id),
            raw(root_id),
            skipped,
            count,
            MOST_BYTES,
            patience=self._partitions.patience,
        )
        return total, found


def _fitting(rows: list[list[Any]]) -> int:
    """Returns how many rows make up about `MOST_BYTES` of records."""
    size = 0
    for count, row in enumerate(rows, 1):
        size += len(row[4] or b"")
        if size > MOST_BYTES:
            return count
    return len(rows)


def _early(packed: bytes) -> Answer:
    stored = items_of("an early answer", msgpack.unpackb(packed, raw=True))
    value, digest, by, channel, _, groups, key_id, *_ = stored
    names = [text(group) for group in msgpack.unpackb(groups, raw=True)] if groups else []
    return Answer(value, digest, text(by), names, text(channel), key_id=text(key_id))
