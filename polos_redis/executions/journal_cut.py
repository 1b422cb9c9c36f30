"""The part of a journal that a fork keeps: what had ended when a step began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import floor
from typing import Any

import msgpack

from polos_redis.state import journal
from polos_redis.state.journal import (
    ChildRecord,
    RaceRecord,
    Record,
    StepRecord,
    SuspensionRecord,
    WaitRecord,
)
from polos_redis.values.text import raw

_pack: Callable[[list[Any]], bytes] = msgpack.Packer(use_bin_type=False).pack
_RESULT_STEP = 3  # in a child's result: the step key that waits for it
_MEMBERS = 6  # in a race
_CHILD_WITH_RACE = 9  # items of a child's record, without the execution whose children they are


def cut(
    execution_id: str, stored: Mapping[bytes, bytes], step_key: str, *, keep_decisions: bool
) -> dict[bytes, bytes]:
    """Returns the records of an execution's journal that had ended when a step of it began, which has a
    record: steps, waits, children with their results, and decided races.

    Suspensions are among them only with `keep_decisions`. What began before and had not ended is left out,
    and so is a race whose winner is left out, with what it closed. The records of steps that started children
    get the execution's id.

    Sequential code's records are told apart exactly. Of waits and children that began in the millisecond in
    which the step did, those that ended in it count as ended before. Raises `UnreadableValueError` for a
    damaged record, and `KeyError` if the step has none.
    """
    records = {name: journal.parse(one) for name, one in stored.items() if journal.is_step_key(name)}
    first = raw(step_key)
    start = _StepStart(records[first], stored[first])
    kept = {
        name: record
        for name, record in records.items()
        if name != first
        and start.comes_after(record, stored[name])
        and (keep_decisions or not isinstance(record, SuspensionRecord))
    }
    _drop_undone_races(records, kept)
    found = {name: _copied(execution_id, record, stored[name], kept) for name, record in kept.items()}
    children = {name: one for name, one in stored.items() if journal.is_result(name)}
    return found | {name: one for name, one in children.items() if _awaited_by(one) in kept}


class _StepStart:
    """When a step began, ms, among the records of its journal."""

    def __init__(self, record: Record, stored: bytes) -> None:
        self._is_step = isinstance(record, StepRecord)
        if isinstance(record, StepRecord):
            self._finished = journal.finished_at(stored)
            self._began = self._finished - record.took_ms
        else:
            self._finished = self._began = float(record.opened_ms)

    def comes_after(self, record: Record, stored: bytes) -> bool:
        """Returns whether a record had ended when the step began."""
        if isinstance(record, StepRecord):
            return record.status in ("ok", "failed", "abandoned") and self._follows_step(
                journal.finished_at(stored)
            )
        ended = _ended_ms(record)
        if ended is None:
            return False
        if record.status == "closed":
            return ended < floor(self._began)  # in that millisecond, the end that followed may have closed it
        if ended <= self._began or (record.opened_ms < floor(self._began) and ended <= self._finished):
            return True
        # as in `_follows_step`
        return self._is_step and ended <= self._finished and ended < self._began + 1

    def _follows_step(self, at: float) -> bool:
        if not self._is_step:
            return floor(at) <= self._began
        # the time of a step that has its own event is up to a millisecond early
        return at <= self._began or at < min(self._finished, self._began + 1)


def _ended_ms(record: SuspensionRecord | WaitRecord | ChildRecord | RaceRecord) -> int | None:
    """When a wait or race was decided, or all children were started that nobody waits for; None before."""
    if isinstance(record, ChildRecord) and record.status == "started":
        return record.opened_ms if record.started == record.children else None
    return None if record.status == "open" else record.decided_ms


def _items(stored: bytes) -> list[Any]:
    found: list[Any] = msgpack.unpackb(stored, raw=True, strict_map_key=False)
    return found


def _drop_undone_races(records: Mapping[bytes, Record], kept: dict[bytes, Record]) -> None:
    """Drops from `kept` the races that a dropped record had decided, and what they had closed."""
    while True:
        undone = {
            name: record
            for name, record in records.items()
            if isinstance(record, RaceRecord) and (name not in kept or _is_undone(record, kept))
        }
        gone = set(undone)
        for race in undone.values():
            gone |= {raw(member) for member in race.members}
        dropped = [
            name
            for name, record in kept.items()
            if name in undone
            or (
                record.status in ("closed", "abandoned")
                and (name in gone or any(race in undone for race in _branches(record)))
            )
        ]
        if not dropped:
            return
        for name in dropped:
            del kept[name]


def _is_undone(race: RaceRecord, kept: Mapping[bytes, Record]) -> bool:
    return any(branch == race.winner and raw(member) not in kept for member, branch in race.members.items())


def _branches(record: Record) -> list[bytes]:
    """Returns the races that a step ran in."""
    return [race for race, _ in record.branches] if isinstance(record, StepRecord) else []


def _copied(execution_id: str, record: Record, stored: bytes, kept: Mapping[bytes, Record]) -> bytes:
    """Returns a record as it stands in the fork."""
    if isinstance(record, ChildRecord) and not record.of:
        items = _items(stored)
        items += [b""] * (_CHILD_WITH_RACE - len(items))
        return _pack([*items, execution_id])
    if isinstance(record, RaceRecord):
        items = _items(stored)
        items[_MEMBERS] = [
            part
            for member, branch in record.members.items()
            if raw(member) in kept
            for part in (raw(member), raw(branch))
        ]
        return _pack(items)
    return stored


def _awaited_by(result: bytes) -> bytes | None:
    """Returns the step key that a child's result is for; None of a damaged result."""
    try:
        found = _items(result)[_RESULT_STEP]
    except Exception:
        return None
    return found if isinstance(found, bytes) else None
