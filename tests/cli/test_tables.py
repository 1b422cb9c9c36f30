"""Tables on terminals of any width: columns that fit, or a card for each row."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.cells import cell_len

from polos_redis.cli import output, tables, times

TITLES = st.lists(
    st.text(st.sampled_from("ABCDEFGH "), min_size=1, max_size=9).map(str.strip).filter(bool),
    min_size=1,
    max_size=6,
    unique=True,
)
TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=0x1F600, categories=["L", "N", "S"]))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@st.composite
def tables_(draw: st.DrawFn) -> tuple[list[str], list[list[str]], list[bool]]:
    titles = draw(TITLES)
    long = [draw(st.booleans()) for _ in titles]
    rows = draw(
        st.lists(
            st.tuples(*(TEXTS.map(output.Long if one else str) for one in long)).map(list),
            min_size=1,
            max_size=4,
        )
    )
    return titles, rows, long


def shown(titles: list[str], rows: list[list[str]], width: int, full: bool) -> tuple[list[str], str]:
    """The lines that a terminal shows before it wraps them, and the hint."""
    out, err = Terminal(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm-256color")
        with redirect_stdout(out), redirect_stderr(err), output.shortening(full):
            tables.table(titles, rows)
    return [one.rstrip() for one in re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).split("\n")], err.getvalue()


@given(tables_(), st.integers(20, 150), st.booleans())
def test_columns_fit_and_cards_have_every_value(
    table: tuple[list[str], list[list[str]], list[bool]], width: int, full: bool
) -> None:
    titles, rows, long = table
    lines, hint = shown(titles, rows, width, full)
    is_table = lines[0].split() == " ".join(titles).split()
    if is_table:
        assert all(cell_len(line) <= width for line in lines)
    else:
        starts = (*(title.lower() for title in titles), "  ")
        assert all(not one or one.startswith(starts) for one in lines)
    if full:
        assert not hint and not any("…" in line for line in lines)
    else:
        assert bool(hint) == any("…" in line for line in lines)
        most = output.LONG_LINES + 1 if any(long) else 1  # words wrap
        assert not is_table or len(lines) <= len(rows) * most + 2
    for row in rows:
        for value, one in zip(row, long, strict=True):
            assert one or any(value in line for line in lines), "what is not long is complete"


@given(TEXTS, st.integers(1, 40), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_a_shortened_text_has_its_width_and_its_mark(text: str, cells: int, encoding: str) -> None:
    assume(cells > 3)
    stream = Terminal()
    stream.encoding = encoding
    found = output.cut(text, cells, stream)
    assert cell_len(found) <= cells
    if found != text:
        mark = "…" if encoding == "utf-8" else "..."
        assert cell_len(text) > cells and found.endswith(mark)
        assert cell_len(found) >= cells - 1 or found.removesuffix(mark) == found.removesuffix(mark).rstrip()


def test_a_value_takes_three_lines_of_a_report_and_a_traceback_twelve() -> None:
    stream, err = Terminal(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stream), redirect_stderr(err):
        patch.setenv("COLUMNS", "60")
        with output.shortening(False):
            output.line("input  ", output.compact({"prompt": "word " * 200}), " by alice")
            output.lines("\n".join(f"line {n}" for n in range(40)), "  ")
        first, *rest = stream.getvalue().splitlines()
        assert len(first) == 180 and first.endswith("… by alice")
        assert [one.strip() for one in rest] == ["…", *(f"line {n}" for n in range(28, 40))]
        assert err.getvalue() == "some values are shortened: --full shows them whole\n"
        stream.truncate(0)
        with output.shortening(True):
            output.line("input  ", output.compact({"prompt": "word " * 200}))
        assert len(stream.getvalue()) > 1000
    plain = io.StringIO()
    with redirect_stdout(plain), redirect_stderr(err), output.shortening(False):
        output.line("input  ", output.compact({"prompt": "word " * 200}))
        tables.table(["A"], [[output.Long("x" * 500)]])
    assert "…" not in plain.getvalue() and "x" * 500 in plain.getvalue()


@pytest.mark.parametrize(
    ("seconds", "past", "future"),
    [
        (0.2, "now", "now"),
        (5.4, "5 s ago", "in 5 s"),
        (59.7, "1 min ago", "in 1 min"),
        (200, "3 min ago", "in 3 min"),
        (2 * 3600 - 20, "2 h ago", "in 2 h"),
        (23.9 * 3600, "1 d ago", "in 1 d"),
        (86400 * 1200, "1,200 d ago", "in 1,200 d"),
    ],
)
def test_times_of_tables_are_relative_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, seconds: float, past: str, future: str
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls(2026, 3, 1, 12, tzinfo=UTC)

    monkeypatch.setattr(times, "datetime", Clock)
    before, after = (Clock.now() + timedelta(seconds=one) for one in (-seconds, seconds))
    with redirect_stdout(Terminal()):
        assert (times.ago(before), times.ago(after), times.ago(None)) == (past, future, "-")
        assert times.dated(before) == f"{times.utc(before)} ({past})"
    with redirect_stdout(io.StringIO()):
        assert times.ago(before) == times.dated(before) == times.utc(before)
        assert times.utc(before).startswith("20") and times.utc(before).endswith(" UTC")
