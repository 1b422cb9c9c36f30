"""Prints to the terminal with rich; elsewhere prints complete plain text, one record per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from polos_redis.redaction import redact_text
from polos_redis.values.text import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

WIDEST = 40  # maximum padding of a column in a pipe, so that one long value does not widen every row

Part = str | tuple[str, str]  # text, or text and its terminal style

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


def compact(value: Any) -> str:
    """Returns a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False)


def print_json(
    value: Any, *, stream: TextIO | None = None, indent: int | None = 2, secrets: bool = False
) -> None:
    """Prints a value as JSON, complete and without colours; without tokens and secrets unless `secrets`."""
    stream = stream or sys.stdout
    plain_ascii = (stream.encoding or "").lower().replace("-", "") != "utf8"
    rendered = visible_json(json.dumps(value, ensure_ascii=plain_ascii, indent=indent, default=str))
    print(rendered if secrets else redact_text(rendered), file=stream, flush=True)


def note(text: str) -> None:
    """Prints a message to standard error; standard output is for results."""
    print(printable(text, multiline=True), file=sys.stderr, flush=True)


def line(*parts: Part, stream: TextIO | None = None) -> None:
    """Prints one line, never truncated; parts are styled on a terminal."""
    stream = stream or sys.stdout
    if stream.isatty():
        console(stream).print(styled(*parts), soft_wrap=True)
    else:
        text = "".join(printable(part if isinstance(part, str) else part[0]) for part in parts)
        print(text.rstrip(), file=stream, flush=True)


def styled(*parts: Part) -> Text:
    """Returns parts as one text for a terminal."""
    from rich.text import Text

    pairs = [
        (printable(part), "") if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts
    ]
    return Text.assemble(*pairs)


def lines(text: str, indent: str = "", style: str = "", stream: TextIO | None = None) -> None:
    """Prints a text of several lines, each indented."""
    for one in text.rstrip("\n").split("\n"):
        line(indent, (one.expandtabs(4), style), stream=stream)


def status(word: str, width: int = 0) -> Part:
    """Returns a status word in its colour, padded to a width."""
    return word.ljust(width), STATUS_STYLES.get(word, "")


def table(titles: Sequence[str], rows: Sequence[Sequence[Part]]) -> None:
    """Prints rows in columns: a wrapping table on a terminal, else aligned text with complete values."""
    if sys.stdout.isatty():
        console(sys.stdout).print(grid(titles, rows))
        return
    texts = [list(titles)]
    texts += [[printable(part if isinstance(part, str) else part[0]) for part in row] for row in rows]
    widths = [min(WIDEST, max(len(row[column]) for row in texts)) for column in range(len(titles))]
    for row in texts:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def grid(titles: Sequence[str], rows: Sequence[Sequence[Part]]) -> Table:
    """Returns rows in columns for a terminal; they wrap where it is narrow."""
    from rich.table import Table

    found = Table(box=None, pad_edge=False, header_style="bold")
    for column, title in enumerate(titles):  # the id comes first and must stay copyable
        found.add_column(title, overflow="fold", no_wrap=column == 0)
    for row in rows:
        found.add_row(*(styled(part) for part in row))
    return found


def panel(title: str, fields: Mapping[str, str], stream: TextIO) -> None:
    """Prints titled fields, in a box on a terminal."""
    width = max(map(len, fields), default=0)
    if stream.isatty():
        from rich.panel import Panel
        from rich.text import Text

        body = Text("\n").join(
            Text.assemble((printable(name.ljust(width)), "dim"), "  ", printable(value))
            for name, value in fields.items()
        )
        console(stream).print(Panel(body, title=Text(printable(title), "bold yellow"), expand=False))
        return
    rows = [title, *(f"  {name.ljust(width)}  {value}" for name, value in fields.items())]
    text = "".join(f"{printable(row).rstrip()}\n" for row in rows)
    print(text, end="", file=stream, flush=True)  # at once: other processes may print as well


def console(stream: TextIO) -> Console:
    """Returns rich's console of a stream, without its markup."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)
