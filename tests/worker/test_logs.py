"""The two log formats, what a terminal would make of them, and loggers whose filters fail."""

from __future__ import annotations

import json
import logging
import re
import sys
from asyncio import CancelledError
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import Workflow, WorkflowContext
from polos_redis.logs import LOGGERS, JsonFormatter, KeyValueFormatter
from polos_redis.values.text import first_hidden
from tests import ROOT
from tests.harness.running import running


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


class Refusing(logging.Filter):
    """A filter of an application that fails."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__()
        self.raised = raised
        self.asked = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.asked += 1
        raise self.raised


@pytest.fixture
def refusing(request: pytest.FixtureRequest) -> Iterator[Refusing]:
    """A failing filter on every logger of the package."""
    added = Refusing(request.param)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(added)
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield added
    for name in LOGGERS:
        logging.getLogger(name).removeFilter(added)
        logging.getLogger(name).setLevel(logging.NOTSET)


async def _asks(ctx: WorkflowContext) -> str:
    await ctx.step.run("one", lambda: 1)
    await ctx.step.suspend("ask")
    return "done"


asks: Workflow[Any, Any] = Workflow(_asks, "asks")


@pytest.mark.failure(53)
@pytest.mark.parametrize("refusing", [ValueError("no"), SystemExit(3), CancelledError()], indirect=True)
async def test_a_log_filter_that_fails_changes_nothing(
    redis_url: str, namespace: str, refusing: Refusing, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asks.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        assert await at.result(handle) == "done"
    assert refusing.asked
    assert (
        f"polos: logging 'worker ready' failed: {type(refusing.raised).__name__}" in capsys.readouterr().err
    )


def test_every_logger_of_the_package_is_guarded() -> None:
    source = "".join(file.read_text() for file in (ROOT / "polos_redis").rglob("*.py"))
    assert set(re.findall(r'getLogger\("(polos\.[^"]+)"\)', source)) == set(LOGGERS)


# Escape codes, a carriage return, C1, direction and invisible characters, line separators, a lone surrogate.
HOSTILE = (
    st.text(
        st.sampled_from('\x1b\x07\r\n\t\x7f\x9b\u202e\u2066\u200b\u2028\u3164\ufeff\U000e0041\ud800 ab"\\')
    )
    | st.text()
)


@pytest.mark.threat(21)
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
    assert first_hidden(re.sub("\r?\n|\t", "", written)) is None
    first, _, rest = written.partition("\n")
    assert rest.startswith("Traceback (most recent call last):\n") and "value=" in first
    rendered = JsonFormatter().format(record)
    assert first_hidden(rendered) is None
    logged = json.loads(rendered)
    assert (logged["message"], logged["value"], logged["values"]) == (message, value, values)
