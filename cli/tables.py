"""Tables: columns on a terminal that has room for them, else a card for each row; plain columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from .output import (
    LONG_LINES,
    Long,
    Part,
    console,
    cut,
    field,
    line,
    printable,
    shortens,
    styled,
    words,
    write,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segments
    from rich.table import Table
    from rich.text import Text

WIDEST = 40  # maximum padding of a column in a pipe, so that one long value does not widen every row
LEAST = 10  # cells of a column of long values, below which rows become cards
GAP = 2  # cells between columns

Row = Sequence[Part]


def table(titles: Sequence[str], rows: Sequence[Row]) -> None:
    """Prints rows. On a terminal long values wrap, within `shortening` for a few lines; rows that still don't
    fit become cards of a line per value. Elsewhere columns are aligned, and all values complete."""
    if not sys.stdout.isatty():
        _print_plain(titles, rows)
        return
    screen = console(sys.stdout)
    found = columns(titles, rows, screen.width, sys.stdout)
    if found is not None:
        screen.print(_without_trailing_blanks(found, screen), end="")
        return
    width = max(map(len, titles))
    for number, row in enumerate(rows):
        if number:
            line()
        for title, part in zip(titles, row, strict=True):
            if words(part):
                field(title.lower(), part, width)


def _print_plain(titles: Sequence[str], rows: Sequence[Row]) -> None:
    texts = [list(titles), *([printable(words(part)) for part in row] for row in rows)]
    widths = [min(WIDEST, max(len(row[column]) for row in texts)) for column in range(len(titles))]
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in texts]
    write("\n".join("  ".join(row).rstrip() for row in padded))


def _without_trailing_blanks(table: Table, screen: Console) -> Segments:
    """Returns a table as text; rich fills every line up to the width of its columns."""
    from rich.segment import Segment, Segments

    found = []
    for row in screen.render_lines(table, pad=False):
        while row and not row[-1].text.strip():
            row.pop()
        if row:
            row[-1] = Segment(row[-1].text.rstrip(), row[-1].style)
        found += [*row, Segment.line()]
    return Segments(found)


def columns(titles: Sequence[str], rows: Sequence[Row], width: int, stream: IO[str]) -> Table | None:
    """Returns rows in columns for a terminal of a width; None if they need more. Columns of long values are
    made narrower if need be, but not narrower than `LEAST`."""
    from rich.table import Table

    cells = [[styled(part) for part in row] for row in rows]
    needed = [max([len(title), *(row[n].cell_len for row in cells)]) for n, title in enumerate(titles)]
    is_long = [any(isinstance(words(row[n]), Long) for row in rows) for n in range(len(titles))]
    room = _share(needed, is_long, width - GAP * (len(titles) - 1))
    if room is None:
        return None
    found = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for n, title in enumerate(titles):
        if is_long[n]:
            found.add_column(title, overflow="fold", width=room[n])
        else:
            found.add_column(title, no_wrap=True, width=room[n])
    for row in cells:
        found.add_row(*(_fitting(cell, n, stream) for cell, n in zip(row, room, strict=True)))
    return found


def _share(needed: Sequence[int], is_long: Sequence[bool], width: int) -> list[int] | None:
    """Returns the width of each column, None if they need more than there is. The columns of long values
    share what the others leave."""
    found = list(needed)
    left = width - sum(one for one, long in zip(needed, is_long, strict=True) if not long)
    longs = sorted((n for n, long in enumerate(is_long) if long), key=lambda n: needed[n])
    for number, n in enumerate(longs):
        found[n] = min(needed[n], max(left, 0) // (len(longs) - number))
        if found[n] < min(needed[n], LEAST):
            return None
        left -= found[n]
    return found if left >= 0 else None


def _fitting(cell: Text, cells: int, stream: IO[str]) -> Text:
    """Shortens the text of a cell to a few lines."""
    if not shortens() or cell.cell_len <= LONG_LINES * cells:
        return cell
    return styled(
        (cut(cell.plain, LONG_LINES * cells, stream), str(cell.spans[0].style) if cell.spans else "")
    )
