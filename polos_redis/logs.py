"""Logging: the package's loggers, a filter that adds the execution to anybody's records, and the formatters
of its command: one line of text with key=value pairs, or one JSON object per line. Tokens of links and
secrets of API keys are redacted, and characters that a terminal would obey are escaped."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from polos_redis import failures, tasks
from polos_redis.redaction import redact_text
from polos_redis.values.text import visible, visible_json

LOGGERS = ("polos.execution", "polos.notices", "polos.server", "polos.wire", "polos.worker", "polos.workflow")

_RUNTIME = frozenset(LOGGERS) - {"polos.workflow"}
# What every record has, and uvicorn's message again, with terminal colours.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_UNQUOTED = re.compile(r'[^\s"]+')


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def guard_loggers() -> None:
    """Make the package's loggers safe to call anywhere: what an application's filter or handler raises goes
    to stderr, not into the code that logs."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        vars(logger)["handle"] = _guarded(logger.handle)


def _guarded(handle: Callable[[logging.LogRecord], None]) -> Callable[[logging.LogRecord], None]:
    def guarded(record: logging.LogRecord) -> None:
        try:
            handle(record)
        except (Exception, SystemExit, GeneratorExit, asyncio.CancelledError) as error:
            if logging.raiseExceptions and sys.stderr is not None:
                line = failures.line_of(error).encode("ascii", "backslashreplace").decode()
                print(f"polos: logging {record.msg!r} failed: {line}", file=sys.stderr)

    return guarded


class ExecutionFilter(logging.Filter):
    """Adds `execution` and `workflow`, and inside a step `step` and `attempt`, to the records that workflow
    code logs with any logger, and drops those that it logs again during a replay. Other records pass
    unchanged.

    Add it to a handler, which all loggers share: `handler.addFilter(ExecutionFilter())`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        owner = tasks.OWNER.get()
        if owner is None or record.name in _RUNTIME:
            return True
        facts = owner.log_facts()
        if facts is None:
            return False
        for name, value in facts.items():
            vars(record).setdefault(name, value)
        return True


class KeyValueFormatter(logging.Formatter):
    """Formats a record as `2026-01-01T00:00:00.000+00:00 INFO start execution=... workflow=...`."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in _extras(record).items())
        line = f"{_time(record)} {record.levelname} {record.getMessage()}{pairs}"
        shown = redact_text(visible(line))
        if trace := _trace(self, record):
            shown += "\n" + redact_text(visible(trace, multiline=True))
        if record.stack_info:
            shown += "\n" + redact_text(visible(record.stack_info, multiline=True))
        return shown


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if trace := _trace(self, record):
            fields["exception"] = trace
        if record.stack_info:
            fields["stack"] = record.stack_info
        return redact_text(visible_json(json.dumps(fields, default=str, ensure_ascii=False)))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The record's traceback, as it was formatted before if it was; empty if it has none."""
    if record.exc_text or not record.exc_info:
        return record.exc_text or ""
    return formatter.formatException(record.exc_info)


def _quoted(value: Any) -> str:
    """The value as text, in quotes if it is empty or contains whitespace or a quote."""
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if _UNQUOTED.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=False)
