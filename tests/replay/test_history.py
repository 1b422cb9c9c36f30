"""Histories in files: complete, exact, readable, without secrets, and refused clearly if damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import (
    DivergedError,
    ExecutionNotFoundError,
    History,
    HistoryError,
    PolosClient,
    Workflow,
    WorkflowContext,
    workflow,
)
from polos_redis.executions.history import read_lines
from polos_redis.state import journal, stored_errors
from polos_redis.testing import replay
from polos_redis.values import codec
from polos_redis.values.plain import to_plain
from polos_redis.values.stored_secrets import redact_stored
from tests.decisions.test_redaction import PIECES, around, sensitive, values
from tests.harness.running import running
from tests.values.test_codec import ENCODED


def _history(records: dict[bytes, bytes], output: bytes = codec.encode(None)) -> History:
    fields = {"input": codec.encode(None), "output": output}
    view = {"id": "id", "workflow_id": "flow", "status": "completed", "run": 1}
    return History("id", "flow", "completed", 1, view, fields, records)


NAMES = st.binary(max_size=20) | st.text(max_size=20).map(lambda one: one.encode("utf-8", "surrogatepass"))


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=5), st.binary(max_size=50))
def test_a_line_keeps_every_byte(records: dict[bytes, bytes], output: bytes) -> None:
    history = _history(records, output)
    line = history.to_line()
    assert "\n" not in line and line.isascii()
    assert History.from_line(line) == history
    assert History.from_line(line.encode()).records == records


LINE = json.loads(_history({b"a": b"b"}).to_line())


@given(
    st.sampled_from(sorted(LINE)), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.none())
)
def test_a_damaged_line_is_one_sentence(name: str, value: Any) -> None:
    changed = {**LINE, name: value}
    if type(value) is type(LINE[name]):
        return
    with pytest.raises(HistoryError, match=r"^file:3 (is damaged: |has format |is not a history: )"):
        History.from_line(json.dumps(changed), "file:3")


@pytest.mark.parametrize("name", LINE)
def test_a_missing_field_is_named(name: str) -> None:
    line = json.dumps({key: value for key, value in LINE.items() if key != name})
    with pytest.raises(HistoryError, match=re.escape(f"'{name}' is missing") + "|is not a history"):
        History.from_line(line)


@given(st.binary() | st.text())
def test_other_files_are_no_histories(content: bytes | str) -> None:
    lines = content.splitlines()
    if any(line.strip() for line in lines):
        with pytest.raises(HistoryError, match=r"^other:\d+ is not a"):
            list(read_lines(lines, "other"))


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(HistoryError, match=r"^the history has format 2, and this release reads 1: replay it"):
        History.from_line(json.dumps({**LINE, "polos_history": 2}))


# --- secrets ----------------------------------------------------------------------------------------


texts = st.builds(lambda *parts: "".join(parts), around, sensitive, around)


@given(values(texts) | values(texts).map(lambda value: {"deep": (value, {1: b"bytes"})}), texts)
def test_stored_bytes_keep_no_secret(value: Any, message: str) -> None:
    stored = codec.encode(value, limit=codec.UNLIMITED)
    record = journal.step_record("ok", 1, 1.5, stored) + journal.UNTIMED
    error = stored_errors.error_record(ValueError(message))
    for one in (stored, record, error):
        assert not PIECES.search(redact_stored(one).decode("latin-1"))
    assert to_plain(redact_stored(stored)) == codec.to_plain(redact_stored(stored))
    step = journal.parse(redact_stored(record))
    assert isinstance(step, journal.StepRecord)
    assert (step.status, step.took_ms, step.value) == ("ok", 1.5, redact_stored(stored))
    assert stored_errors.parse_error(redact_stored(error)).type == "ValueError"


def test_what_has_no_secret_stays_exact() -> None:
    """Also where a secret stands beside it: only that is replaced."""
    secret = "polos_0123456789abcdef_" + "x" * 43
    for stored in ENCODED:
        assert redact_stored(stored) == stored
        record = redact_stored(msgpack.packb([stored, secret], use_bin_type=False))
        assert msgpack.unpackb(record, raw=True) == [stored, b"[redacted key]"]
        value = codec.encode_list([stored, codec.encode(secret)])
        assert redact_stored(value) == codec.encode_list([stored, codec.encode("[redacted key]")])


# --- the client and the test helper -----------------------------------------------------------------


@workflow(id="history-flow")
async def flow(ctx: WorkflowContext, amount: int) -> str:
    await ctx.step.run("pay", str, amount)
    return f"paid {amount}"


async def test_a_history_says_what_show_says(redis_url: str, namespace: str, tmp_path: Path) -> None:
    async with running(redis_url, namespace, flow) as at:
        handles = [await flow.invoke(at.client, amount) for amount in (1, 2)]
        for handle in handles:
            await at.result(handle)
        histories = [await at.client.get_history(handle.id) for handle in handles]
        shown = await at.client.get_execution(handles[0].id)
    assert histories[0].view == {name: shown[name] for name in histories[0].view}
    assert {"input": 1, "result": "paid 1"}.items() <= histories[0].view.items()

    file = tmp_path / "flow.jsonl"
    file.write_text("".join(f"{one.to_line()}\n\n" for one in histories))
    assert replay(file) == replay(str(file)) == replay(histories) == histories
    assert replay(histories[1], workflows=[flow]) == [histories[1]]

    async def other(ctx: WorkflowContext, amount: int) -> str:
        return await ctx.step.run("charge", str)

    changed: Workflow[int, str] = Workflow(other, "history-flow")
    with pytest.raises(DivergedError) as raised:
        replay(file, workflows=[changed])
    first, second = raised.value.divergences
    assert str(raised.value) == f"{first}\n{second}"
    assert str(first).startswith(f"history-flow {handles[0].id}: the code calls 'charge' at tests/replay/")
    with pytest.raises(DivergedError, match="no workflow 'history-flow' is defined here"):
        replay(file, workflows=[])


def test_the_helper_needs_a_history(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"gone\.jsonl can't be read: No such file or directory"):
        replay(tmp_path / "gone.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(HistoryError, match=r"empty\.jsonl has no history"):
        replay(tmp_path / "empty.jsonl")
    with pytest.raises(HistoryError, match="no history"):
        replay([])


async def test_an_unknown_execution_has_no_history(client: PolosClient) -> None:
    with pytest.raises(ExecutionNotFoundError):
        await client.get_history("gone")
