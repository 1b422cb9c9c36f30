"""`polos top`: on a real worker, once as text and JSON, and live on a real terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from polos_redis import PolosClient
from tests.harness.command import POLOS, Command
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import approval, gated
from tests.harness.running import until


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


async def test_one_overview_has_rates_executions_waits_queues_and_workers(
    polos: Command, client: PolosClient, fleet: Fleet
) -> None:
    worker = await fleet.start(lease_seconds=1.0)
    fleet.open("open")
    await (await client.invoke(gated, {"gate": "open"})).result()
    held = await client.invoke(gated, {"gate": "go"})
    await fleet.seen(held.id, "two")
    asked = await client.invoke(approval)

    async def waits() -> bool:
        return await asked.status() == "waiting"

    await until(waits)
    found = (await polos("top", "--json")).json
    assert found["rates"] is not None and set(found["rates"]) == {"activations", "ended", "failed", "steps"}
    assert found["executions"]["waiting"] == found["suspensions"] == 1
    assert found["executions"]["completed"] == 1
    assert found["oldest_suspension_seconds"] > 0
    assert [(one["name"], one["delivered"]) for one in found["queues"]] == [("default", 1), ("limited", 0)]
    assert [(one["pid"], one["status"], one["executions"]) for one in found["workers"]] == [
        (worker.pid, "alive", 1)
    ]

    async def work() -> None:
        while True:
            await (await client.invoke(gated, {"gate": "open"})).result()

    async def busy() -> bool:
        rates = (await polos("top", "--json")).json["rates"]
        return bool(rates and rates["steps"] > rates["ended"] > 0 == rates["failed"])

    working = asyncio.create_task(work())
    await until(busy, "renewals between which executions ended")
    working.cancel()
    await asyncio.wait([working])
    shown = await polos("top")
    assert shown.code == 0
    first, second, third, *_ = shown.out.splitlines()
    assert first.startswith("per second  ") and first.endswith("activations")
    assert second.startswith("executions  1 running, ") and "1 waiting" in second
    assert third.startswith("waits       1 for people, the oldest for ")
    fleet.open("go")
    await held.result()
    await client.cancel(asked.id)


async def test_on_a_terminal_it_is_live_until_ctrl_c(polos: Command, client: PolosClient) -> None:
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**polos.environment, "TERM": "xterm-256color"}
    command = [POLOS, "top", "--interval", "0.2"]
    process = subprocess.Popen(  # noqa: ASYNC220
        command, stdin=inner, stdout=inner, stderr=inner, env=environment
    )
    os.close(inner)
    os.set_blocking(outer, False)
    seen = ""

    def shows(text: str) -> bool:
        nonlocal seen
        with contextlib.suppress(OSError):  # nothing to read
            seen += os.read(outer, 1 << 16).decode(errors="replace")
        return text in seen

    try:
        await until(lambda: shows("0 queued"))
        handle = await client.invoke("nobody-serves-this", {"x": 1})
        await until(lambda: shows("1 queued"))
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 30) == 0
        assert not shows("Traceback")
        await client.cancel(handle.id)
    finally:
        process.kill()
        process.wait()
        os.close(outer)
