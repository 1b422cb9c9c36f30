"""The two log formats."""

from __future__ import annotations

import json
import logging

import pytest

from polos_redis.logs import JsonFormatter, KeyValueFormatter


@pytest.fixture
def record() -> logging.LogRecord:
    """A record as uvicorn logs it, with an execution id added."""
    fields = {"execution": "5b1e", "steps": ["a b", "c"]}
    logger = logging.getLogger("uvicorn.error")
    colours = {"color_message": "Started process [\x1b[36m%d\x1b[0m]"}
    return logger.makeRecord(
        "uvicorn.error", logging.INFO, "", 0, "Started process [%d]", (7,), None, extra={**fields, **colours}
    )


def test_a_record_as_key_value_pairs(record: logging.LogRecord) -> None:
    line = KeyValueFormatter().format(record)
    assert line.partition(" ")[2] == 'INFO Started process [7] execution=5b1e steps="a b,c"'


def test_a_record_as_a_json_object(record: logging.LogRecord) -> None:
    logged = json.loads(JsonFormatter().format(record))
    assert logged.pop("time").endswith("+00:00")
    assert logged == {
        "level": "INFO",
        "logger": "uvicorn.error",
        "message": "Started process [7]",
        "execution": "5b1e",
        "steps": ["a b", "c"],
    }
