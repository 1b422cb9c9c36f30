"""`ctx.step.suspend`: stop until a person answers; `ctx.step.resume`: answer another execution."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from polos_redis import codec
from polos_redis.activation import Place
from polos_redis.errors import SuspendTimeoutError
from polos_redis.journal import SuspensionRecord
from polos_redis.steps.calls import Calls, caller, decoded, entrant
from polos_redis.steps.times import milliseconds
from polos_redis.store import raw


class Suspensions(Calls):
    """Waits for people."""

    __slots__ = ()

    def suspend(
        self, key: str, data: Any = None, timeout: float | timedelta | None = None
    ) -> Coroutine[Any, Any, dict[str, Any]]:
        """Stop until a person answers. While it waits, the execution holds nothing but a few small keys.

        `data` (a dict, or a model, which is shown as a dict) is what the person is shown; `timeout` is in
        seconds (or a timedelta), counted by the server from when the wait first opened.

        Returns {"data": the answer, "resumed_by": name or None, "resumed_at": aware datetime, "channel": how
        it came}. Raises `SuspendTimeoutError` when nobody answered in time, now and on every replay.
        """
        self._refuse_inside_step(key, "suspend")
        return self._suspend(key, data, timeout, caller())

    async def _suspend(
        self, key: str, data: Any, timeout: float | timedelta | None, place: Place
    ) -> dict[str, Any]:
        activation = self._activation
        stored = await self._begin(key, place)
        if stored is None:
            shown = codec.encode(_shown(data), limit=activation.host.value_limit)
            timeout_ms = milliseconds(f"suspension {key!r}", timeout) or 0
            events, races = activation.first_events(), entrant()
            store, name = activation.host.store, raw(key)
            stored = await self._commit_wait(
                key,
                lambda known: store.suspend(activation.fence, known, name, timeout_ms, shown, races, events),
            )
        record = await self._decision(key, stored, SuspensionRecord, place)
        if record.status == "expired":
            raise SuspendTimeoutError(key, (record.deadline_ms - record.opened_ms) / 1000)
        return {
            "data": decoded(record.answer),
            "resumed_by": record.by or None,
            "resumed_at": datetime.fromtimestamp(record.decided_ms / 1000, UTC),
            "channel": record.channel,
        }


def _shown(data: Any) -> Any:
    """What a person is shown: a model or dataclass becomes a plain dict, as its readers expect."""
    if data is None:
        return {}
    if isinstance(data, Mapping):
        return dict(data)
    return codec.plain(data)
