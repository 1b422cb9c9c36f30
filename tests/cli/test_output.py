"""What the command prints: a terminal obeys none of it, and JSON means what it meant."""

from __future__ import annotations

import ast
import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import PolosClient
from polos_redis.cli import output, tables
from polos_redis.values.text import first_hidden
from tests import ROOT
from tests.harness.command import Command

HOSTILE = st.text(
    st.sampled_from('\x1b\x07\r\x7f\x9b\u202e\u2066\u200b\u2028\u3164\ufeff\U000e0041\ud800 ab"\\')
)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | HOSTILE | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=8,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@given(JSON, st.sampled_from([None, 2]))
def test_json_is_equal_and_harmless(value: Any, indent: int | None) -> None:
    stream = Terminal()
    output.print_json(value, stream=stream, indent=indent)
    assert json.loads(stream.getvalue()) == value
    assert first_hidden(stream.getvalue().replace("\n", "")) is None


class Kernel(io.RawIOBase):
    """Where a stream's bytes go: what it is given at once stays together."""

    def __init__(self, is_terminal: bool) -> None:
        self.is_terminal = is_terminal
        self.written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, data: Any) -> int:
        self.written.append(bytes(data))
        return len(data)


def _stream(kernel: Kernel, unbuffered: bool) -> io.TextIOWrapper:
    """Like standard output and error, with PYTHONUNBUFFERED or without."""
    buffer: Any = kernel if unbuffered else io.BufferedWriter(kernel)
    return io.TextIOWrapper(
        buffer, "utf-8", "backslashreplace", write_through=unbuffered, line_buffering=kernel.is_terminal
    )


@given(
    st.lists(HOSTILE | st.text(), min_size=1, max_size=4).map("\n".join),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 5000]),
)
def test_no_other_process_writes_into_a_line(
    text: str, terminal: bool, unbuffered: bool, repeated: int
) -> None:
    kernel, text = Kernel(terminal), repeated * text
    stream = _stream(kernel, unbuffered)
    with redirect_stdout(stream), redirect_stderr(stream):
        output.line("a", (text, "bold"), stream=stream)
        output.lines(text, indent="  ", stream=stream)
        output.note(text)
        output.print_json({"text": text})
        tables.table(["title", "other"], [[text, "a"], [(text, ""), "b"]])
        output.panel("title", {"name": "value", "text": text}, stream)
        output.field("name", text, 10, stream=stream)
    assert all(one.endswith(b"\n") for one in kernel.written)


def test_no_command_prints_in_another_way() -> None:
    for file in (ROOT / "cli").glob("*.py"):
        calls = [one for one in ast.walk(ast.parse(file.read_text())) if isinstance(one, ast.Call)]
        names = {one.func.id for one in calls if isinstance(one.func, ast.Name)}
        assert "print" not in names, file.name


@given(HOSTILE, st.booleans())
def test_texts_are_harmless(text: str, terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    with redirect_stdout(stream), redirect_stderr(stream):
        output.line("a", (text, ""), stream=stream)
        output.lines(text, indent="  ", stream=stream)
        output.note(text)
        tables.table(["title"], [[text], [(text, "")]])
        output.panel(text, {text: text}, stream)
    written = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # rich's own colours
    assert first_hidden(written.replace("\n", "").replace("\t", "")) is None


@pytest.mark.threat(21)
async def test_a_stored_value_can_not_write_to_the_terminal(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    polos = Command(redis_url, namespace, tmp_path)
    hostile = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\x9b31m"
    async with PolosClient(redis_url, namespace) as client:
        handle = await client.invoke("hostile-input", {"text": hostile}, user_id="alice")
        for command in (["show", handle.id], ["show", handle.id, "--json"], ["list", "--json"], ["list"]):
            done = await polos(*command)
            assert done.code == 0, done.err
            assert first_hidden(done.out.replace("\n", "")) is None, done.out
            if command == ["show", handle.id, "--json"]:
                assert done.json["input"]["text"] == hostile
        await client.cancel(handle.id)
