"""A minute of chaos: all faults at least once. `python -m tests.chaos` goes on for as long as you like."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests import ROOT

SECONDS = 60
STARTED = {
    *(
        "announcer",
        "approval",
        "asked",
        "delayed",
        "early",
        "failing",
        "feed",
        "forgiving",
        "hurried",
        "keyed",
    ),
    *("listener", "long", "narrow", "notified", "office", "parent", "race", "responder", "steps", "stubborn"),
    *("tally", "timed"),
}


@pytest.mark.timeout(600)
@pytest.mark.failure(1, 2, 3, 13, 16, 33)
async def test_a_minute_of_every_fault_breaks_no_guarantee(binary: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), "--workers", "3", "--users", "12"),
        *("--fsync", "everysec", "--seed", "33", "--json", str(report)),
        cwd=ROOT,
        env={**os.environ, "POLOS_TEST_SERVER": str(binary)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    found = json.loads(report.read_text())
    assert found["violations"] == []
    assert found["outcomes"].keys() == {"completed", "failed", "cancelled"}
    assert found["started"].keys() == STARTED
    assert set(found["faults"]) == {
        *("worker killed", "worker frozen", "worker stopped", "all workers killed"),
        *("server killed", "server frozen", "log cut", "log cut in a transaction", "scripts flushed"),
        *("connections cut", "connections stalled", "connections half-open", "connections half-closed"),
        "clients killed",
    }


async def test_a_server_that_this_machine_lacks_is_named(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos", "--server", "redis7"),
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode() == "--server redis7: there is no redis-server on PATH\n"
