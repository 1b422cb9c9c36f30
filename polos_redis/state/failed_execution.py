"""Executions that a script has failed, with no activation to report it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from polos_redis.values.text import text


class FailedExecution(NamedTuple):
    """An execution that ran out of time, or lost too many workers; `error` is its kind and message."""

    execution: str
    workflow: str
    error: str

    @classmethod
    def parse(cls, flat: Sequence[bytes]) -> list[FailedExecution]:
        """Read the executions in a script's reply: id, workflow, error, id, ..."""
        return [cls(*map(text, flat[i : i + 3])) for i in range(0, len(flat), 3)]
