"""Previews of stored values: the whole where there is room; bounded, and counted, where there is not."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_serializer

from polos_redis.values import codec, preview
from polos_redis.values.plain import readable
from polos_redis.values.preview import MAX_DEPTH, MAX_ITEMS, MAX_KEY, PreviewBudget

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.just(UTC))
)
keys = st.text(max_size=5) | st.integers() | st.tuples(st.integers(), st.text(max_size=3))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(keys, inner, max_size=5),
        st.tuples(inner, inner),
        st.lists(inner, max_size=400),
    ),
    max_leaves=60,
)


class Masked(BaseModel):
    name: str
    key: str

    @field_serializer("key")
    def _masked(self, key: str) -> str:
        return "***"


@dataclasses.dataclass
class Item:
    what: str
    parts: list[int]


def encoded(value: Any) -> bytes:
    return codec.encode(value, limit=codec.UNLIMITED)


def size(value: Any) -> int:
    """The number of values in a preview."""
    if isinstance(value, dict):
        return 1 + sum(map(size, value.values()))
    return 1 + sum(map(size, value)) if isinstance(value, list) else 1


def left(value: Any) -> int:
    own: int = getattr(value, "left", 0)
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return own + sum(map(left, below))


@given(values)
@settings(max_examples=100, deadline=None)
def test_with_enough_room_a_preview_is_the_whole(value: Any) -> None:
    stored = encoded(value)
    found = preview.preview(stored, PreviewBudget(10**6, 10**7))
    if left(found) == 0:
        assert found == readable(stored)
    else:
        assert any(len(one) > MAX_ITEMS for one in _lists(readable(stored)))


def _lists(value: Any) -> list[Any]:
    if not isinstance(value, (dict, list)):
        return []
    parts = value.values() if isinstance(value, dict) else value
    return [value, *(one for part in parts for one in _lists(part))]


@pytest.mark.failure(47)
@pytest.mark.threat(22)
@given(values, st.integers(1, 100), st.integers(0, 1000), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_preview_keeps_within_its_budget(value: Any, nodes: int, characters: int, streamed: bool) -> None:
    stored = encoded(value)
    with pytest.MonkeyPatch.context() as patch:
        if streamed:  # as of a large value
            patch.setattr(preview, "LARGE", 2)
        found = preview.preview(stored, PreviewBudget(nodes, characters))
    whole = readable(stored)
    assert size(found) <= 2 * nodes + 1
    assert len(json.dumps(found)) < 60_000 + 20 * characters
    if found != whole:
        assert left(found) > 0


@pytest.mark.parametrize("large", [False, True])
def test_what_comes_later_is_shown_as_well(large: bool) -> None:
    rows = [[number] * 5 for number in range(20_000 if large else 500)]
    value = {"rows": rows, "text": "x" * 10_000, "last": 5}
    found = preview.preview(encoded(value), PreviewBudget(200, 2000))
    assert list(found) == ["rows", "text", "last"] and found["last"] == 5
    assert found["rows"][0] == [0] * 5 and found["rows"].left == len(rows) - len(found["rows"])
    assert found["text"].left + len(found["text"]) == 10_000


@pytest.mark.parametrize("number", [500, 60_000])
def test_kept_items_are_never_left_out(number: int) -> None:
    value = {**{f"k{one}": one for one in range(number)}, "approved": True}
    found = preview.preview(encoded(value), PreviewBudget(50, 1000), keep=("approved", "missing"))
    assert found["approved"] is True and found.left == number + 1 - len(found)
    assert len(found) <= 51


def test_an_item_is_found_without_the_others() -> None:
    value = {**{f"k{one}": [one] for one in range(1000)}, "_form": {"a": [1, 2]}}
    assert readable(preview.item_of(encoded(value), "_form")) == {"a": [1, 2]}
    for other in ({}, {"a": 1}, [1], "x", None, 5, {5: 1}):
        assert preview.item_of(encoded(other), "_form") is None


def test_types_are_shown_as_in_the_whole() -> None:
    value = {
        "model": Masked(name="a", key="hidden"),
        "item": Item("b", [1, 2]),
        "set": {1},
        "exact": Decimal("1.50"),
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "odd": [float("inf"), b"\xff", 10**5000],
    }
    found = preview.preview(encoded(value), PreviewBudget(100, 20_000))
    assert found == readable(encoded(value)) and "hidden" not in repr(found)


def test_long_keys_and_deep_values_are_cut() -> None:
    (key,) = preview.preview(encoded({"k" * 100_000: 1}), PreviewBudget(10, 100))
    assert len(key) == MAX_KEY and key.left == 100_000 - MAX_KEY
    deep: Any = "end"
    for _ in range(150):
        deep = [deep]
    found = preview.preview(encoded(deep), PreviewBudget(1000, 1000))
    for _ in range(MAX_DEPTH):
        (found,) = found
    assert found == [] and found.left == 1


@pytest.mark.parametrize(
    "stored",
    [b"\xc1", b"\x91", b"\xde\xff\xff" + b"\xc1" * 40_000, msgpack.packb(msgpack.ExtType(12, b"\x05"))],
    ids=["code", "cut", "large", "record"],
)
def test_damaged_values_are_shown_as_unreadable(stored: bytes) -> None:
    found = preview.preview(stored, PreviewBudget(100, 100))
    assert list(found) == ["_unreadable"]
    assert preview.preview(b"", PreviewBudget(1, 1)) is None
