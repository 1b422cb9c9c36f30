"""Metrics as Prometheus reads them over HTTP: of the state, and of a worker's own counters."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from polos_redis import (
    ConfigurationError,
    PolosClient,
    RedisUnavailableError,
    Worker,
    WorkflowContext,
    events,
    workflow,
)
from polos_redis.definitions.queue import Queue
from polos_redis.metrics.namespace_stats import MAX_NAMES, LeaseReading, LeaseWatch
from polos_redis.metrics.prometheus import CONTENT_TYPE, STATE, WORKER, Metric, exposition
from polos_redis.metrics.worker_stats import Durations
from polos_redis.workflow import Workflow
from tests import ROOT
from tests.harness.command import POLOS, Command, wait_until
from tests.harness.fleet import Fleet
from tests.harness.fleet_workflows import gated
from tests.harness.running import Running, running, until, working
from tests.harness.servers import ChaosServer
from tests.harness.serving import calling

DOCS = ROOT / "docs" / "operations" / "metrics.md"


class Scrape:
    """A scraped page: `scrape["name", "label"]`, by label values in the metric's order."""

    def __init__(self, text: str) -> None:
        self.names: dict[str, tuple[str, ...]] = {}
        self.samples: dict[tuple[str, ...], float] = {}
        labels = {metric.name: metric.labels for metric in (*STATE, *WORKER)}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name
                order = labels.get(name) or labels.get(re.sub("_(bucket|count|sum)$", "", name), ())
                values = [sample.labels[label] for label in (*order, "le") if label in sample.labels]
                key = (name, *values)
                assert key not in self.samples, f"{key} appears twice"
                self.samples[key] = sample.value

    def __getitem__(self, key: str | tuple[str, ...]) -> float:
        return self.samples[(key,) if isinstance(key, str) else key]

    def get(self, *key: str) -> float:
        """0 for a missing sample."""
        return self.samples.get(key, 0)


async def look(client: PolosClient) -> Scrape:
    return Scrape((await exposition(client)).decode())


async def scrape(url: str | None) -> Scrape:
    assert url is not None
    async with httpx2.AsyncClient(timeout=60) as http:
        reply = await http.get(url)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return Scrape(reply.text)


@pytest.fixture
async def polos(redis_url: str, namespace: str) -> AsyncIterator[Running]:
    async with running(redis_url, namespace, *FLOWS, metrics_port=0, lease_seconds=30.0) as polos:
        yield polos


# --- workflows --------------------------------------------------------------------------


@workflow(id="metrics-steps")
async def steps(ctx: WorkflowContext, input: Any) -> int:
    """Three attempts at two steps."""
    tries = Counter[str]()

    async def fails_at_first() -> int:
        tries["again"] += 1
        if tries["again"] == 1:
            raise ValueError("once")
        return 1

    await ctx.step.run("auto_retry", fails_at_first, base_delay=0.001)
    return await ctx.step.run("plain", lambda: 2)


@workflow(id="metrics-fails")
async def fails(ctx: WorkflowContext, input: Any) -> None:
    def fail() -> None:
        raise ValueError("always")

    await ctx.step.run("fail", fail, max_retries=0)


@workflow(id="metrics-child")
async def child(ctx: WorkflowContext, input: Any) -> int:
    return 1


@workflow(id="metrics-waits")
async def waits(ctx: WorkflowContext, input: str) -> int:
    """One wait of each kind."""
    await ctx.step.suspend("ok")
    await ctx.step.wait_for("a moment", 0.001)
    await ctx.step.wait_for_event("news", input)
    return await ctx.step.invoke_and_wait("child", child, None)


@workflow(id="metrics-queue", queue=Queue("metrics-narrow", 1))
async def narrow(ctx: WorkflowContext, input: Any) -> None:
    await ctx.step.run("gate", GATES[input].wait)


FLOWS: list[Workflow[Any, Any]] = [steps, fails, child, waits, narrow]
GATES: dict[str, asyncio.Event] = {}


# --- the tables -------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [*STATE, *WORKER], ids=lambda metric: metric.name)
def test_the_page_documents_every_metric(metric: Metric) -> None:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |\n" in DOCS.read_text()


def test_the_page_documents_no_other_metric() -> None:
    found = re.findall(r"polos_\w+", DOCS.read_text())
    assert set(found) - {"polos_redis"} == {metric.name for metric in (*STATE, *WORKER)}
    assert f"{MAX_NAMES:,}" in DOCS.read_text()


# --- the state --------------------------------------------------------------------------


async def test_an_empty_namespace_has_no_executions_and_no_workers(client: PolosClient) -> None:
    seen = await look(client)
    assert seen["polos_workers"] == seen["polos_suspensions_open"] == 0
    assert seen["polos_partitions_unattended"] == client.partitions
    assert seen["polos_queue_waiting", "default"] == 0
    assert not [key for key in seen.samples if key[0] == "polos_executions"]


@pytest.mark.also_on_cluster
async def test_executions_are_counted_by_workflow_and_status(polos: Running) -> None:
    one, other = await steps.invoke(polos.client), await fails.invoke(polos.client)
    parked = await waits.invoke(polos.client, "nothing")
    await polos.result(one)
    await polos.reached(other, "failed")
    await polos.parked(parked)
    unknown = await polos.client.invoke("metrics-unknown")
    seen = await look(polos.client)
    assert seen["polos_executions", "metrics-steps", "completed"] == 1
    assert seen["polos_executions", "metrics-steps", "queued"] == 0
    assert seen["polos_executions", "metrics-fails", "failed"] == 1
    assert seen["polos_executions", "metrics-waits", "waiting"] == 1
    assert seen["polos_executions", "metrics-unknown", "queued"] == 1
    assert seen["polos_workers"] == 1
    assert seen["polos_partitions_unattended"] == 0
    assert seen["polos_suspensions_open"] == 1

    async def older() -> bool:
        return (await look(polos.client))["polos_suspension_oldest_seconds"] > 0

    await until(older)
    await polos.client.cancel(unknown.id)
    await polos.client.cancel(parked.id)
    seen = await look(polos.client)
    assert seen["polos_executions", "metrics-unknown", "cancelled"] == 1
    assert seen["polos_suspensions_open"] == seen["polos_suspension_oldest_seconds"] == 0


async def test_a_queue_reports_waiting_and_running_executions(polos: Running) -> None:
    GATES["queue"] = asyncio.Event()
    handles = [await narrow.invoke(polos.client, "queue") for _ in range(3)]

    async def settled() -> Scrape | None:
        seen = await look(polos.client)
        taken = seen["polos_queue_slots", "metrics-narrow"], seen["polos_queue_waiters", "metrics-narrow"]
        return seen if taken == (1, 2) and seen["polos_queue_delivered", "metrics-narrow"] else None

    seen: Scrape = await until(settled)
    assert seen["polos_queue_limit", "metrics-narrow"] == 1
    assert seen["polos_queue_waiting", "metrics-narrow"] == 0
    assert seen["polos_queue_delivered", "metrics-narrow"] == 1
    assert ("polos_queue_limit", "default") not in seen.samples
    GATES["queue"].set()
    for handle in handles:
        await polos.result(handle)
    seen = await look(polos.client)
    assert (
        seen["polos_queue_delivered", "metrics-narrow"] == seen["polos_queue_waiters", "metrics-narrow"] == 0
    )


async def test_an_entry_without_a_worker_counts_as_waiting(client: PolosClient) -> None:
    handles = [await client.invoke("metrics-nobody") for _ in range(3)]
    assert (await look(client))["polos_queue_waiting", "default"] == 3
    later = await client.invoke("metrics-nobody", start_delay=0.001)

    async def due() -> bool:
        seen = await look(client)
        return seen["polos_timers"] == seen["polos_timers_due"] == 1

    await until(due)
    for handle in (*handles, later):
        await client.cancel(handle.id)
    assert (await look(client))["polos_queue_waiting", "default"] == 0


async def test_a_due_errand_is_counted(client: PolosClient) -> None:
    store = await client.store()
    await store.wire.call("ZADD", store.prefixes[0] + b"errands", 1, "emetrics", 1 << 45, "efar")
    seen = await look(client)
    assert (seen["polos_errands"], seen["polos_errands_due"]) == (2, 1)
    await store.wire.call("DEL", store.prefixes[0] + b"errands")


@pytest.mark.parametrize("name", ['a"b\\c\nd', "ä€😀", "{x=1}", "\udc80", " "])
async def test_a_workflow_may_have_any_name(client: PolosClient, name: str) -> None:
    handle = await client.invoke(name, queue="metrics-q")
    shown = name.encode("utf-8", "backslashreplace").decode()
    assert (await look(client))["polos_executions", shown, "queued"] == 1
    await client.cancel(handle.id)


async def test_the_number_of_workflow_names_is_limited(one_partition: str, namespace: str) -> None:
    names = [f"many-{number:05}" for number in range(MAX_NAMES + 5)]
    async with PolosClient(one_partition, namespace) as client:
        handles = await asyncio.gather(*(client.invoke(name) for name in names))
        seen = await look(client)
        assert (seen["polos_names_left_out", "workflows"], seen["polos_executions", "", "queued"]) == (0, 5)
        found = {key[1] for key in seen.samples if key[0] == "polos_executions"} - {""}
        assert found == set(names[:MAX_NAMES])
        assert all(seen["polos_executions", name, "queued"] == 1 for name in found)
        await asyncio.gather(*(client.cancel(handle.id) for handle in handles))


async def test_the_server_exposes_the_metrics_of_the_state(client: PolosClient) -> None:
    handle = await client.invoke("metrics-served")
    async with calling(client) as api:
        reply = await api.get("/metrics")
    assert reply.headers["content-type"] == CONTENT_TYPE
    assert Scrape(reply.text)["polos_executions", "metrics-served", "queued"] == 1
    await client.cancel(handle.id)


async def test_an_outage_of_redis_is_reported(
    chaos_server: ChaosServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polos_redis.metrics.prometheus.TIMEOUT_SECONDS", 0.2)
    async with PolosClient(chaos_server.url, namespace) as client:
        await exposition(client)
        chaos_server.pause()
        with pytest.raises(RedisUnavailableError, match=r"metrics could not be read within 0\.2 s"):
            await exposition(client)
        chaos_server.resume()
        monkeypatch.undo()
        assert (await look(client))["polos_workers"] == 0


# --- live workers -----------------------------------------------------------------------


async def test_a_killed_worker_is_no_longer_counted(fleet: Fleet, client: PolosClient) -> None:
    (one, other) = await asyncio.gather(fleet.start(), fleet.start())
    assert (await look(client))["polos_workers"] == 2
    one.kill()
    other.kill()  # nobody is left to remove their rows

    async def gone() -> bool:
        seen = await look(client)
        return seen["polos_workers"] == 0 and seen["polos_partitions_unattended"] == client.partitions

    await until(gone, "the workers to be presumed dead")


def _lease(seconds: float) -> LeaseReading:
    return LeaseReading(7, seconds, frozenset())


def test_a_worker_is_alive_as_long_as_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("polos_redis.metrics.namespace_stats.time.monotonic", lambda: now)
    lives, leases = LeaseWatch(), {"long": _lease(15.0), "short": _lease(2.0)}
    assert len(lives.live(leases)) == 2
    now = 102.0
    assert len(lives.live(leases)) == 1
    leases["short"].renewals += 1
    assert len(lives.live(leases)) == 2
    now = 116.0
    assert len(lives.live(leases)) == 0
    assert len(lives.live({})) == 0
    assert len(lives.live(leases)) == 2, "one seen for the first time is alive"


# --- a worker's counters ----------------------------------------------------------------


async def test_steps_are_counted_by_outcome(polos: Running) -> None:
    await polos.result(await steps.invoke(polos.client))
    await polos.reached(await fails.invoke(polos.client), "failed")
    await until(lambda: not polos.worker.active)
    seen = await scrape(polos.worker.metrics_url)
    assert seen["polos_step_seconds_count", "metrics-steps", "ok"] == 2
    assert seen["polos_step_seconds_count", "metrics-steps", "retry"] == 1
    assert seen["polos_step_seconds_count", "metrics-fails", "failed"] == 1
    assert seen["polos_step_seconds_bucket", "metrics-steps", "ok", "+Inf"] == 2
    assert seen["polos_step_seconds_sum", "metrics-steps", "ok"] > 0
    assert seen["polos_activations_total", "metrics-steps"] == 1
    assert seen["polos_executions_ended_total", "metrics-steps", "completed"] == 1
    assert seen["polos_executions_ended_total", "metrics-fails", "failed"] == 1
    assert seen.get("polos_parks_total", "metrics-steps") == 0
    assert seen["polos_worker_concurrency"] == 100
    assert seen["polos_worker_active"] == 0
    assert 0 <= seen["polos_lease_age_seconds"] < 30
    assert seen["polos_lease_renewals_missed_total"] == seen["polos_reconnects_total"] == 0
    if sys.platform == "linux":
        assert seen["process_resident_memory_bytes"] > 0


async def test_a_wait_is_counted_once_however_often_it_is_replayed(polos: Running) -> None:
    handle = await waits.invoke(polos.client, "metrics-news")
    await polos.opened(handle, "ok")
    await polos.answer(handle, "ok")

    async def waits_for_news() -> bool:
        store = await polos.client.store()
        return bool(await store.topics.subscribers("metrics-news"))

    await until(waits_for_news)
    await events.publish(polos.client, "metrics-news", events.EventData("told", 1))
    assert await polos.result(handle) == 1
    await until(lambda: not polos.worker.active)
    seen = await scrape(polos.worker.metrics_url)
    kinds = ("suspension", "event", "time", "child")
    assert [seen.get("polos_wait_seconds_count", kind) for kind in kinds] == [1, 1, 1, 1]
    assert 0 < seen["polos_wait_seconds_sum", "suspension"] < 20
    assert seen["polos_activations_total", "metrics-waits"] >= 2
    assert seen["polos_parks_total", "metrics-waits"] >= 1


async def test_running_activations_are_counted(polos: Running) -> None:
    GATES["active"] = asyncio.Event()
    handle = await narrow.invoke(polos.client, "active")
    await until(lambda: polos.worker.active)
    assert (await scrape(polos.worker.metrics_url))["polos_worker_active"] == 1
    GATES["active"].set()
    await polos.result(handle)


async def test_the_worker_that_recovers_entries_counts_them(fleet: Fleet, client: PolosClient) -> None:
    victim = await fleet.start()
    handle = await gated.invoke(client, {"gate": "go"})
    await fleet.seen(handle.id, "two")
    async with working(client, gated, lease_seconds=1.0, metrics_port=0) as heir:
        victim.kill()

        async def recovered() -> bool:
            seen = await scrape(heir.metrics_url)
            return seen.get("polos_entries_recovered_total", "requeued") == 1

        await until(recovered, "the entry to be recovered")
        assert (await scrape(heir.metrics_url))["polos_entries_recovered_total", "failed"] == 0
        fleet.open("go")
        await client.cancel(handle.id)


async def test_an_outage_shows_in_renewals_and_reconnects(chaos_server: ChaosServer, namespace: str) -> None:
    async with running(chaos_server.url, namespace, steps, lease_seconds=0.3, metrics_port=0) as polos:
        chaos_server.pause()

        async def aged() -> bool:
            return (await scrape(polos.worker.metrics_url))["polos_lease_age_seconds"] > 1

        await until(aged, "the lease to age")
        chaos_server.resume()
        chaos_server.restart()

        async def recorded() -> bool:
            seen = await scrape(polos.worker.metrics_url)
            return bool(seen["polos_lease_renewals_missed_total"] and seen["polos_reconnects_total"])

        await until(recorded)
        assert await polos.result(await steps.invoke(polos.client)) == 2


def test_a_duration_goes_into_the_first_bucket_that_holds_it() -> None:
    durations = Durations((1.0, 2.0))
    for seconds in (0.0, 1.0, 1.5, 2.0, 2.1):
        durations.add(seconds)
    assert durations.counts == [2, 2, 1]
    assert durations.seconds == pytest.approx(6.6)


# --- the endpoint -----------------------------------------------------------------------


BLOCKING = """
import pathlib, time
from polos_redis import workflow

async def block():
    pathlib.Path("blocked").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)

@workflow(id="metrics-blocks")
async def blocks(ctx):
    await ctx.step.run("block", block)
"""


@pytest.fixture
def command(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    (tmp_path / "flow.py").write_text(BLOCKING)
    return Command(redis_url, namespace, tmp_path)


def test_the_command_serves_metrics_even_while_its_loop_is_blocked(command: Command) -> None:
    with command.worker("flow.py", "--metrics-port", "0") as worker:
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/metrics", worker.err)
        with command.start(POLOS, "invoke", "metrics-blocks", "--wait") as invoked:
            wait_until((command.folder / "blocked").exists, "the step never started")
            seen = Scrape(httpx2.get(url).text)
            assert seen["polos_activations_total", "metrics-blocks"] == seen["polos_worker_active"] == 1
            (command.folder / "go").touch()
            assert invoked.wait() == 0


def test_the_command_refuses_an_invalid_port(command: Command) -> None:
    assert command.run("worker", "flow.py", "--metrics-port", "99999").code == 2


async def test_without_a_port_nothing_listens_and_nothing_is_imported(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, steps) as polos:
        assert polos.worker.metrics_url is None
    source = (
        "import sys, polos_redis.worker, polos_redis.metrics\nassert 'prometheus_client' not in sys.modules"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", source], check=True)


async def test_the_endpoint_closes_with_the_worker(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, steps, metrics_port=0) as polos:
        url = polos.worker.metrics_url
        await scrape(url)
    with pytest.raises(httpx2.ConnectError):
        await scrape(url)


async def test_a_port_in_use_is_one_sentence(redis_url: str, namespace: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other_server:
        port = other_server.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"can't be served at 127.0.0.1:{port}: .*in use"):
            async with running(redis_url, namespace, steps, metrics_port=port):
                raise AssertionError("it has started")


async def test_a_missing_library_is_one_sentence(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'polos-redis\[metrics\]'"):
        async with running(redis_url, namespace, steps, metrics_port=0):
            raise AssertionError("it has started")
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(ConfigurationError, match="prometheus_client"):
            await exposition(client)


@pytest.mark.parametrize("port", [-1, 65536, "http", 1.5, True])
def test_a_bad_port_is_reported(port: Any) -> None:
    with pytest.raises(ConfigurationError, match="metrics_port= must be a port"):
        Worker(PolosClient(), [steps], metrics_port=port)
