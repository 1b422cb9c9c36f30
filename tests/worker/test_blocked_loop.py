"""A blocked event loop is not a dead worker, until it has been blocked for too long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from polos_redis import PolosClient, apikeys
from polos_redis.diagnosis import diagnose
from polos_redis.results import LoopBlock
from polos_redis.worker.loop_guard import LoopGuard
from tests.harness.command import POLOS, Command, Running, wait_until
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import blocking
from tests.harness.running import until
from tests.harness.serving import serving
from tests.harness.visiting import visiting

pytestmark = [pytest.mark.failure(46), pytest.mark.promise("blocked loop")]

BLOCKS = """
import asyncio, os, pathlib, sys, threading, time
from polos_redis import workflow

def deadlock(seconds):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=seconds)

def fill(seconds):
    while True:  # until the pipe that nobody reads is full
        sys.stderr.write("." * 4096)

def gate():
    while not os.path.exists("open"):
        time.sleep(0.01)

@workflow(id="cli-blocks")
async def blocks(ctx, how: str):
    async def block():
        with open("effects", "a") as file:
            file.write(f"{os.getpid()}\\n")
        if not os.path.exists("blocked"):
            pathlib.Path("blocked").touch()
            fill(1) if how == "log" else gate() if how == "gate" else deadlock(float(how))
        return os.getpid()

    return await ctx.step.run("block", block)

@workflow(id="cli-waits")
async def waits(ctx):
    async def wait():
        while not os.path.exists("open"):
            await asyncio.sleep(0.01)

    await ctx.step.run("wait", wait)
"""
LEASE = ("--lease-seconds", "1.5")
ENDLESS = "1e6"


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    (tmp_path / "blocks.py").write_text(BLOCKS)
    return Command(redis_url, namespace, tmp_path)


@contextmanager
def blocked(polos: Command, how: str, *options: str) -> Iterator[tuple[Running, str]]:
    """A worker whose loop is blocked, and the execution that does it."""
    with polos.start(POLOS, "worker", "blocks.py", *LEASE, *options) as worker:
        worker.wait_for("worker ready")
        started = polos.run("invoke", "cli-blocks", "--input", json.dumps(how))
        assert started.code == 0, started.err
        wait_until((polos.folder / "blocked").exists, "the step to start")
        yield worker, started.out.split()[0]


def effects(polos: Command) -> list[int]:
    return [int(line) for line in (polos.folder / "effects").read_text().split()]


async def test_a_deadlocked_worker_exits_and_another_one_takes_over(
    polos: Command, redis_url: str, namespace: str
) -> None:
    with (
        blocked(polos, ENDLESS, "--max-blocked-seconds", "3") as (worker, execution_id),
        polos.worker("blocks.py", *LEASE) as heir,
    ):
        assert await worker.ended() == 70
        said = worker.err
        assert "ERROR the event loop is blocked: the lease is given up worker=" in said
        assert "seconds=3" in said
        assert "lock.acquire(timeout=seconds)" in said, "the stack of the code that blocks"
        for thread in ("MainThread", "polos-lease", "polos-watchdog"):
            assert f"thread {thread}:" in said
        assert "WARNING exiting: the event loop is blocked" in said.splitlines()[-1]
        async with PolosClient(redis_url, namespace) as client:
            handle = client.get_handle(execution_id)
            assert await handle.result(timeout=60) == heir.process.pid
        assert effects(polos) == [worker.process.pid, heir.process.pid]
        assert logged_at(said, "the lease is given up") < logged_at(heir.err, "recovered from a lost worker")


async def test_people_see_which_step_blocks_the_loop(polos: Command, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with polos.start(POLOS, "worker", "blocks.py", *LEASE) as worker:
            worker.wait_for("worker ready")
            other = await client.invoke("cli-waits")

            async def runs() -> bool:
                return bool((await client.get_execution(other.id)).running_steps)

            await until(runs, "the other execution's step")
            handle = await client.invoke("cli-blocks", "gate")

            async def told(execution_id: str) -> LoopBlock | None:
                return (await client.get_execution(execution_id)).blocked_loop

            block = await until(lambda: told(handle.id), "a renewal that says so")
            assert (block.by_itself, block.step_key) == (True, "block")
            assert block.at is not None and "blocks.py:" in block.at and block.at.endswith(" in gate")
            assert block.seconds > 0
            shown = (await polos("show", handle.id)).out
            assert "blocks      the event loop of its worker for " in shown
            assert ": step block, at " in shown
            assert f" by execution {handle.id}, step block, at " in (await polos("workers")).err
            (finding,) = [one for one in (await diagnose(client)).findings if one.check == "loops"]
            assert finding.level == "warning"
            assert f" by execution {handle.id}, step block, at " in finding.found
            held_up = await told(other.id)
            assert held_up is not None
            assert (held_up.by_itself, held_up.step_key, held_up.at) == (False, None, None)
            _, secret = await apikeys.create(client, "ann", ["read"])
            async with serving(client) as base, visiting(base) as visitor:
                await visitor.log_in(secret)
                page = (await visitor.get(f"/executions/{handle.id}")).text
                assert (
                    "The event loop is blocked" in page and "Step block has blocked its worker for " in page
                )
                assert "blocks.py:" in page
                page = (await visitor.get(f"/executions/{other.id}")).text
                assert "Other code has blocked its worker for " in page and "blocks.py" not in page
            said = "held up     the event loop of its worker is blocked for "
            assert said in (await polos("show", other.id)).out
            (polos.folder / "open").touch()
            assert await handle.result(timeout=60) == worker.process.pid
            await other.result(timeout=60)

            async def over() -> bool:
                (one,) = (await polos("workers", "--json")).json
                return one["blocked"] is None

            await until(over, "a renewal after the block")


def logged_at(log: str, what: str) -> str:
    """The time of the first record that says something."""
    return next(line for line in log.splitlines() if what in line).split()[0]


async def test_a_log_that_nobody_reads_does_not_keep_it_alive(polos: Command) -> None:
    environment = {**polos.environment, "POLOS_MAX_BLOCKED_SECONDS": "2"}
    with ExitStack() as stack:
        process = subprocess.Popen(  # noqa: ASYNC220 - starting it is all
            [POLOS, "worker", "blocks.py", *LEASE],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=polos.folder,
            env=environment,
        )
        assert process.stderr is not None
        stack.callback(process.stderr.close)
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert (await polos("invoke", "cli-blocks", "--input", '"log"')).code == 0
        assert await Running(process, polos.folder, polos.folder).ended() == 70


async def test_sigterm_waits_for_a_loop_that_turns_again(polos: Command) -> None:
    with blocked(polos, "4") as (worker, _):
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert "worker stopped" in worker.err


async def test_sigterm_ends_a_worker_whose_loop_is_blocked_for_longer_than_the_grace_period(
    polos: Command,
) -> None:
    with blocked(polos, ENDLESS, "--grace-seconds", "1") as (worker, _):
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 70
        assert "exiting: the event loop is blocked" in worker.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_a_blocked_worker_at_once(polos: Command, number: signal.Signals) -> None:
    with blocked(polos, ENDLESS) as (worker, _):  # its grace period is 25 s, its limit 300 s
        worker.signal(number)
        worker.wait_for("the event loop is blocked")
        worker.signal(number)
        assert await worker.ended() == 70


async def test_a_worker_in_a_users_process_gives_its_executions_up_and_lives(
    fleet: Fleet, client: PolosClient
) -> None:
    first = await fleet.start(max_blocked_seconds=2)
    handle = await blocking.invoke(client, 12.0)
    assert await fleet.seen(handle.id, "block") == [first.pid]
    heir = await fleet.start()
    assert await handle.result(timeout=60) == heir.pid
    assert "the event loop is blocked: the lease is given up" in first.log
    assert "the event loop turns again" not in first.log, "the heir did not wait for that"
    assert "time.sleep(input)" in first.log
    await first.said("the event loop turns again: the lease is renewed")
    await first.said("dropped")
    assert fleet.effects(handle.id) == [("block", first.pid), ("block", heir.pid), ("after", heir.pid)]
    heir.terminate()
    assert await heir.ended() == 0
    assert await (await blocking.invoke(client, 0.0)).result(timeout=60) == first.pid, "it works again"


@pytest.mark.failure(2)
async def test_a_frozen_process_is_not_taken_for_a_blocked_loop(fleet: Fleet, client: PolosClient) -> None:
    frozen = await fleet.start(max_blocked_seconds=1)
    frozen.pause()
    heir = await fleet.start(max_blocked_seconds=1)
    handle = await blocking.invoke(client, 0.0)
    assert await handle.result(timeout=60) == heir.pid

    async def presumed_dead() -> bool:
        store = await client.store()
        rows = [await store.wire.call("HLEN", prefix + b"workers") for prefix in store.prefixes]
        return set(rows) == {1}

    await until(presumed_dead, "the lease of the frozen worker to be removed")
    frozen.resume()
    await frozen.said("the lease had lapsed")
    assert "is blocked" not in frozen.log
    assert os.getpgid(frozen.pid) and frozen.running


def test_looks_without_a_beat_are_counted() -> None:
    guard = LoopGuard(2.0)
    assert guard.interval == 0.2
    for _ in range(9):
        guard.look()
    assert guard.blocked_seconds == pytest.approx(1.8) and not guard.is_over
    guard.beat()
    guard.look()
    assert guard.blocked_seconds == 0.0
    for _ in range(10):
        guard.look()
    assert guard.is_over
    guard.beat()
    guard.look()
    assert not guard.is_over


def test_a_block_may_last_no_longer_than_is_left_from_a_signal_on() -> None:
    guard = LoopGuard(300.0)
    guard.allow_only(0)
    guard.look()
    assert guard.interval == 1.0 and not guard.is_over, "one look may have come too early"
    guard.look()
    assert guard.is_over
    guard = LoopGuard(300.0)
    for _ in range(100):
        guard.look()
    guard.allow_only(25.0)
    for _ in range(24):
        guard.look()
    assert not guard.is_over
    guard.look()
    assert guard.is_over
    turning = LoopGuard(300.0)
    turning.allow_only(0)
    for _ in range(100):
        turning.beat()
        turning.look()
        assert not turning.is_over
