"""The part of a journal that a fork keeps."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.executions.journal_cut import cut
from polos_redis.state import journal

EXECUTION = "0" * 32


def packed(*items: Any) -> bytes:
    found: bytes = msgpack.packb(items, use_bin_type=False)
    return found


def step(finished: float, took: float = 0.0, status: str = "ok", branches: tuple[bytes, ...] = ()) -> bytes:
    return journal.step_record(status, 1, took, b"\x01", b"", branches) + packed(finished)[1:]


def wait(opened: int, decided: int, status: str = "over") -> bytes:
    return packed(1, "wait", status, opened, 0, "", "", "", "", b"", decided, "")


def race(opened: int, decided: int, winner: str, *members: str) -> bytes:
    return packed(1, "race", "won" if decided else "open", opened, winner, decided, list(members))


def keys_of(records: dict[str, bytes], first: str, **options: Any) -> set[str]:
    stored = {name.encode(): one for name, one in records.items()} | {journal.COUNT: b"9"}
    found = cut(EXECUTION, stored, first, **{"keep_decisions": False, **options})
    return {name.decode() for name in found}


@given(st.lists(st.tuples(st.floats(0.001, 5), st.floats(0, 0.9)), min_size=1, max_size=20), st.data())
def test_steps_one_after_the_other(times: list[tuple[float, float]], data: st.DataObject) -> None:
    """Each takes a while, and a part of that is in its record: the rest passes on the way to the server."""
    now, records = 1_700_000_000_000.0, {}
    for number, (took, part) in enumerate(times):
        now += took
        records[f"s{number}"] = step(now, took * part)
    first = data.draw(st.integers(0, len(times) - 1))
    assert keys_of(records, f"s{first}") == {f"s{number}" for number in range(first)}


@given(st.sets(st.integers(0, 30)), st.integers(0, 30), st.integers(1, 5))
def test_waits_and_steps_take_turns(waits: set[int], first: int, length: int) -> None:
    records = {
        f"k{i}": wait(10 * i, 10 * i + length) if i in waits else step(10.0 * i + length, float(length))
        for i in range(31)
    }
    assert keys_of(records, f"k{first}") == {f"k{i}" for i in range(first)}


@given(st.floats(0.001, 0.9), st.booleans())
def test_a_wait_within_the_millisecond_before_a_step_is_kept(took: float, is_next: bool) -> None:
    """The time of a step that has its own event is in whole milliseconds, so up to one early."""
    now = 1_700_000_000_000
    records = {"wait": wait(now, now), "next": wait(now + 1, now + 1), "first": step(float(now), took)}
    if not is_next:
        del records["next"]
    assert keys_of(records, "first") == {"wait"}


def test_what_had_not_ended_is_left_out() -> None:
    records = {
        "done": step(5, 1),
        "sibling": step(20, 15),
        "retried": step(8, 1, "retry"),
        "backing": step(8, 1, "backoff"),
        "open": wait(3, 0, "open"),
        "later": wait(3, 20),
        "closed": wait(3, 12, "closed"),
        "gone": wait(3, 7, "closed"),
        "first": step(15, 3),
    }
    assert keys_of(records, "first") == {"done", "gone"}


def test_a_race_whose_winner_is_left_out_is_run_again() -> None:
    records = {
        "race": race(1, 5, "a", "ask", "a", "late", "b", "slow", "b", "kept", "b"),
        "late": wait(1, 5, "closed"),
        "slow": step(6, 1, "abandoned", (b"race", b"b")),
        "unlisted": step(6, 1, "abandoned", (b"race", b"b")),
        "kept": step(4, 1, "ok", (b"race", b"b")),
        "first": step(15, 3),
    }
    suspension = packed(
        1, "suspend", "answered", 1, 0, b"", b"", b"", "ann", "client", 5, b"", b"", "race", b"", 0, 1
    )
    records["ask"] = suspension
    assert keys_of(records, "first") == {"kept"}
    assert keys_of(records, "first", keep_decisions=True) == records.keys() - {"first"}
    nested = {**records, "outer": race(1, 6, "x", "race", "x", "other", "y"), "other": wait(1, 6, "closed")}
    assert keys_of(nested, "first") == {"kept"}


def test_children_keep_their_ids_and_results() -> None:
    def child(status: str, started: int, decided: int) -> bytes:
        return packed(1, "child", status, 1, 2, 0, started, decided, "")

    name = journal.result_name(EXECUTION + ".ab")
    stored = {
        b"done": child("done", 2, 5),
        b"started": child("started", 2, 0),
        b"starting": child("started", 1, 0),
        b"late": child("done", 2, 20),
        name: packed(1, "completed", b"\x01", "done", 1),
        journal.result_name(EXECUTION + ".cd"): packed(1, "completed", b"\x01", "late", 1),
        b"first": step(15, 3),
    }
    found = cut(EXECUTION, stored, "first", keep_decisions=False)
    assert found.keys() == {b"done", b"started", name}
    record = journal.parse(found[b"done"])
    assert isinstance(record, journal.ChildRecord) and record.of == EXECUTION
    again = cut("1" * 32, {**found, b"first": stored[b"first"]}, "first", keep_decisions=False)
    assert again == found, "a fork of a fork has the children of the first execution"
