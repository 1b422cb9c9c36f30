"""Progress of a long run on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Shows which of `total` runs is being made: `with Progress(12) as progress: progress.start("noop")`."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started = 0
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=total)
        self._name = ""

    def start(self, name: str) -> None:
        """Note that the next run begins."""
        self._name = name
        self._started += 1
        if self._bar is None:
            print(f"[{self._started}/{self._total}] {name}", file=sys.stderr, flush=True)
        else:
            self._bar.update(self._task, completed=self._started - 1, description=name)

    def show(self, detail: str) -> None:
        """Show how far the run is. Does nothing without a terminal."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._name}: {detail}")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
