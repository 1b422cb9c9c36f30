"""Workflows whose code is recorded by a real worker and replayed against other code."""

from __future__ import annotations

from typing import Any

from polos_redis import ExecutionHandle, History, PolosClient
from polos_redis.replay.divergence import Divergence
from polos_redis.replay.replaying import replayed_elsewhere
from tests.harness.deployments import Code, Deployed


async def history_of(client: PolosClient, handle: ExecutionHandle[Any]) -> History:
    """An execution's history, as it comes back from a file."""
    history = await client.get_history(handle.id)
    read = History.from_line(history.to_line())
    assert read == history and read.records == history.records
    return read


def diverged(history: History, code: Code, **options: Any) -> Divergence | None:
    """The divergence of this code from a history of a `Deployed`; no step may be executed."""
    flow = Deployed(code, **options)
    ((_, found),) = replayed_elsewhere([history], {flow.workflow.id: flow.workflow})
    assert flow.effects == []
    return found
