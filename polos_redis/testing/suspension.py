"""Open suspensions, as a test waits for them and answers them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from polos_redis import events
from polos_redis.client import PolosClient
from polos_redis.decisions.answers import Resumed
from polos_redis.executions.handle import ExecutionHandle
from polos_redis.executions.status_text import status_text
from polos_redis.results import Suspension


@dataclass(frozen=True, slots=True)
class OpenSuspension:
    """A suspension that waits for an answer: its ids, and the `data` that it shows, as plain JSON.

    `view` is all that `PolosClient.get_execution` returns about it.
    """

    execution_id: str
    step_key: str
    data: Any
    view: Suspension = field(repr=False)
    _client: PolosClient = field(repr=False)

    async def answer(
        self, data: Any, *, by: str | None = None, groups: Sequence[str] = (), **options: Any
    ) -> Resumed:
        """Answer as somebody who has seen its data does; `by` and `groups` say who that is.

        Takes the other options of `PolosClient.resume`, and raises what it raises.
        """
        options = {"shown_digest": self.view["digest"], **options}
        return await self._client.resume(
            suspend_execution_id=self.execution_id,
            suspend_step_key=self.step_key,
            data=data,
            resumed_by=by,
            groups=groups,
            **options,
        )


async def open_suspension(
    client: PolosClient, handle: ExecutionHandle[Any], step_key: str | None, timeout: float
) -> OpenSuspension:
    """See `World.suspension`."""
    wanted = "a suspension" if step_key is None else f"suspension {step_key!r}"
    try:
        async with asyncio.timeout(timeout):
            await handle  # it exists
            stream = events.stream_workflow(client, handle.root_workflow_id, handle.id, plain=True)
            async for event in stream:
                if event.event_type.startswith("suspend_"):
                    view = await client.get_execution(handle.id)
                    found = [*view["open_suspensions"], *view["open_suspensions_below"]]
                    for one in sorted(found, key=lambda one: str(one["opened_at"])):
                        if step_key in (None, one["step_key"]):
                            return OpenSuspension(
                                one["execution_id"], one["step_key"], one["data"], one, client
                            )
                elif event.event_type == "workflow_stuck" and event.metadata["execution_id"] == handle.id:
                    break
    except TimeoutError:
        where = await whereabouts(client, handle)
        raise TimeoutError(
            f"execution {handle.id} did not open {wanted} within {timeout:g} s: {where}"
        ) from None
    where = await whereabouts(client, handle)
    raise AssertionError(f"execution {handle.id} opened no {wanted.removeprefix('a ')}: {where}")


async def whereabouts(client: PolosClient, handle: ExecutionHandle[Any]) -> str:
    """Returns where an execution is, in words."""
    view = await client.get_execution(handle.id)
    status = view["status"]
    if status == "completed":
        return f"it completed with {view['result']!r}"
    if view["error"] is not None:
        return f"it {status} with {view['error']['type']}: {view['error']['message']}"
    if view["stuck"] is not None:
        return f"it is stuck: {view['stuck']['message']}"
    return f"it is {await status_text(client, handle.id)}"
