"""The two log formats, and what a terminal would make of them."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.logs import JsonFormatter, KeyValueFormatter
from polos_redis.values.text import first_hidden


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


# Escape codes, a carriage return, C1, direction and invisible characters, line separators, a lone surrogate.
HOSTILE = (
    st.text(
        st.sampled_from('\x1b\x07\r\n\t\x7f\x9b\u202e\u2066\u200b\u2028\u3164\ufeff\U000e0041\ud800 ab"\\')
    )
    | st.text()
)


@given(HOSTILE, HOSTILE, st.lists(HOSTILE, max_size=2))
def test_no_record_controls_the_terminal(message: str, value: str, values: list[str]) -> None:
    """The text is one line for each record and each line of a traceback, the JSON one line; both say all."""
    try:
        raise ValueError(value)
    except ValueError:
        error = sys.exc_info()
    record = logging.getLogger("polos.worker").makeRecord(
        "polos.worker", logging.INFO, "", 0, "%s", (message,), error, extra={"value": value, "values": values}
    )
    written = KeyValueFormatter().format(record)
    assert first_hidden(written.replace("\n", "").replace("\t", "")) is None
    first, _, rest = written.partition("\n")
    assert rest.startswith("Traceback (most recent call last):\n") and "value=" in first
    rendered = JsonFormatter().format(record)
    assert first_hidden(rendered) is None
    logged = json.loads(rendered)
    assert (logged["message"], logged["value"], logged["values"]) == (message, value, values)
