"""Times as people read them. The pages' script puts them into the reader's own time zone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from polos_redis.server.pages.words import about, span, until


def parse(text: Any) -> datetime | None:
    """An aware time in ISO 8601; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def written(moment: datetime, *, seconds: bool = False) -> str:
    """ "3 Mar 2026, 14:05 UTC"."""
    clock = moment.strftime("%H:%M:%S" if seconds else "%H:%M")
    return f"{moment.day} {moment:%b} {moment.year}, {clock} UTC"


def when(iso: str | None, *, seconds: bool = False) -> Markup:
    """A moment, with its date."""
    moment = parse(iso)
    if moment is None:
        return Markup("&ndash;")
    return _time(moment, written(moment, seconds=seconds), "seconds" if seconds else "full")


def ago(iso: str | None) -> Markup:
    """How long ago a moment is: "5 minutes ago"."""
    moment = parse(iso)
    if moment is None:
        return Markup("&ndash;")
    passed = (datetime.now(UTC) - moment).total_seconds()
    return _time(moment, "just now" if passed < 60 else f"{about(passed)} ago", "ago")


def left(iso: str | None) -> Markup:
    """How long it is until a moment: "in 5 minutes"; past, as `ago`."""
    moment = parse(iso)
    if moment is None:
        return Markup("&ndash;")
    to_go = (moment - datetime.now(UTC)).total_seconds()
    return _time(moment, f"in {until(to_go)}", "left") if to_go > 0 else ago(iso)


def took(execution: Mapping[str, Any]) -> str:
    """How long an execution that has ended took; empty for others."""
    begun, ended = parse(execution["created_at"]), parse(execution["finished_at"])
    return span((ended - begun).total_seconds()) if begun and ended else ""


def _time(moment: datetime, text: str, style: str) -> Markup:
    return Markup('<time datetime="{}" data-told="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), style, written(moment, seconds=True), text
    )
