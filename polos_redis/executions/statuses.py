"""Tells what executions are doing, in the same words wherever people look: CLI, API and pages.

`status_view` has the facts. `details` puts them into words: what follows the status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from polos_redis.decisions.views import Read
from polos_redis.redaction import redact_text
from polos_redis.results import OpenWait, RunningStep
from polos_redis.state.statuses import KINDS, Condition, PendingWait
from polos_redis.values.plain import readable
from polos_redis.values.times import iso, to_iso, utc

MOST_OF_ERROR: Final = 200  # characters

_NOUNS: Final = {
    "person": ("a person", "people"),
    "time": ("a time", "times"),
    "event": ("an event", "events"),
    "child": ("a child", "children"),
    "retry": ("a retry", "retries"),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time within a text, in ISO 8601: since when something is as it is, or until when."""

    word: Literal["since", "until"]
    at: str


Part = str | Moment


def status_view(status: Condition, read: Read = readable) -> dict[str, Any]:
    """Returns the facts about what an execution is doing, as fields of an `ExecutionSummary`. `read` makes
    plain JSON of stored values."""
    return {
        "status": status.word,
        "worker": status.worker,
        "queued_at": iso(status.queued_ms),
        "starts_at": iso(status.starts_ms),
        "ahead": status.ahead,
        "running_steps": [
            RunningStep(
                step_key=one.step_key,
                attempt=one.attempt,
                started_at=to_iso(one.since_ms),
                timed_out_at=iso(one.timed_out_ms),
                progress=read(one.progress or None),
                progress_at=iso(one.progress_ms),
            )
            for one in status.running
        ],
        "waits_for": [_wait_view(one) for one in status.waits],
        "open_waits": status.open_waits,
        "reason": _reason(status),
        "cancelled_by": status.cancelled_by,
    }


def _reason(status: Condition) -> str | None:
    if status.reason is not None:
        return redact_text(status.reason.message)
    if status.error is None:
        return None
    words = (status.error.type, *redact_text(status.error.message).split())
    found = f"{words[0]}: {' '.join(words[1:])}" if words[1:] else words[0]
    return found if len(found) <= MOST_OF_ERROR else f"{found[:MOST_OF_ERROR]} ..."


def _wait_view(wait: PendingWait) -> OpenWait:
    return OpenWait(
        kind=cast("Any", wait.kind),
        step_key=wait.step_key,
        since=iso(wait.since_ms),
        until=iso(wait.until_ms),
        topic=wait.topic,
        children=wait.children,
    )


def sentence(view: Mapping[str, Any]) -> list[Part]:
    """Returns the status and its details in words: "running charge, attempt 2, since ..., on worker 1f0c"."""
    word, rest = view["status"], details(view)
    return [f"{word}: " if word in ("failed", "stuck", "paused") else f"{word} ", *rest] if rest else [word]


def in_text(parts: Iterable[Part]) -> str:
    """Returns parts as plain text, with their times in UTC."""
    return "".join(one if isinstance(one, str) else f"{one.word} {utc(one.at)}" for one in parts)


def details(view: Mapping[str, Any]) -> list[Part]:
    """Returns what follows the status, empty if there is nothing to add: the step that runs, its attempt,
    since when and on which worker; what the execution waits for and until when; its place in the queue; why
    it has failed, is stuck or paused; who has cancelled it. `view` has at least the keys of `status_view`."""
    match view["status"]:
        case "queued":
            return _place(view)
        case "running":
            return _running(view)
        case "waiting":
            waits = _waits(view)
            return ["for ", *waits] if waits else []
        case "failed" | "stuck" | "paused" if view["reason"]:
            return [view["reason"]]
        case "cancelled" if view["cancelled_by"]:
            return [f"by {view['cancelled_by']}"]
    return []


def _place(view: Mapping[str, Any]) -> list[Part]:
    if view["starts_at"]:
        return [Moment("until", view["starts_at"])]
    parts: list[Part] = []
    if view["ahead"] is not None:
        others = (
            f"behind {view['ahead']:,} other{'' if view['ahead'] == 1 else 's'}, " if view["ahead"] else ""
        )
        parts.append(f"for a slot {others}")
    return [*parts, Moment("since", view["queued_at"])] if view["queued_at"] else parts


def _running(view: Mapping[str, Any]) -> list[Part]:
    steps = view["running_steps"]
    worker = f"on worker {view['worker']}"
    if not steps:
        return [worker]
    first, others = steps[0], len(steps) - 1
    more = f"and {others:,} more, " if others else ""
    return [f"{first['step_key']}, ", *attempt_details(first), f", {more}{worker}"]


def attempt_details(step: Mapping[str, Any]) -> list[Part]:
    """Returns what a running step's attempt does and since when: "attempt 2, since ...". The number of a
    first attempt is left out while its function runs."""
    if step["timed_out_at"]:
        waits = f"attempt {step['attempt']} timed out, waiting for its thread to end "
        return [waits, Moment("since", step["timed_out_at"])]
    attempt = [f"attempt {step['attempt']}, "] if step["attempt"] > 1 else []
    return [*attempt, Moment("since", step["started_at"])]


def _waits(view: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = []
    found: list[Mapping[str, Any]] = view["waits_for"]
    for kind in KINDS:
        these = [one for one in found if one["kind"] == kind]
        if not these:
            continue
        one, many = _NOUNS[kind]
        number = sum(wait["children"] or 1 for wait in these)
        parts.append(f"{' and ' if parts else ''}{one if number == 1 else f'{number:,} {many}'}")
        if len(these) == 1:
            parts.append(f" ({these[0]['step_key']})")
        moment = _moment(these)
        if moment is not None:
            parts += [" ", moment]
    others = view["open_waits"] - len(found)
    if others > 0:
        parts.append(f" and {others:,} more")
    return parts


def _moment(waits: Sequence[Mapping[str, Any]]) -> Moment | None:
    """Returns until when the soonest of these waits lasts; without any deadline, since when they are open."""
    for word in ("until", "since"):
        at = min((one[word] for one in waits if one[word]), default=None)
        if at is not None:
            return Moment(word, at)
    return None
