"""Prints to the terminal with rich; elsewhere prints complete plain text, one record per line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING, Any, TextIO

from polos_redis.redaction import redact_text
from polos_redis.values.text import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LONG_LINES = 3  # that a long value may take on a terminal
TRACEBACK_LINES = 12
BOX_CELLS = 4  # that the box of a panel takes beside its text

Part = str | tuple[str, str]  # text, or text and its terminal style


class Long(str):
    """A value of any length: an input, a result, an error. Shortened on a terminal within `shortening`."""

    __slots__ = ()


STATUS_STYLES = {
    **dict.fromkeys(("completed", "answered", "ok", "alive"), "green"),
    **dict.fromkeys(("failed", "stuck", "expired", "unreadable", "problem", "silent"), "red"),
    **dict.fromkeys(
        ("waiting", "paused", "open", "backoff", "retry", "warning", "unknown", "gone"), "yellow"
    ),
    **dict.fromkeys(("cancelled", "closed"), "magenta"),
    **dict.fromkeys(("queued", "running"), "cyan"),
}


def prepare_streams() -> None:
    """Makes the streams escape characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def printable(text: str, *, multiline: bool = False) -> str:
    """Returns the text without tokens and secrets, and with the characters escaped that a terminal would obey
    or not show. `multiline` keeps line breaks and tabs."""
    return visible(redact_text(text), multiline=multiline)


def compact(value: Any) -> Long:
    """Returns a value as JSON on one line."""
    return Long(json.dumps(value, ensure_ascii=False))


def print_json(
    value: Any, *, stream: TextIO | None = None, indent: int | None = 2, secrets: bool = False
) -> None:
    """Prints a value as JSON, complete and without colours; without tokens and secrets unless `secrets`."""
    stream = stream or sys.stdout
    plain_ascii = (stream.encoding or "").lower().replace("-", "") != "utf8"
    rendered = visible_json(json.dumps(value, ensure_ascii=plain_ascii, indent=indent, default=str))
    write(rendered if secrets else redact_text(rendered), stream)


def note(text: str) -> None:
    """Prints a message to standard error; standard output is for results."""
    write(printable(text, multiline=True), sys.stderr)


def write(text: str, stream: TextIO | None = None) -> None:
    """Writes whole lines in one piece: what other processes write to the same terminal or file comes before
    or after. `print` writes the end of the last line on its own."""
    stream = stream or sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def discard(stream: TextIO) -> None:
    """Discards what a stream still holds and whatever is written to it later, as its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Shortening:
    """The state of `shortening`: whether a value has been shortened."""

    happened = False


_shortening: ContextVar[Shortening | None] = ContextVar("shortening", default=None)


@contextmanager
def shortening(full: bool, *, hint: bool = True) -> Iterator[None]:
    """Shortens `Long` values that are printed to a terminal within, unless `full`. If there were any, a hint
    at the end says how to see them whole."""
    state = None if full else Shortening()
    token = _shortening.set(state)
    try:
        yield
    finally:
        _shortening.reset(token)
    if hint and state is not None and state.happened:
        note("some values are shortened: --full shows them whole")


def shortens() -> bool:
    """Whether long values are shortened now."""
    return _shortening.get() is not None


def cut(text: str, cells: int, stream: IO[str]) -> str:
    """Returns a printable text that takes at most this many cells of a terminal, and ends with an ellipsis if
    it is shortened."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= cells:
        return text
    if (state := _shortening.get()) is not None:
        state.happened = True
    mark = ellipsis(stream)
    return set_cell_size(text, max(0, cells - len(mark))).rstrip() + mark


def ellipsis(stream: IO[str]) -> str:
    """Returns the mark of shortened text in the stream's encoding."""
    return "…" if (getattr(stream, "encoding", None) or "").lower().startswith("utf") else "..."


def line(*parts: Part, stream: TextIO | None = None) -> None:
    """Prints one line; parts are styled on a terminal. Only `Long` parts are ever shortened."""
    stream = stream or sys.stdout
    if stream.isatty():
        screen = console(stream)
        if shortens():
            parts = _shortened(parts, LONG_LINES * screen.width, stream)
        text = styled(*parts)
        text.rstrip()
        screen.print(text, soft_wrap=True)
    else:
        write("".join(printable(words(part)) for part in parts).rstrip(), stream)


def _shortened(parts: tuple[Part, ...], cells: int, stream: TextIO) -> tuple[Part, ...]:
    """Shortens the long parts so that all fit."""
    from rich.cells import cell_len

    number = sum(isinstance(words(part), Long) for part in parts)
    if not number:
        return parts
    others = sum(cell_len(printable(words(part))) for part in parts if not isinstance(words(part), Long))
    room = max(cells - others, cells // 2) // number
    return tuple(
        (cut(printable(words(part)), room, stream), "" if isinstance(part, str) else part[1])
        if isinstance(words(part), Long)
        else part
        for part in parts
    )


def words(part: Part) -> str:
    """Returns the text of a part."""
    return part if isinstance(part, str) else part[0]


def styled(*parts: Part) -> Text:
    """Returns parts as one text for a terminal."""
    from rich.text import Text

    pairs = [
        (printable(part), "") if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts
    ]
    return Text.assemble(*pairs)


def lines(text: str, indent: str = "", style: str = "", stream: TextIO | None = None) -> None:
    """Prints a text of several lines, such as a traceback, each indented. A terminal shows only the last ones
    within `shortening`."""
    found = text.rstrip("\n").split("\n")
    state = _shortening.get()
    if state is not None and len(found) > TRACEBACK_LINES and (stream or sys.stdout).isatty():
        state.happened = True
        line(indent, (ellipsis(stream or sys.stdout), style), stream=stream)
        found = found[-TRACEBACK_LINES:]
    for one in found:
        line(indent, (Long(one.expandtabs(4)), style), stream=stream)


def status(word: str, width: int = 0) -> Part:
    """Returns a status word in its colour, padded to a width."""
    return word.ljust(width), STATUS_STYLES.get(word, "")


def field(name: str, value: Part, width: int, *, stream: TextIO | None = None) -> None:
    """Prints a name and a value on a terminal, aligned by the width of the names. A value that needs more
    room wraps between words; where a word needs more, name and value stand closer together. Within
    `shortening` a long value is shortened to a few lines."""
    stream = stream or sys.stdout
    screen = console(stream)
    room = max(screen.width - width - 2, 1)
    text = styled(value)
    if shortens() and isinstance(words(value), Long):
        shortened = cut(text.plain, LONG_LINES * room, stream)
        rows = list(styled((shortened, "" if isinstance(value, str) else value[1])).wrap(screen, room))
    elif text.cell_len <= room or any(one.cell_len > room for one in text.split(" ")):
        rows = [text]
        if text.cell_len > room:
            width = len(name) - 1  # as it has one space less
    else:
        rows = list(text.wrap(screen, room))
    starts = [styled((name.ljust(width), "dim"), "  "), *(styled(" " * (width + 2)) for _ in rows[1:])]
    for start, row in zip(starts, rows, strict=True):
        start.append_text(row).rstrip()
        screen.print(start, soft_wrap=True)


def panel(title: str, fields: Mapping[str, str], stream: TextIO) -> None:
    """Prints titled fields, on a terminal in a box if that has room."""
    width = max(map(len, fields), default=0)
    if stream.isatty():
        from rich.panel import Panel
        from rich.text import Text

        screen = console(stream)
        rows = [styled((name.ljust(width), "dim"), "  ", value) for name, value in fields.items()]
        heading = styled((title, "bold yellow"))
        if max(row.cell_len for row in (heading, *rows)) + BOX_CELLS <= screen.width:
            screen.print(Panel(Text("\n").join(rows), title=heading, expand=False))
            return
        line((title, "bold yellow"), stream=stream)
        for name, value in fields.items():
            field(name, value, width, stream=stream)
        return
    texts = [title, *(f"  {name.ljust(width)}  {value}" for name, value in fields.items())]
    write("\n".join(printable(row).rstrip() for row in texts), stream)


def console(stream: TextIO) -> Console:
    """Returns rich's console of a stream, without its markup."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)
