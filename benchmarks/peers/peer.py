"""A peer: what to install for it, what it runs on, and the calls that a benchmark makes of it.

The file of a peer describes it as `PEER` and runs it: `python -m benchmarks.peers.NAME` is a process of the
peer's own virtual environment (process.py). So this file and those of the peers import the standard library
only, and the peer's packages inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

JOB_CASES = ("jobs", "call")
DURABLE_CASES = ("jobs", "steps", "call", "resume")
STEPS = 10  # of a workflow in the case `steps`

Job = Literal["noop", "steps"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer with its settings.

    `packages` and `npm` are pinned. Without packages, the peer runs in the environment of the command.
    `settings` are the server's, and `stated` says in a sentence what else was chosen.
    """

    name: str
    module: str
    server: Literal["redis", "postgres", "restate"]
    cases: tuple[str, ...]
    stated: str
    packages: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    has_worker: bool = True  # without, the client's process runs the jobs, too


class Client(Protocol):
    """The client's side of a peer."""

    async def start(self, job: Job) -> None:
        """Start a job; returns once the peer has acknowledged it, or later."""
        ...

    async def finished(self) -> bool:
        """Whether all started jobs have finished."""
        ...

    async def call(self) -> None:
        """Start a no-op and wait for its result."""
        ...

    async def suspend(self, count: int) -> Sequence[Any]:
        """Start workflows that wait for an answer; returns once all of them wait."""
        ...

    async def resume(self, suspended: Any) -> None:
        """Answer one of them and wait for its result."""
        ...


async def nothing() -> None:
    """The step of a workflow with steps."""
