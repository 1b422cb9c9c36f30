"""Previews: the beginning of stored values as plain JSON, within a budget, for pages that show many.

A preview costs what it shows, however large the value is: of a large dict or list, what is left out is not
even unpacked. It is counted where it is left out: `PartialDict`, `PartialList` and `PartialText` have it as
`left`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from msgpack import ExtType, Unpacker

from polos_redis import failures
from polos_redis.errors import StoredValueError
from polos_redis.redaction import redact_text
from polos_redis.values import packing, plain
from polos_redis.values.text import visible

LARGE = 1 << 15  # bytes of a dict or list that is unpacked only as far as it is shown
MAX_ITEMS = 300  # of one list or dict
MAX_DEPTH = 40  # levels; deeper ones are left out
MAX_KEY = 500  # characters of a dict's key
RESERVED = 8  # nodes, for each of the values that follow in the same list or dict
RESERVED_CHARACTERS = 200


_NESTED = (list, dict, ExtType)


class PartialDict(dict[str, Any]):
    """The first items of a dict; `left` more are left out."""

    left: int = 0


class PartialList(list[Any]):
    """The first items of a list; `left` more are left out."""

    left: int = 0


class PartialText(str):
    """The beginning of a text; `left` more characters are left out."""

    __slots__ = ("left",)
    left: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored value that is not decoded yet; `data` is codec bytes, None for no value."""

    data: bytes | None


@dataclass(slots=True)
class PreviewBudget:
    """What previews may still show: nodes (values, on all levels) and characters of text, counted in bytes as
    a page prints them."""

    nodes: int
    characters: int

    def part(self, nodes: int, characters: int) -> PreviewBudget:
        """Returns a budget within this one. What is spent of it has to be spent here too."""
        return PreviewBudget(min(nodes, self.nodes), min(characters, self.characters))

    def spend(self, nodes: int, characters: int) -> None:
        self.nodes -= nodes
        self.characters -= characters


def preview(stored: bytes | None, budget: PreviewBudget, *, keep: Sequence[str] = ()) -> Any:
    """Returns the beginning of a stored value, without tokens and secrets (see redaction.py); spends of the
    budget. Of a dict, the items named in `keep` are never left out.

    Never raises: `{"_unreadable": reason}` if unreadable, None if there is no value.
    """
    if not stored:
        return None
    try:
        return _Preview(budget, keep).unpacked(stored, 0, 0, 0)
    except (StoredValueError, RecursionError) as error:
        return {"_unreadable": str(error)}
    except BaseException as error:  # a user's class may raise anything, SystemExit too
        return {"_unreadable": f"a stored value can't be read: {failures.repr_of(error)}"}


def item_of(stored: bytes, name: str) -> bytes | None:
    """Returns an item of a stored dict, encoded; None if there is none. Unpacks nothing else."""
    if not stored or not _is_dict(stored) or name.encode() not in stored:
        return None
    unpacker = _unpacker(stored)
    for _ in range(unpacker.read_map_header()):
        found = unpacker.unpack() == name
        start = unpacker.tell()
        unpacker.skip()
        if found:
            return stored[start : unpacker.tell()]
    return None


def _is_dict(data: bytes) -> bool:
    return 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)


def _is_list(data: bytes) -> bool:
    return 0x90 <= data[0] <= 0x9F or data[0] in (0xDC, 0xDD)


def _unpacker(data: bytes) -> Unpacker:
    unpacker = Unpacker(strict_map_key=False, unicode_errors="surrogatepass", max_buffer_size=len(data))
    unpacker.feed(data)
    return unpacker


class _Preview:
    def __init__(self, budget: PreviewBudget, keep: Sequence[str]) -> None:
        self._budget = budget
        self._keep = keep

    def unpacked(self, data: bytes, depth: int, nodes: int, characters: int) -> Any:
        """Returns the preview of a packed value, as `of`."""
        is_dict = _is_dict(data)
        if len(data) < LARGE or not (is_dict or _is_list(data)):
            return self.of(plain.neutral(data), depth, nodes, characters)
        self._budget.nodes -= 1
        unpacker = _unpacker(data)
        total = unpacker.read_map_header() if is_dict else unpacker.read_array_header()
        found: PartialDict | PartialList = PartialDict() if is_dict else PartialList()
        count = self._count(total, nodes) if depth < MAX_DEPTH else 0
        keep = [name for name in self._keep if name.encode() in data] if depth == 0 else []
        shown = 0
        for place in range(total if is_dict and keep else count):
            key = unpacker.unpack() if is_dict else None
            kept = key in keep if isinstance(key, str) else False
            if not kept and (place >= count or self._budget.nodes <= nodes):
                if not keep:
                    break
                unpacker.skip()
                continue
            start = unpacker.tell()
            unpacker.skip()
            after = max(0, count - place - 1)
            self._budget.nodes += RESERVED if kept else 0
            item = self._item(data[start : unpacker.tell()], depth, nodes, characters, after, packed=True)
            shown += 1
            if isinstance(found, PartialDict):
                found[self._key(key)] = item
            else:
                found.append(item)
        found.left = total - shown
        return found

    def of(self, value: Any, depth: int, nodes: int, characters: int) -> Any:
        """Returns the preview of a value. Leaves as many nodes and characters to others."""
        budget, cls = self._budget, type(value)
        budget.nodes -= 1
        if cls is ExtType:
            return self._extension(value, depth, nodes, characters)
        if cls is dict or cls is list:
            if depth >= MAX_DEPTH or budget.nodes <= nodes:
                return _nothing_of(value)
            if cls is dict:
                return self._dict(value, depth, nodes, characters)
            return self._list(value, depth, nodes, characters)
        found = plain.leaf(value)
        return self._text(found, characters) if isinstance(found, str) else found

    def _text(self, text: str, reserved: int) -> str:
        room = max(RESERVED_CHARACTERS, self._budget.characters - reserved)
        length = min(len(text), room)
        printed = _printed_bytes(text[:length])
        if printed > room:
            length, printed = length * room // printed, room
        self._budget.characters -= printed
        return _beginning(text, length)

    def _count(self, items: int, nodes: int, first: Iterable[Any] | None = None) -> int:
        """Returns how many items of a list or dict to show, so that something of each can be shown. `first`
        are some of them, None if they are still packed."""
        nested = first is None or any(type(one) in _NESTED for one in islice(first, 20))
        room = (self._budget.nodes - nodes) // (RESERVED if nested else 1)
        return min(items, MAX_ITEMS, max(1, room))

    def _list(self, items: list[Any], depth: int, nodes: int, characters: int) -> list[Any]:
        found = PartialList()
        count = self._count(len(items), nodes, items)
        for place in range(count):
            if self._budget.nodes <= nodes:
                break
            after = count - place - 1
            found.append(self._item(items[place], depth, nodes, characters, after))
        found.left = len(items) - len(found)
        return found if found.left else list(found)

    def _dict(self, items: dict[Any, Any], depth: int, nodes: int, characters: int) -> dict[str, Any]:
        found = PartialDict()
        count = self._count(len(items), nodes, items.values())
        shown = 0
        for place, (key, value) in enumerate(islice(items.items(), count)):
            if self._budget.nodes <= nodes:
                break
            after = count - place - 1
            found[self._key(key)] = self._item(value, depth, nodes, characters, after)
            shown += 1
        for key in self._keep if depth == 0 else ():
            if key in items and key not in found:
                self._budget.nodes += RESERVED  # whatever else was shown before
                found[key] = self._item(items[key], depth, nodes, characters, 0)
                shown += 1
        found.left = len(items) - shown
        return found if found.left else dict(found)

    def _item(
        self, value: Any, depth: int, nodes: int, characters: int, after: int, *, packed: bool = False
    ) -> Any:
        """Returns the preview of an item, which leaves a little to those `after` it."""
        nodes = min(self._budget.nodes - 1, nodes + RESERVED * after)
        characters = min(self._budget.characters, characters + RESERVED_CHARACTERS * after)
        if isinstance(value, bytes) and packed:
            return self.unpacked(value, depth + 1, max(nodes, 0), max(characters, 0))
        return self.of(value, depth + 1, max(nodes, 0), max(characters, 0))

    def _key(self, key: Any) -> str:
        text = plain.key_of(key)
        length = min(len(text), MAX_KEY)
        self._budget.characters -= _printed_bytes(text[:length])
        return _beginning(text, length)

    def _extension(self, value: ExtType, depth: int, nodes: int, characters: int) -> Any:
        self._budget.nodes += 1  # it is counted as what it holds
        if value.code in packing.RECORD_KINDS:
            return self.of(plain.record_of(value.code, value.data), depth, nodes, characters)
        if value.code in (packing.TUPLE, packing.SET, packing.FROZENSET, packing.JSON):
            return self.of(plain.neutral(value.data), depth, nodes, characters)
        found = plain.leaf(value)
        self._budget.nodes -= 1
        return self._text(found, characters) if isinstance(found, str) else found


def _beginning(text: str, length: int) -> str:
    shown = redact_text(text[:length])
    if length == len(text):
        return shown
    found = PartialText(shown)
    found.left = len(text) - length
    return found


def _printed_bytes(text: str) -> int:
    """The size of a text on a page, at most: what is invisible, or has a meaning in HTML, is escaped."""
    printed = visible(text, multiline=True)
    return len(printed.encode("utf-8", "replace")) + 4 * sum(map(printed.count, "<>&\"'"))


def _nothing_of(value: dict[Any, Any] | list[Any]) -> dict[str, Any] | list[Any]:
    if not value:
        return type(value)()
    found = PartialDict() if isinstance(value, dict) else PartialList()
    found.left = len(value)
    return found
