"""`replay`: tests that today's code takes the path that real executions have recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.errors import DivergedError, HistoryError
from polos_redis.executions.history import History, read_lines
from polos_redis.replay.replaying import replayed_elsewhere, replays

Source = str | PathLike[str] | History | Iterable[History]


def replay(
    source: Source, *, workflows: Iterable[WorkflowDefinition[Any, Any]] | None = None
) -> list[History]:
    """Run workflows against recorded histories and raise `DivergedError` if one takes another path.

    `source` is a file that `polos export` wrote, or histories that `client.get_history` returned. Steps are
    not executed and Redis is not needed; the workflows' own code runs, as at every replay. `workflows` are
    those to replay, by default all that this process has imported. Returns the histories. Raises
    `HistoryError` for a file that can't be read or has no history.
    """
    histories = list(_histories(source))
    if not histories:
        raise HistoryError(f"{source} has no history" if isinstance(source, str | PathLike) else "no history")
    known = None if workflows is None else {one.id: one for one in workflows}
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        results = list(replays(histories, known))
    else:
        results = replayed_elsewhere(histories, known)
    divergences = [divergence for _, divergence in results if divergence is not None]
    if divergences:
        raise DivergedError(divergences)
    return histories


def _histories(source: Source) -> Iterator[History]:
    if isinstance(source, History):
        yield source
    elif isinstance(source, str | PathLike):
        try:
            with Path(source).open("rb") as file:
                yield from read_lines(file, str(source))
        except OSError as error:
            raise HistoryError(f"{source} can't be read: {error.strerror or error}") from None
    else:
        yield from source
