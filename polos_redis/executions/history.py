"""Histories: what is recorded of an execution, for replays of its code elsewhere.

A history is one line of JSON: what `polos show --json` prints, for people, and under `stored` the exact
bytes, in base64, for replays. Tokens and secrets are removed from both.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from polos_redis.connection.connection import Connection
from polos_redis.decisions.views import step_keys
from polos_redis.errors import ExecutionNotFoundError, HistoryError
from polos_redis.executions.queries import get_execution
from polos_redis.state import journal
from polos_redis.tasks import Slices
from polos_redis.values.stored_secrets import redact_stored
from polos_redis.values.text import text

__all__ = ["History"]

FORMAT = "polos_history"  # the field that names the version of the format
VERSION = 1

_STORED = ("input", "origin", "output", "error", "state", "unreached")  # fields of the execution
_OPENINGS = ("{", "[", b"{", b"[")  # the first line of a document of several lines
_ATTEMPTS = 10  # at reading an execution that changes meanwhile


@dataclass(frozen=True, slots=True)
class History:
    """What is recorded of an execution: `client.get_history` returns it, `polos export` writes it.

    `status` is that of the execution when it was read, `run` counts its runs from 1. `view` is what
    `client.get_execution` returns of it.
    """

    id: str
    workflow_id: str
    status: str
    run: int
    view: Mapping[str, Any] = field(repr=False)
    _fields: Mapping[str, bytes] = field(repr=False)
    _records: Mapping[bytes, bytes] = field(repr=False)

    def to_line(self) -> str:
        """Return the history as a line of JSON, without the line's end."""
        stored = {name: _encode(value) for name, value in self._fields.items()}
        records = {_name(name): _encode(record) for name, record in self._records.items()}
        return json.dumps(
            {FORMAT: VERSION, **self.view, "status": self.status, "stored": {**stored, "journal": records}}
        )

    @classmethod
    def from_line(cls, line: str | bytes, where: str = "the history") -> Self:
        """Read what `to_line` returned. Raises `HistoryError`, which begins with `where`."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise HistoryError(
                f"{where} is not a history, which polos export writes as one line of JSON: {error}"
            ) from None
        version = found.get(FORMAT) if isinstance(found, dict) else None
        if version is None:
            raise HistoryError(f"{where} {_what(found)}")
        if type(version) is not int or version != VERSION:
            raise HistoryError(
                f"{where} has format {version!r}, and this release reads {VERSION}: replay it with the "
                "release that wrote it, or export it again"
            )
        try:
            stored: dict[str, Any] = found["stored"]
            return cls(
                _checked(str, found["id"]),
                _checked(str, found["workflow_id"]),
                _checked(str, found["status"]),
                _checked(int, found["run"]),
                {name: value for name, value in found.items() if name not in (FORMAT, "stored")},
                {name: _decode(stored[name]) for name in _STORED if name in stored},
                {_raw_name(name): _decode(record) for name, record in stored["journal"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise HistoryError(f"{where} is damaged: {what}; export it again") from None

    # --- for replays --------------------------------------------------------------------

    @property
    def records(self) -> dict[bytes, bytes]:
        """The journal, a copy."""
        return dict(self._records)

    @property
    def step_keys(self) -> list[str]:
        """The step keys in the journal."""
        return [text(name) for name in self._records if name and not journal.is_result(name)]

    def stored(self, name: str) -> bytes | None:
        """Returns a field of the execution: input, origin, output, error or state; None if it has none."""
        return self._fields.get(name)

    @property
    def unreached(self) -> list[str]:
        """The step keys that the recorded code did not reach before it ended."""
        return step_keys(self._fields.get("unreached"))


def read_lines(lines: Iterable[str | bytes], source: str) -> Iterator[History]:
    """Yields the histories in a file; empty lines are skipped. Raises `HistoryError`, which names the
    line."""
    left = iter(lines)
    for number, line in enumerate(left, 1):
        if line.strip() in _OPENINGS:
            found = _document([line, *left])
            whole = isinstance(found, dict) and FORMAT in found
            why = (
                "is a history on several lines: put it on one, as polos export does"
                if whole
                else _what(found)
            )
            raise HistoryError(f"{source}:{number} {why}")
        if line.strip():
            yield History.from_line(line, f"{source}:{number}")


def _document(lines: list[str | bytes]) -> Any:
    """Returns what JSON of several lines says; None if it is none."""
    try:
        return json.loads(b"\n".join(one.encode() if isinstance(one, str) else one for one in lines))
    except (ValueError, RecursionError):
        return None


def _what(found: Any) -> str:
    """Returns what JSON is that is not a history, and where one comes from."""
    if isinstance(found, dict):
        if {"id", "workflow_id", "steps"} <= found.keys() and "stored" not in found:
            return (
                "is what polos show --json prints, without the stored bytes that a replay needs: write the "
                f"file with polos export {found['id']}"
            )
        if "executions" in found:
            return "is what polos list --json prints: write the file with polos export"
    return "is not a history: write it with polos export"


async def read_history(connection: Connection, execution_id: str) -> History:
    """See `PolosClient.get_history`."""
    executions = (await connection.store()).executions
    for _ in range(_ATTEMPTS):
        fields = await executions.read(execution_id)
        if "workflow" not in fields:
            raise ExecutionNotFoundError(execution_id)
        records, slices = {}, Slices()
        async for name, stored in _journal(executions.journal_pages(execution_id)):
            records[name] = redact_stored(stored)
            await slices.pause()
        view = await get_execution(connection, execution_id)
        now = await executions.read_fields(execution_id, "status", "run")
        if now == [fields["status"], fields["run"]]:
            break  # else it has changed meanwhile
    kept = {name: redact_stored(fields[name]) for name in _STORED if name in fields}
    run = int(fields["run"])
    return History(execution_id, text(fields["workflow"]), view.status, run, view, kept, records)


async def _journal(pages: AsyncIterator[list[tuple[bytes, bytes]]]) -> AsyncIterator[tuple[bytes, bytes]]:
    async for page in pages:
        for name, stored in page:
            if name != journal.WRITER:
                yield name, stored


def _name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _raw_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _encode(stored: bytes) -> str:
    return b64encode(stored).decode()


def _decode(encoded: str) -> bytes:
    try:
        return b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a stored value is no base64 ({error})") from None


def _checked(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, not {value!r}")
    return value
