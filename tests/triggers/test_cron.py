"""When the ticks of a cron expression are, above all where the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polos_redis import ConfigurationError
from polos_redis.definitions.cron import Cron

# 2027: forward at 02:00 on 28 March, back at 03:00 on 31 October
BERLIN = "Europe/Berlin"
SPRING, AUTUMN = "2027-03-28T01:00:00", "2027-10-31T01:00:00"


def ticks(expression: str, timezone: str, start: str, count: int) -> list[str]:
    """The next ticks after a local time, as the wall clock shows them and its distance to UTC."""
    zone = ZoneInfo(timezone)
    moment = int(datetime.fromisoformat(start).replace(tzinfo=zone).timestamp() * 1000)
    found = []
    for _ in range(count):
        moment = Cron(expression, timezone).after(moment)
        found.append(datetime.fromtimestamp(moment / 1000, zone).strftime("%d %H:%M:%S %z"))
    return found


@pytest.mark.parametrize("seconds", ["", "0 "])
def test_a_fixed_time_that_spring_skips_comes_at_the_end_of_the_gap(seconds: str) -> None:
    assert ticks(f"{seconds}30 2 * * *", BERLIN, SPRING, 2) == ["28 03:00:00 +0200", "29 02:30:00 +0200"]
    assert ticks(f"{seconds}30 2 * * *", "America/New_York", "2027-03-14T01:00:00", 2) == [
        "14 03:00:00 -0400",
        "15 02:30:00 -0400",
    ]


@pytest.mark.parametrize("seconds", ["", "0 "])
def test_a_fixed_time_that_autumn_shows_twice_comes_once(seconds: str) -> None:
    assert ticks(f"{seconds}30 2 * * *", BERLIN, AUTUMN, 2) == ["31 02:30:00 +0200", "01 02:30:00 +0100"]
    assert ticks(f"{seconds}30 1 * * *", "America/New_York", "2027-11-07T00:00:00", 2) == [
        "07 01:30:00 -0400",
        "08 01:30:00 -0500",
    ]


def test_fixed_times_that_fall_together_at_the_end_of_a_gap_are_one_tick() -> None:
    assert ticks("0,30 2,3 * * *", BERLIN, SPRING, 3) == [
        "28 03:00:00 +0200",
        "28 03:30:00 +0200",
        "29 02:00:00 +0200",
    ]


def test_an_interval_ticks_through_both_changes() -> None:
    assert ticks("*/30 * * * *", BERLIN, "2027-03-28T01:30:00", 2) == [
        "28 03:00:00 +0200",
        "28 03:30:00 +0200",
    ]
    assert ticks("*/30 * * * *", BERLIN, "2027-10-31T01:30:00", 5) == [
        "31 02:00:00 +0200",
        "31 02:30:00 +0200",
        "31 02:00:00 +0100",
        "31 02:30:00 +0100",
        "31 03:00:00 +0100",
    ]


def test_a_gap_of_a_whole_day_is_passed() -> None:
    """Samoa had no 30 December 2011."""
    assert ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00:00", 2) == [
        "31 00:00:00 +1400",
        "31 12:00:00 +1400",
    ]


def test_seconds_come_first_and_days_follow_cron() -> None:
    assert ticks("*/20 59 23 28 2 *", "UTC", "2027-01-01T00:00:00", 3) == [
        "28 23:59:00 +0000",
        "28 23:59:20 +0000",
        "28 23:59:40 +0000",
    ]
    assert ticks("0 8 * * MON#1", "UTC", "2027-01-01T00:00:00", 2) == [
        "04 08:00:00 +0000",
        "01 08:00:00 +0000",
    ]


EXPRESSIONS = ("* * * * * *", "30 2 * * *", "0 30 2 * * *", "15 */3 * * *", "*/7 1-3 * * *", "0 0 1 * *")
ZONES = ("UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Havana")


@settings(deadline=None)
@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.integers(0, 366 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes)),
    st.floats(0, 1),
)
def test_the_ticks_do_not_depend_on_where_one_begins_to_look(
    expression: str, zone: str, offset: timedelta, part: float
) -> None:
    cron = Cron(expression, zone)
    start = int((datetime(2027, 1, 1, tzinfo=UTC) + offset).timestamp() * 1000)
    tick = cron.after(start)
    assert tick > start
    between = start + int((tick - start - 1) * part)
    assert cron.after(between) == tick


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("@daily", "five fields"),
        (8, "five fields"),
        ("61 * * * *", "bad minute"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("0 0 * * MON#9", "bad day-of-week"),
        ("0 0 31 4,6 *", "day-of-month"),
        ("* * */20 * 1L", "never ticks"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused(expression: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Cron(expression)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "Europe", "../etc/passwd", "/etc/localtime", None, 5])
def test_a_time_zone_that_there_is_not_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown time zone"):
        Cron("* * * * *", zone)
