"""What the scripts should make of an execution, in a few lines of Python."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.desk import Activated


@dataclass(slots=True)
class Execution:
    """An execution. `journal` has the status of each record;"""

    id: str
    entry: bytes | None
    status: str = "queued"
    owner: str | None = None
    count: int = 0
    journal: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    early: set[str] = field(default_factory=set)
    losses: int = 0
    progress: int = 0

    def fence(self, by: Activation) -> int:
        """What a write of an activation would be told: 0 when it passes."""
        if self.status != "queued" or self.entry != by.entry or self.owner not in (None, by.owner):
            return -1
        return -2 if self.count < by.known else 0

    def put(self, key: str, status: str) -> None:
        self.journal[key] = status
        self.count += 1

    def decide(self, key: str, status: str) -> None:
        """A wait is decided; a parked execution becomes runnable, as an entry yet to be learnt."""
        self.put(key, status)
        if self.status == "waiting":
            self.status, self.entry = "queued", b""

    def end(self, status: str) -> None:
        for key, now in self.journal.items():
            if now in ("open", "backoff"):
                self.put(key, "closed" if now == "open" else "retry")
        self.status, self.entry, self.owner = status, None, None
        self.early.clear()

    @property
    def open(self) -> list[str]:
        return [key for key, status in self.journal.items() if status == "open"]

    @property
    def backing_off(self) -> list[str]:
        return [key for key, status in self.journal.items() if status == "backoff"]

    @property
    def finished(self) -> bool:
        return self.status not in ("queued", "waiting")


class Activation(Activated):
    """What one activation believes. `sure` is whether it may write: after a lost reply it looks first."""

    def __init__(self, execution_id: str, entry: bytes, owner: str, consumer: str, sure: bool) -> None:
        super().__init__(execution_id, entry, owner)
        self.consumer, self.sure = consumer, sure
        self.told: dict[bytes, bytes] = {}
