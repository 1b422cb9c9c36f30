"""Values through a whole execution, and again on replay: input, steps, answer, result."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from math import inf, isnan, nan
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from polos_redis import Workflow, WorkflowContext
from polos_redis.values import codec
from tests.harness.running import running


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Line(BaseModel):
    sku: str
    price: Decimal


class Order(BaseModel):
    lines: list[Line]
    colour: Colour
    note: str | None = None


@dataclass
class Box:
    content: Any
    sizes: tuple[int, ...] = (1, 2)
    tags: set[str] = field(default_factory=set)


VALUES: dict[str, Any] = {
    "none": None,
    "bool": True,
    "big int": 2**200,
    "negative big int": -(2**70),
    "float": 0.1,
    "infinity": -inf,
    "text": "ünï ☃ \x00 \ud800",
    "bytes": b"\x00\xff",
    "datetime": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "datetime elsewhere": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "naive datetime": datetime(2026, 1, 2, 3, 4, 5, 6),
    "date": date(2026, 1, 2),
    "time": time(1, 2, 3, 4),
    "timedelta": timedelta(days=-1, microseconds=1),
    "decimal": Decimal("1.10"),
    "uuid": UUID(int=5),
    "tuple": (1, (2, ()), [3]),
    "set": {1, "a", (2, 3)},
    "frozenset": frozenset({frozenset({1})}),
    "enum": Colour.RED,
    "int enum": Level.HIGH,
    "model": Order(lines=[Line(sku="a", price=Decimal("1.50"))], colour=Colour.RED),
    "dataclass": Box({1: Box(None)}, (3,), {"a"}),
    "odd keys": {1: "a", (1, 2): "b", None: "c", Colour.RED: "d", 1.5: "e", b"x": "f", True + 1: "g"},
    "mixture": [{"a": (Order(lines=[], colour=Colour.RED), {date(2026, 1, 2)})}, Box([nan + 0 == 0])],
}

_seen: list[Any] = []


async def _body(ctx: WorkflowContext, input: Any) -> Any:
    from_step = await ctx.step.run("async", _identity, input)
    from_thread = await ctx.step.run("sync", lambda: input)
    answer = await ctx.step.suspend("ask", {"shown": input})
    again = await ctx.step.suspend("again")
    _seen.append([from_step, from_thread, answer["data"], again["data"]])
    return input


async def _identity(value: Any) -> Any:
    return value


passes_on: Workflow[Any, Any] = Workflow(_body, "passes-on")


@pytest.mark.parametrize("name", VALUES)
async def test_values_stay_typed_and_equal(name: str, redis_url: str, namespace: str) -> None:
    value = VALUES[name]
    async with running(redis_url, namespace, passes_on) as at:
        handle = await passes_on.invoke(at.client, value)
        await at.opened(handle, "ask")
        await at.answer(handle, "ask", value)
        await at.opened(handle, "again")
        await at.answer(handle, "again", value)
        result = await at.result(handle)
        *_, last = _seen
        for found in (result, *last):
            assert found == value
            assert _types(found) == _types(value)
        event = next(e for e in await at.events(handle) if e.event_type == "suspend_ask")
        # A person is shown the same by every process: models and dataclasses as plain dicts.
        assert codec.plain(event.data["shown"]) == codec.plain(value)


def _types(value: Any) -> Any:
    """The types at every level."""
    if isinstance(value, dict):
        return {key: (type(key), _types(item)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [_types(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), {(item, type(item)) for item in value}
    if isinstance(value, (BaseModel, Box)):
        return type(value), _types(vars(value))
    return type(value)


async def test_a_nan_survives(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, passes_on) as at:
        handle = await passes_on.invoke(at.client, nan)
        for key in ("ask", "again"):
            await at.opened(handle, key)
            await at.answer(handle, key, nan)
        assert isnan(await at.result(handle))
