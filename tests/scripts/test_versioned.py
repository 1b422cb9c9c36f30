"""Stored tuples begin with the version of their format: as written by the scripts, and as read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.decisions import audit
from polos_redis.embedded import EmbeddedServer
from polos_redis.errors import UnreadableValueError
from polos_redis.state import journal
from polos_redis.state.held_back import parse_held_back
from polos_redis.state.journal import result_name
from polos_redis.state.stored_errors import error_record, parse_error
from polos_redis.values.versioned import VERSION
from tests.harness.desk import FAR, Desk, packed


@pytest.fixture
def desk(server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(server.url, namespace) as desk:
        yield desk


def _record(desk: Desk, execution_id: str, key: str | bytes) -> bytes:
    name = key if isinstance(key, bytes) else key.encode()
    return desk.state.journals[execution_id.encode()][name]


def step(desk: Desk) -> bytes:
    by = desk.start()
    desk.write(by, "s")
    return _record(desk, by.id, "s")


def suspension(desk: Desk) -> bytes:
    return _record(desk, desk.parked("ok"), "ok")


def marked_suspension(desk: Desk) -> bytes:
    one = desk.stuck("ok")
    desk.answer(one, "ok")
    desk.retry(one, skip=["ok"], by="ann", reason="gone")
    found = _record(desk, one, "ok")
    assert len(msgpack.unpackb(found, raw=True)) == 19  # with its mark
    return found


def wait(desk: Desk) -> bytes:
    by = desk.start()
    desk.wait(by, "pause", FAR)
    return _record(desk, by.id, "pause")


def children(desk: Desk) -> bytes:
    by = desk.start()
    desk.spawn(by, "kid")
    return _record(desk, by.id, "kid")


def race(desk: Desk) -> bytes:
    by = desk.start()
    desk.choose(by, "race", "a", "s", "b")
    return _record(desk, by.id, "race")


def result_of_a_child(desk: Desk) -> bytes:
    by = desk.start()
    child = desk.child(by)
    assert desk.park(by, "kid") == 0
    assert desk.finish(child) == 0
    return _record(desk, by.id, result_name(child.id))


def held_back(desk: Desk) -> bytes:
    by = desk.start()
    assert desk.run("put_back", "default", by.id, by.entry, FAR, "no class Order") == 1
    return desk.execution(by.id)["held_back"]


def audited(desk: Desk) -> bytes:
    one = desk.parked("ok")
    desk.answer(one, "ok")
    return desk.state.audit[one.encode()][-1]


def error(desk: Desk) -> bytes:
    return error_record(ValueError("no"))


def error_of_a_script(desk: Desk) -> bytes:
    one = desk.invoke(timeout=FAR)
    desk.make_due(f"t{one}")
    desk.fire()
    return desk.execution(one)["error"]


def _error(stored: bytes) -> Any:
    found = parse_error(stored)
    if found.type == "UnreadableValueError":
        raise UnreadableValueError(found.message)
    return found


Tuple = tuple[Callable[[Desk], bytes], Callable[[bytes], Any]]
JOURNALED: list[Tuple] = [
    (write, journal.parse) for write in (suspension, marked_suspension, wait, children, race)
]
TUPLES: list[Tuple] = [
    *JOURNALED,
    (result_of_a_child, journal.parse_result),
    (held_back, parse_held_back),
    (audited, audit.entry),
    (error, _error),
    (error_of_a_script, _error),
]
each = pytest.mark.parametrize(("write", "read"), TUPLES, ids=lambda one: one.__name__.strip("_"))
versions = st.one_of(st.integers(VERSION + 1, 2**32), st.integers(-(2**31), 0), st.none(), st.just("1"))


def _unpacked(stored: bytes) -> list[Any]:
    found: list[Any] = msgpack.unpackb(stored, raw=True, strict_map_key=False)
    return found


@pytest.mark.parametrize(
    ("write", "read"), [(step, journal.parse), *TUPLES], ids=lambda one: one.__name__.strip("_")
)
def test_another_version_is_refused_by_name(
    write: Callable[[Desk], bytes], read: Callable[[bytes], Any], desk: Desk
) -> None:
    stored = write(desk)
    assert _unpacked(stored)[0] == VERSION
    read(stored)

    @given(versions)
    def refused(version: object) -> None:
        with pytest.raises(UnreadableValueError, match="which this release can't read"):
            read(packed([version, *_unpacked(stored)[1:]]))

    refused()


LATER = st.lists(st.one_of(st.none(), st.integers(0, 2**31), st.binary(max_size=5)), max_size=3)


@each
def test_items_that_a_later_release_appends_are_ignored(
    write: Callable[[Desk], bytes], read: Callable[[bytes], Any], desk: Desk
) -> None:
    """A step's record has its time as the last item, so nothing is appended to it."""
    stored = write(desk)
    fields = _unpacked(stored)
    if write is suspension:  # up to the places of its optional items
        fields += [b"", [b"left", 1, b"", b""]][len(fields) - 17 :]
    elif write in (wait, children):  # whose race, and execution of a fork, are optional
        fields += [b""] * ({wait: 12, children: 10}[write] - len(fields))
    elif write is audited:
        fields += [b""] * (12 - len(fields))
    elif write is error_of_a_script:  # which has no traceback of the user's own code
        fields += [b""] * (5 - len(fields))
    known = read(packed(fields))

    @given(LATER)
    def ignored(later: list[Any]) -> None:
        assert read(packed([*fields, *later])) == known

    ignored()


def test_items_appended_to_a_mark_are_ignored(desk: Desk) -> None:
    fields = _unpacked(marked_suspension(desk))
    known = journal.parse(packed(fields))
    fields[18] = [*fields[18], b"later"]
    assert journal.parse(packed(fields)) == known
