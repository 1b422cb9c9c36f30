"""Lays out an execution's steps, suspensions, waits and children as bars on one time scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from polos_redis.server.pages import times
from polos_redis.server.pages.suspension_summary import outcome
from polos_redis.server.pages.times import duration

MIN_WIDTH = 0.4  # percent, so that short bars stay visible
TICK_STEPS = (  # seconds
    *(step * 10**power for power in range(-3, 2) for step in (1, 2, 5)),
    *(30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800, 2592000, 31536000),
)
ENDED = ("completed", "failed", "cancelled")
MAX_BARS = 200


@dataclass(frozen=True, slots=True)
class Bar:
    """A step, suspension, wait or child. `note` describes its state, `start` is in seconds after the start of
    the scale, `seconds` is its length so far. `x` and `width` are percent of the scale."""

    kind: str
    name: str
    state: str
    note: str
    start: float
    seconds: float
    open: bool
    x: float
    width: float
    href: str = ""

    @property
    def took(self) -> str:
        return f"{duration(self.seconds)} so far" if self.open else duration(self.seconds)


@dataclass(frozen=True, slots=True)
class Tick:
    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """`hidden` counts the earlier bars left out; `seconds` is the length of the scale."""

    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    seconds: float
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class _Interval:
    kind: str
    name: str
    state: str
    note: str
    start: datetime
    end: datetime | None
    href: str = ""


def timeline(execution: Mapping[str, Any], now: datetime | None = None) -> Timeline:
    """Lays out an execution as `client.get_execution` returns it, with bars ordered by start. Of more than
    `MAX_BARS` it keeps the open ones and those that ended last. A child needs `created_at` to get a bar."""
    now = now or datetime.now(UTC)
    intervals = [one for one in _intervals(execution) if not _is_copied(one, execution)]
    start = times.parse(execution["created_at"]) or now
    start = min([start, *(one.start for one in intervals)])
    end = times.parse(execution["finished_at"])
    if end is None or execution["status"] not in ENDED:
        end = now
    end = max([end, *(one.end for one in intervals if one.end is not None), start])
    total = max((end - start).total_seconds(), 0.001)
    newest = sorted(intervals, key=lambda one: (one.end is None, one.end or end))[-MAX_BARS:]
    newest.sort(key=lambda one: (one.start, one.end or now))
    bars = [_bar(one, start, end, total) for one in newest]
    return Timeline(bars, _ticks(total), total, len(intervals) - len(newest))


def _is_copied(one: _Interval, execution: Mapping[str, Any]) -> bool:
    """Returns whether a fork has this from the execution that it was forked from."""
    created = times.parse(execution["created_at"])
    return bool(execution["forked_from"] and created and one.end is not None and one.end < created)


def _bar(one: _Interval, scale_start: datetime, end: datetime, total: float) -> Bar:
    start = max(0.0, (one.start - scale_start).total_seconds())
    seconds = max(0.0, ((one.end or end) - one.start).total_seconds())
    width = min(100.0, max(MIN_WIDTH, 100 * seconds / total))
    x = min(100 * start / total, 100 - width)
    return Bar(
        one.kind,
        one.name,
        one.state,
        one.note,
        start,
        seconds,
        one.end is None,
        round(x, 3),
        round(width, 3),
        one.href,
    )


def _ticks(total: float) -> list[Tick]:
    """Returns ticks at round times."""
    step = next((one for one in TICK_STEPS if total / one <= 5), total)
    count = int(total / step * (1 + 1e-9))
    return [Tick(round(100 * n * step / total, 3), duration(n * step)) for n in range(count + 1)]


def _intervals(execution: Mapping[str, Any]) -> Iterable[_Interval]:
    for step in execution["steps"]:
        start, end = times.parse(step.get("started_at")), times.parse(step.get("finished_at"))
        if start is not None and end is not None:
            attempts = step.get("attempts") or 1
            notes = [
                *([step["status"]] if step["status"] != "ok" else []),
                *([f"{attempts} attempts"] if attempts > 1 else []),
            ]
            end = start + timedelta(milliseconds=step["took_ms"])
            yield _Interval("step", step["step_key"], step["status"], ", ".join(notes), start, end)
    for one in execution["running_steps"]:
        start = times.parse(one["started_at"])
        if start is not None:
            note = "runs" + (f", attempt {one['attempt']}" if one["attempt"] > 1 else "")
            if one["timed_out_at"]:
                note = f"attempt {one['attempt']} timed out, waiting for its thread to end"
            yield _Interval("step", one["step_key"], "running", note, start, None)
    for one in execution["suspensions"]:
        start = times.parse(one["opened_at"])
        if start is not None:
            by = one["resumed_by"]
            end = times.parse(one["decided_at"]) if one["status"] != "open" else None
            note = outcome(one) + (f" by {by}" if by else "")
            if one["status"] != "open" and end is None:
                end = times.parse(one["expires_at"]) or start
            yield _Interval("suspension", one["step_key"], one["status"], note, start, end)
    for wait in execution["waits"]:
        start, decided = times.parse(wait["opened_at"]), times.parse(wait["decided_at"])
        if start is not None:
            note = "waits" if decided is None else "waited"
            note += f" for {wait['topic']}" if wait["topic"] else ""
            yield _Interval("wait", wait["step_key"], wait["status"], note, start, decided)
    for child in execution["children"]:
        start = times.parse(child.get("created_at"))
        if start is not None:
            note = ", ".join(part for part in (child["workflow_id"], child["status"]) if part)
            end = times.parse(child.get("finished_at")) if child["status"] in ENDED else None
            href = f"/executions/{child['id']}"
            yield _Interval("child", child["step_key"], child["status"] or "", note, start, end, href)
