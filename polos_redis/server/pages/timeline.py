"""An execution in time: its steps and waits as bars on one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from polos_redis.server.pages import times
from polos_redis.server.pages.display import outcome
from polos_redis.server.pages.words import span

LEAST_WIDTH = 0.4  # percent: what is shorter is still seen
TICKS = (
    *(step * 10**power for power in range(-3, 2) for step in (1, 2, 5)),
    *(30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800, 2592000, 31536000),
)
ENDED = ("completed", "failed", "cancelled")
MOST_BARS = 500


@dataclass(frozen=True, slots=True)
class Bar:
    """One step, suspension, wait or child: what it is, how it stands (`note` says so in words), when it began
    (seconds after the execution was created) and how long it took. `x` and `width` are percent of the scale.
    """

    kind: str
    name: str
    state: str
    note: str
    began: float
    took: float
    open: bool
    x: float
    width: float
    href: str = ""

    @property
    def told(self) -> str:
        return f"{span(self.took)} so far" if self.open else span(self.took)


@dataclass(frozen=True, slots=True)
class Tick:
    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """`hidden` is how many earlier bars are left out; `seconds` is the length of the whole scale."""

    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    seconds: float
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class _Span:
    kind: str
    name: str
    state: str
    note: str
    start: datetime
    end: datetime | None
    href: str = ""


def timeline(execution: Mapping[str, Any], now: datetime | None = None) -> Timeline:
    """The bars of an execution as `client.get_execution` has it, by when they began: of very many, those that
    ended last and those that are open. A child of it may have `created_at` and `finished_at`, then it is one
    of them."""
    now = now or datetime.now(UTC)
    spans = list(_spans(execution))
    begin = times.parse(execution["created_at"]) or now
    begin = min([begin, *(one.start for one in spans)])
    end = times.parse(execution["finished_at"])
    if end is None or execution["status"] not in ENDED:
        end = now
    end = max([end, *(one.end for one in spans if one.end is not None), begin])
    total = max((end - begin).total_seconds(), 0.001)
    newest = sorted(spans, key=lambda one: (one.end is None, one.end or end))[-MOST_BARS:]
    newest.sort(key=lambda one: (one.start, one.end or now))
    bars = [_bar(one, begin, end, total) for one in newest]
    return Timeline(bars, _ticks(total), total, len(spans) - len(newest))


def _bar(one: _Span, begin: datetime, end: datetime, total: float) -> Bar:
    began = max(0.0, (one.start - begin).total_seconds())
    took = max(0.0, ((one.end or end) - one.start).total_seconds())
    width = min(100.0, max(LEAST_WIDTH, 100 * took / total))
    x = min(100 * began / total, 100 - width)
    return Bar(
        one.kind,
        one.name,
        one.state,
        one.note,
        began,
        took,
        one.end is None,
        round(x, 3),
        round(width, 3),
        one.href,
    )


def _ticks(total: float) -> list[Tick]:
    """Some round times along the scale."""
    step = next((one for one in TICKS if total / one <= 5), total)
    count = int(total / step * (1 + 1e-9))
    return [Tick(round(100 * number * step / total, 3), span(number * step)) for number in range(count + 1)]


def _spans(execution: Mapping[str, Any]) -> Iterable[_Span]:
    for step in execution["steps"]:
        start, end = times.parse(step.get("started_at")), times.parse(step.get("finished_at"))
        if start is not None and end is not None:
            tries = step.get("attempts") or 1
            told = [
                *([step["status"]] if step["status"] != "ok" else []),
                *([f"{tries} attempts"] if tries > 1 else []),
            ]
            end = start + timedelta(milliseconds=step["took_ms"])
            yield _Span("step", step["step_key"], step["status"], ", ".join(told), start, end)
    for one in execution["suspensions"]:
        start = times.parse(one["opened_at"])
        if start is not None:
            by = one["resumed_by"]
            end = times.parse(one["decided_at"]) if one["status"] != "open" else None
            note = outcome(one) + (f" by {by}" if by else "")
            if one["status"] != "open" and end is None:
                end = times.parse(one["expires_at"]) or start
            yield _Span("suspension", one["step_key"], one["status"], note, start, end)
    for wait in execution["waits"]:
        start, decided = times.parse(wait["opened_at"]), times.parse(wait["decided_at"])
        if start is not None:
            note = f"waits for {wait['topic']}" if wait["topic"] else "waits"
            if decided is not None:
                note = note.replace("waits", "waited", 1)
            yield _Span("wait", wait["step_key"], wait["status"], note, start, decided)
    for child in execution["children"]:
        start = times.parse(child.get("created_at"))
        if start is not None:
            note = ", ".join(part for part in (child["workflow_id"], child["status"]) if part)
            end = times.parse(child.get("finished_at")) if child["status"] in ENDED else None
            href = f"/executions/{child['id']}"
            yield _Span("child", child["step_key"], child["status"] or "", note, start, end, href)
