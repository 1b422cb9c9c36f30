"""What counts as silence of another worker: a living one is never presumed dead, a dead one always is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.wire.wire import LONGEST_PAUSE
from polos_redis.worker.lease_watch import LOOKS, LeaseCounters

LATENCY = 0.002  # seconds between a request and its reply


@dataclass(frozen=True)
class Outage:
    """From `start` until `end` nobody reaches the node: it is `paused`, with all connections kept, or gone.
    Then the watcher and the worker reconnect, after seconds of their own."""

    start: float
    end: float
    paused: bool
    watcher_after: float
    worker_after: float


@st.composite
def outages(draw: st.DrawFn, lease: float, longest: float) -> list[Outage]:
    found: list[Outage] = []
    start = draw(st.floats(0.0, 2 * lease))
    for _ in range(draw(st.integers(0, 12))):
        seconds = draw(st.floats(0.01, longest))
        window = draw(st.floats(0.3, 2 * lease))  # until the next one
        paused = draw(st.booleans())
        # a pause between two attempts to connect is never longer than the attempts so far
        latest = 0.0 if paused else min(seconds, LONGEST_PAUSE, window / 2)
        found.append(
            Outage(start, start + seconds, paused, *(draw(st.floats(0.0, latest)) for _ in range(2)))
        )
        start += seconds + window
    return found


def reached(at: float, outages: list[Outage], *, watcher: bool) -> float:
    """When a call made at a time reaches the node."""
    for one in outages:
        back = one.end + (one.watcher_after if watcher else one.worker_after)
        if one.start <= at < back:
            at = back
    return at


def lost_between(since: float, until: float, outages: list[Outage]) -> float:
    """The seconds in which the watcher knew that it had no connection."""
    down = [(one.start, one.end + one.watcher_after) for one in outages if not one.paused]
    return sum(max(0.0, min(until, end) - max(since, start)) for start, end in down)


def looks(
    lease: float, outages: list[Outage], renewals: list[float], late: list[float], until: float
) -> list[tuple[float, float]]:
    """Watch a worker that renews at these times; returns when each look's reply came, and the silence then.
    Each look is late by one of `late`."""
    watch, found, at, before = LeaseCounters(lease), [], 0.0, 0.0
    while at < until:
        served = reached(at, outages, watcher=True)
        counter = b"%d" % sum(renewal <= served for renewal in renewals)
        watch.saw(
            {"other": counter},
            asked=at,
            answered=served + LATENCY,
            lost=lost_between(before, at, outages),
        )
        before = served + LATENCY
        found.append((before, watch.silent_for("other")))
        at = before + watch.period + late[len(found) % len(late)]
    return found


LEASES = st.sampled_from([3.0, 6.0, 15.0])
LATE = st.lists(st.floats(0.0, 0.05), min_size=1, max_size=5)


@pytest.mark.failure(39, 44)
@given(data=st.data(), lease=LEASES, late=LATE)
def test_a_worker_that_renews_whenever_it_can_is_never_presumed_dead(
    data: st.DataObject, lease: float, late: list[float]
) -> None:
    trouble = data.draw(outages(lease, 3 * lease))
    until = 6 * lease + (trouble[-1].end if trouble else 0.0)
    renewals, at = [], data.draw(st.floats(0.0, lease / 3))
    while at < until:
        renewals.append(reached(at, trouble, watcher=False))
        at = renewals[-1] + lease / 3
    silences = looks(lease, trouble, renewals, late, until)
    assert max(silent for _, silent in silences) < lease


@pytest.mark.failure(44)
@given(data=st.data(), lease=LEASES, late=LATE)
def test_a_dead_worker_is_recognised_after_a_lease_of_connected_time_however_often_connections_are_cut(
    data: st.DataObject, lease: float, late: list[float]
) -> None:
    trouble = data.draw(outages(lease, lease / LOOKS / 4))
    silences = looks(lease, trouble, [], late, 30 * lease)
    found = next(at for at, silent in silences if silent >= lease)
    away = sum(one.end + one.watcher_after - one.start for one in trouble if one.start < found)
    assert found <= 1.5 * lease + 2 * away
    assert found - lost_between(0.0, found, trouble) >= lease, "a full lease was watched, no less"


@pytest.mark.failure(39)
@given(lease=LEASES, frozen=st.floats(1.0, 1000.0), watched=st.floats(0.0, 1.0), rest=st.floats(0.0, 1.0))
def test_a_frozen_machine_presumes_nobody_dead(
    lease: float, frozen: float, watched: float, rest: float
) -> None:
    """Watcher and worker are stopped together, and their monotonic clocks go on."""
    watch, at = LeaseCounters(lease), 0.0
    while at < watched * lease / 3:
        watch.saw({"other": b"1"}, asked=at, answered=at + LATENCY, lost=0.0)
        at += watch.period
    renews = at + frozen + rest * (lease / 3)
    at += frozen
    while at < renews:
        watch.saw({"other": b"1"}, asked=at, answered=at + LATENCY, lost=0.0)
        assert watch.silent_for("other") < lease
        at += watch.period


def test_a_counter_seen_first_or_changed_is_watched_for_a_full_lease() -> None:
    watch = LeaseCounters(4.0)
    for at in range(5):
        watch.saw({"old": b"7"}, asked=at, answered=at, lost=0.0)
    assert watch.silent_for("old") == 4.0
    watch.saw({"old": b"7", "new": b"7", "none": b""}, asked=5, answered=5, lost=0.0)
    assert [watch.silent_for(name) for name in ("old", "new", "none")] == [5.0, 0.0, 0.0]
    watch.saw({"old": b"6", "none": b""}, asked=6, answered=6, lost=0.0)
    assert [watch.silent_for(name) for name in ("old", "none")] == [0.0, 1.0], (
        "a counter that went back lives"
    )
    watch.saw({"new": b"7"}, asked=7, answered=7, lost=0.0)
    assert watch.silent_for("new") == 0.0, "it was away meanwhile"


def test_time_without_a_connection_is_not_silence() -> None:
    watch = LeaseCounters(4.0)
    watch.saw({"other": b"1"}, asked=0, answered=0, lost=0.0)
    watch.saw({"other": b"1"}, asked=1, answered=1, lost=0.75)
    assert watch.silent_for("other") == 0.25
    watch.saw({"other": b"1"}, asked=2, answered=2, lost=float("inf"))
    assert watch.silent_for("other") == 0.25, "another node has the partition"
    watch.saw({"other": b"1"}, asked=3, answered=9, lost=0.0)
    assert watch.silent_for("other") == 0.25 + 1.0 - LONGEST_PAUSE, "the others may have to reconnect"
