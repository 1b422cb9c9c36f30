"""`polos schedules`: listing, pausing, resuming and deleting schedules."""

from __future__ import annotations

from pathlib import Path

import pytest

from polos_redis import PolosClient, schedules
from tests.harness.command import Command


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


async def test_schedules_are_listed(polos: Command, client: PolosClient) -> None:
    nothing = await polos("schedules", "list")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no schedules\n")
    one = await schedules.create(client, "report", "0 8 * * *", "Europe/Berlin", key="alice")
    two = await schedules.create(client, "tidy", "30 3 1 * *")
    await schedules.pause(client, two)

    listed = await polos("schedules", "list")
    titles, first, second = listed.out.splitlines()
    assert titles.split() == ["ID", "NEXT", "LAST", "CRON", "TIMEZONE", "KEY", "WORKFLOW"]
    assert first.startswith(one) and "0 8 * * *" in first and "Europe/Berlin" in first
    assert first.split()[-2:] == ["alice", "report"]
    assert second.split()[:3] == [two, "paused", "-"]

    rows = (await polos("schedules", "list", "--json")).json["schedules"]
    assert [row["id"] for row in rows] == [one, two]
    schedule = await schedules.get(client, one)
    assert schedule.next_at is not None
    assert rows[0] == {
        "id": one,
        "workflow_id": "report",
        "cron": "0 8 * * *",
        "timezone": "Europe/Berlin",
        "key": "alice",
        "declared": False,
        "paused": False,
        "created_at": schedule.created_at.isoformat(timespec="milliseconds"),
        "last_at": None,
        "next_at": schedule.next_at.isoformat(timespec="milliseconds"),
    }
    only = await polos("schedules", "list", "--workflow", "tidy", "--json")
    assert [row["id"] for row in only.json["schedules"]] == [two]


async def test_a_schedule_is_paused_resumed_and_deleted(polos: Command, client: PolosClient) -> None:
    schedule_id = await schedules.create(client, "report", "0 8 * * *")
    assert (await polos("schedules", "pause", schedule_id, "--json")).json["paused"] is True
    assert (await polos("schedules", "pause", schedule_id)).out == f"paused {schedule_id} of report\n"
    assert (await schedules.get(client, schedule_id)).paused
    resumed = await polos("schedules", "resume", schedule_id)
    assert resumed.out.startswith(f"resumed {schedule_id} of report, next at ")
    assert resumed.out.endswith(" 08:00:00 UTC\n")
    assert (await polos("schedules", "delete", schedule_id)).out == f"deleted {schedule_id}\n"
    assert await schedules.list(client) == []


@pytest.mark.parametrize("command", ["pause", "resume", "delete"])
def test_an_unknown_schedule_is_one_sentence(polos: Command, command: str) -> None:
    done = polos.here("schedules", command, "schedule-x")
    assert done.code == 1
    assert "no schedule 'schedule-x'" in done.sentence


@pytest.mark.parametrize("command", ["list", "pause", "resume", "delete"])
def test_each_command_has_help_with_an_example(polos: Command, command: str) -> None:
    shown = polos.here("schedules", command, "--help")
    assert shown.code == 0
    assert f"    polos schedules {command}" in shown.out
    assert "--json" in shown.out
