"""JSON in the place of a stored value: it comes back with the types of that value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from polos_redis.errors import InvalidInputError, ValueTooLargeError
from polos_redis.values import codec
from polos_redis.values.replacement import encode_like


class Colour(Enum):
    red = "r"
    blue = "b"


class Item(BaseModel):
    name: str
    price: Decimal
    colours: tuple[Colour, ...] = ()


@dataclass
class Order:
    id: UUID
    items: list[Item]
    due: datetime
    day: date
    at: time
    after: timedelta
    weight: float


def like(stored: Any, value: Any) -> Any:
    return codec.decode(encode_like(codec.encode(stored), value, limit=1 << 20))


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
json_values = st.recursive(leaves, lambda one: st.lists(one) | st.dictionaries(st.text(), one), max_leaves=10)
items = st.builds(
    Item,
    name=st.text(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    colours=st.lists(st.sampled_from(Colour)).map(tuple),
)
orders = st.builds(
    Order,
    id=st.uuids(),
    items=st.lists(items, min_size=1),
    due=st.datetimes(timezones=st.just(datetime.now().astimezone().tzinfo)) | st.datetimes(),
    day=st.dates(),
    at=st.times(),
    after=st.timedeltas(),
    weight=st.floats(allow_nan=False, allow_infinity=False),
)


@given(orders, orders)
def test_a_value_as_it_is_shown_replaces_one_of_its_type(old: Order, new: Order) -> None:
    shown = json.loads(json.dumps(codec.plain(new)))
    for one in shown["items"]:  # an old value shows the types of the first items of a collection only
        one["colours"] = one["colours"] if all(item.colours for item in old.items) else []
    expected = [
        item.model_copy(update={"colours": item.colours if all(one.colours for one in old.items) else ()})
        for item in new.items
    ]
    found = like(old, shown)
    assert type(found) is Order and found.items == expected
    assert (found.id, found.due, found.day, found.at) == (new.id, new.due, new.day, new.at)
    assert found.after == new.after and type(found.weight) is float and found.weight == new.weight


@given(json_values, json_values)
def test_json_replaces_json(old: Any, new: Any) -> None:
    found = like(old, new)
    assert found == new


@given(st.sampled_from([{1, 2}, (1, "a"), frozenset({3}), 1 << 80, b"x", None, Colour.red]), json_values)
def test_whatever_replaces_a_value_is_readable_or_refused(old: Any, new: Any) -> None:
    try:
        encoded = encode_like(codec.encode(old), new, limit=1 << 20)
    except InvalidInputError:
        assert isinstance(old, (bytes, set, tuple, frozenset))
        return
    if not isinstance(old, (Colour, set, frozenset)):
        codec.decode(encoded)


def test_too_large_and_bytes() -> None:
    with pytest.raises(ValueTooLargeError):
        encode_like(codec.encode("a"), "b" * 100, limit=50)
    with pytest.raises(InvalidInputError, match=r"\$\[0\]: it was bytes, which JSON does not have"):
        like([b"a"], ["b"])
