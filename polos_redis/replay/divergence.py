"""Divergences: the first place where code does not take the path that a history has recorded."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from polos_redis.errors import UnreadableValueError
from polos_redis.executions.history import History
from polos_redis.runtime.call_sites import CallSite
from polos_redis.state import journal
from polos_redis.state.journal import StepRecord, SuspensionRecord
from polos_redis.values.plain import readable
from polos_redis.values.text import raw, text

LONGEST_SHOWN = 200  # characters of a value


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference between a replay and its history.

    `kind`: "call" (one that the history does not have), "unreached" (a record that the code does not reach),
    "result", "outcome" (it ends in another way), "unreadable" (a stored value or the input) or "workflow"
    (the workflow is not defined). `step_key` is that of the call or record; `where` the place in the code as
    file:line, empty if there is none; `message` is one sentence.
    """

    execution_id: str
    workflow_id: str
    kind: str
    message: str
    step_key: str | None = None
    where: str = ""

    def __str__(self) -> str:
        return f"{self.workflow_id} {self.execution_id}: {self.message}"


def place(call_site: CallSite) -> str:
    """Returns file:line, with the path from the working directory if the file is below it."""
    code, line = call_site
    path = code.co_filename
    return f"{path.removeprefix(f'{Path.cwd()}{os.sep}')}:{line}"


def recorded(history: History, step_key: str) -> str:
    """Returns a journaled step as messages name it."""
    try:
        record = journal.parse(history.records[raw(step_key)])
    except UnreadableValueError:
        return f"the record of {step_key!r}"
    if isinstance(record, SuspensionRecord) and record.status == "answered":
        return f"the decision on {step_key!r}" + (f" by {record.by}" if record.by else "")
    word = "open suspension" if isinstance(record, SuspensionRecord) else journal.word_for(type(record))
    return f"the {word} {step_key!r}"


def started_ms(history: History, step_key: str) -> float:
    """Returns when a step was started or a wait was opened."""
    try:
        record = journal.parse(history.records[raw(step_key)])
    except UnreadableValueError:
        return 0
    return record.finished_ms - record.took_ms if isinstance(record, StepRecord) else record.opened_ms


def how_it_was(history: History) -> str:
    """Returns the recorded status as the end of a sentence about the execution."""
    if history.status == "waiting":
        waits = _open(history)
        return "waits for " + " and ".join(map(repr, waits)) if waits else "waits"
    return {
        "completed": "completed",
        "failed": "failed",
        "cancelled": "was cancelled",
    }.get(history.status, f"is {history.status}")


def _open(history: History) -> list[str]:
    """The step keys of the open waits."""
    found = []
    for name, record in history.records.items():
        if name and not journal.is_result(name):
            try:
                found += [text(name)] if journal.is_open(record) else []
            except UnreadableValueError:
                continue
    return sorted(found)


def shown(stored: bytes) -> str:
    """Returns a stored value as JSON on one line, cut if it is long."""
    rendered = json.dumps(readable(stored), ensure_ascii=False)
    return rendered if len(rendered) <= LONGEST_SHOWN else rendered[:LONGEST_SHOWN] + " ..."
