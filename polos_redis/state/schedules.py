"""Schedules: stored packed, compared as a whole, and changed by the script that starts a tick's execution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polos_redis.state import keys, scripts
from polos_redis.state.partitions import Partitions
from polos_redis.state.start import Start
from polos_redis.values.text import raw, text


@dataclass(frozen=True, slots=True)
class TickExecution:
    """The execution that a schedule's tick starts."""

    id: str
    workflow_id: str
    input: bytes
    retention_ms: int
    start: Start


class Schedules:
    """All schedules of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire

    async def read(self, schedule_id: str) -> tuple[int, bytes]:
        """Returns the server's time in ms, and a schedule; empty if there is none."""
        now, packed = await self._wire.call_script(
            scripts.READ_SCHEDULE,
            self._partitions.prefix(schedule_id),
            schedule_id,
            patience=self._partitions.patience,
        )
        return now, packed or b""

    async def change(
        self,
        schedule_id: str,
        known: bytes,
        packed: bytes,
        due_ms: int | None,
        tick: TickExecution | None = None,
    ) -> bool:
        """Replace a schedule by `packed` (empty: remove it) with its next tick at `due_ms`, and start the
        execution of the last tick. False if the schedule is no longer the `known` one."""
        parts: list[Any] = [""] * 5
        if tick is not None:
            options = tick.start.pack(self._partitions, tick.id)
            parts = [tick.id, raw(tick.workflow_id), tick.input, tick.retention_ms, options]
        due = "" if due_ms is None else due_ms
        return bool(
            await self._wire.call_script(
                scripts.SCHEDULE,
                self._partitions.prefix(schedule_id),
                schedule_id,
                known,
                packed,
                due,
                *parts,
                patience=self._partitions.patience,
            )
        )

    async def read_all(self) -> dict[str, bytes]:
        """Returns all schedules by id."""
        found: dict[str, bytes] = {}
        for prefix in self._partitions.prefixes:
            cursor = b"0"
            while True:
                cursor, flat = await self._wire.call(
                    "HSCAN",
                    prefix + keys.SCHEDULES.encode(),
                    cursor,
                    "COUNT",
                    500,
                    patience=self._partitions.patience,
                )
                found |= {text(name): packed for name, packed in zip(flat[::2], flat[1::2], strict=True)}
                if cursor == b"0":
                    break
        return found
