"""Pages of listings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Page(Sequence[T]):
    """One page of a listing: a sequence of rows. `next_cursor` gets the next page; None on the last."""

    __slots__ = ("_rows", "next_cursor")

    def __init__(self, rows: Sequence[T], next_cursor: str | None) -> None:
        self._rows = rows
        self.next_cursor = next_cursor

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._rows[index]

    def __repr__(self) -> str:
        return f"Page({list(self._rows)!r}, next_cursor={self.next_cursor!r})"
