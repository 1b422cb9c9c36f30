"""Bounds of values that come from outside: levels, parts, and turns on the event loop.

A part is the value itself or anything inside it, however deep; the keys of a dict are not counted, and an
object that is neither dict, list, tuple, set nor deque is one part. Work that grows with a value is written
as a generator that yields every few hundred steps: `at_once` runs it to its end, `in_turns` gives the loop to
others every 2 ms, and runs one such work at a time in each loop.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from time import perf_counter
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from polos_redis.errors import ValueTooLargeError
from polos_redis.values.json_value import JsonValue

T = TypeVar("T")
Work = Generator[None, None, T]

MAX_LEVELS = 100  # of a value: a list of numbers has two
MAX_PARTS = 100_000
SMALL_PARTS = 500  # up to here, a check needs no turns
SMALL_BYTES = 16_384  # of an encoded value: it has at most as many parts
SLICE = 0.002  # seconds that work holds the loop

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_LEAF, _MAPPING, _ITEMS = range(3)
_KINDS: dict[type, int] = {
    **dict.fromkeys((str, int, float, bool, type(None), bytes), _LEAF),
    **dict.fromkeys((list, tuple, set, frozenset, deque), _ITEMS),
    dict: _MAPPING,
}
_LARGEST = int(sys.float_info.max)
_MOST_KINDS = 4096  # classes may be made without limit
_LOCKS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def parts_of(value: Any, *, levels: int = MAX_LEVELS) -> int:
    """The number of a value's parts. Raises `ValueTooLargeError` beyond MAX_PARTS or `levels`."""
    level: list[Any] = [value]
    parts = 1
    for _ in range(levels):
        below: list[Any] = []
        for item in level:
            kind = _KINDS.get(type(item))
            if kind is None:
                kind = _kind(item.__class__)
            if kind and item:
                parts += len(item)
                if parts > MAX_PARTS:
                    raise ValueTooLargeError(TOO_MANY_PARTS)
                below += item.values() if kind == _MAPPING else item
        if not below:
            return parts
        level = below
    raise ValueTooLargeError(TOO_DEEP)


def children(value: Any) -> Iterable[Any] | None:
    """The parts directly inside a value; None if it is a single part."""
    kind = _KINDS.get(type(value))
    if kind is None:
        kind = _kind(type(value))
    if kind == _MAPPING:
        values: Iterable[Any] = value.values()
        return values
    return value if kind == _ITEMS else None


def is_mapping(value: Any) -> bool:
    """Whether the children of a value have keys."""
    return _KINDS.get(type(value), _LEAF) == _MAPPING or isinstance(value, Mapping)


def is_beyond_floats(value: Any) -> bool:
    """Whether a value is an integer that would become infinity as a float."""
    return type(value) is int and not -_LARGEST <= value <= _LARGEST


def is_small(value: Any) -> bool:
    """Whether a value, or the text or bytes it is read from, needs no turns on the loop to be checked."""
    if isinstance(value, JsonValue):
        value = value.value
    if isinstance(value, str | bytes):
        return len(value) <= SMALL_BYTES
    try:
        return parts_of(value) <= SMALL_PARTS
    except ValueTooLargeError:
        return False


def check_text(text: str) -> None:
    """Raises `ValueTooLargeError` if a JSON text surely has more than MAX_PARTS parts.

    Reading it would take 30 times as much memory as the text: `[[],[],...]`. What passes has at most twice
    as many parts.
    """
    if (
        len(text) > MAX_PARTS
        and _marks(text) > 2 * MAX_PARTS
        and _marks(_STRING.sub('"', text)) > 2 * MAX_PARTS
    ):
        raise ValueTooLargeError(TOO_MANY_PARTS)


def _marks(text: str) -> int:
    # Each part but the first follows a comma or is the first of its list or object; each list and object is
    # a part itself. So there are at least half as many parts, outside of strings.
    return text.count(",") + text.count("[") + text.count("{")


def at_once(work: Work[T]) -> T:
    """Run work to its end, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


async def run(value: Any, work: Work[T]) -> T:
    """Run work on a value: at once if the value is small, in turns if it is not."""
    return at_once(work) if is_small(value) else await in_turns(work)


async def in_turns(work: Work[T]) -> T:
    """Run work to its end, giving the loop to others every 2 ms, and return its result."""
    lock = _LOCKS.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock:
        end_of_turn = perf_counter() + SLICE
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            if perf_counter() > end_of_turn:
                await asyncio.sleep(0)
                end_of_turn = perf_counter() + SLICE


def _kind(cls: type[Any]) -> int:
    kind = _LEAF
    if issubclass(cls, Mapping):
        kind = _MAPPING
    elif issubclass(cls, list | tuple | set | frozenset | deque):
        kind = _ITEMS
    if len(_KINDS) < _MOST_KINDS:
        _KINDS[cls] = kind
    return kind


TOO_DEEP = f"the value is nested deeper than {MAX_LEVELS} levels"
TOO_MANY_PARTS = (
    f"the value has more than {MAX_PARTS:,} parts (items of lists and objects, at every level): "
    "store it elsewhere and pass a reference"
)
