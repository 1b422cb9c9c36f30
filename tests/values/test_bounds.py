"""Bounds of values from outside, and work that shares the event loop."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, UserDict, deque
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.errors import ValueTooLargeError
from polos_redis.values import bounds
from polos_redis.values.bounds import MAX_LEVELS, MAX_PARTS, SMALL_PARTS, at_once, in_turns, parts_of

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(deque)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=30,
)


def _counted(value: Any) -> tuple[int, int]:
    """Parts and levels, by recursion."""
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple | deque):
        return 1, 1
    below = [_counted(one) for one in inside]
    return 1 + sum(parts for parts, _ in below), 1 + max((levels for _, levels in below), default=0)


@given(VALUES, st.integers(1, 12))
def test_parts_and_levels_are_counted(value: Any, most: int) -> None:
    parts, levels = _counted(value)
    assert parts_of(value) == parts
    if levels > most:
        with pytest.raises(ValueTooLargeError, match="levels"):
            parts_of(value, levels=most)
    else:
        assert parts_of(value, levels=most) == parts


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.threat(12)
def test_the_largest_values_pass_and_larger_ones_are_refused() -> None:
    assert parts_of(_nested(MAX_LEVELS)) == MAX_LEVELS
    assert parts_of([0] * (MAX_PARTS - 1)) == MAX_PARTS
    value: Any
    for value in (_nested(MAX_LEVELS + 1), _nested(500_000), [0] * MAX_PARTS, [[[]] * 1000] * 1000):
        with pytest.raises(ValueTooLargeError):
            parts_of(value)
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(ValueTooLargeError):
        parts_of(itself)
    assert parts_of(UserDict({"a": [1]})) == 3


def _counting(steps: int, seconds: float = 0.0) -> bounds.Work[int]:
    for _ in range(steps):
        if seconds:
            ends = perf_counter() + seconds
            while perf_counter() < ends:
                pass
        yield
    return steps


async def test_work_in_turns_lets_others_run_and_one_work_runs_at_a_time() -> None:
    turns, running, most = 0, 0, 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def work() -> bounds.Work[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        done = yield from _counting(20, bounds.SLICE)
        running -= 1
        return done

    beside = asyncio.create_task(other())
    assert await asyncio.gather(*(in_turns(work()) for _ in range(3))) == [20, 20, 20]
    beside.cancel()
    assert most == 1
    assert turns >= 40
    assert at_once(_counting(5)) == 5


async def test_a_cancelled_work_leaves_its_turn_to_the_next() -> None:
    first = asyncio.create_task(in_turns(_counting(10**9)))
    second = asyncio.create_task(in_turns(_counting(3)))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 3


async def test_a_small_value_is_checked_at_once_even_beside_large_work() -> None:
    large = asyncio.create_task(in_turns(_counting(10**9)))
    await asyncio.sleep(0)
    assert await bounds.run({"small": 1}, _counting(3)) == 3
    large.cancel()
    assert bounds.is_small([0] * (SMALL_PARTS - 1)) and not bounds.is_small([0] * SMALL_PARTS)
    assert not bounds.is_small("x" * 20_000) and not bounds.is_small(_nested(200))
