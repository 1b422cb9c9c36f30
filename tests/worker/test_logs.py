"""The log's two shapes."""

from __future__ import annotations

import json
import logging

import pytest

from polos_redis.logs import JsonFormatter, KeyValueFormatter


@pytest.fixture
def record() -> logging.LogRecord:
    """A record as uvicorn writes it, with an id beside it."""
    told = {"execution": "5b1e", "steps": ["a b", "c"]}
    logger = logging.getLogger("uvicorn.error")
    colours = {"color_message": "Started process [\x1b[36m%d\x1b[0m]"}
    return logger.makeRecord(
        "uvicorn.error", logging.INFO, "", 0, "Started process [%d]", (7,), None, extra={**told, **colours}
    )


def test_a_line_of_pairs(record: logging.LogRecord) -> None:
    line = KeyValueFormatter().format(record)
    assert line.partition(" ")[2] == 'INFO Started process [7] execution=5b1e steps="a b,c"'


def test_an_object(record: logging.LogRecord) -> None:
    told = json.loads(JsonFormatter().format(record))
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "INFO",
        "logger": "uvicorn.error",
        "message": "Started process [7]",
        "execution": "5b1e",
        "steps": ["a b", "c"],
    }
