"""The log of long-running commands: its options, and the handler on standard error."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import Annotated

import typer


class LogFormat(StrEnum):
    text = "text"
    json = "json"


LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", envvar="POLOS_LOG_FORMAT", help="Log format on standard error.")
]


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


LogLevelOption = Annotated[
    LogLevel,
    typer.Option(
        "--log-level",
        envvar="POLOS_LOG_LEVEL",
        help="The least severe records to log; warning leaves out starts and ends of executions.",
    ),
]
JsonLogs = Annotated[bool, typer.Option("--json", help="The same as --log-format json.")]


def log_to_stderr(format: LogFormat, level: LogLevel = LogLevel.info) -> None:
    """Sends this process's log to standard error, from a level on."""
    from polos_redis.logs import JsonFormatter, KeyValueFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format is LogFormat.json else KeyValueFormatter())
    logging.basicConfig(level=level.name.upper(), handlers=[handler], force=True)
