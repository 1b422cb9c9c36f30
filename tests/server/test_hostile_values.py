"""Hostile values in a real server and a real worker: they are refused while others are served as before.

The server process has not imported the types and checks answers by their JSON schema; the worker has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from polos_redis import EventData, PolosClient, events
from tests.cli.test_serve import address
from tests.harness.command import POLOS, Command, Running
from tests.harness.running import until

FLOWS = str(Path(__file__).with_name("hostile_flows.py"))
MAX_WAIT = 0.5  # seconds that another caller may wait
MAX_GROWTH = 100_000_000  # bytes
ATTEMPTS = 3  # the best of them counts: the machine may be busy


def _nested(depth: int, leaf: Any, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(depth):
        leaf = wrap(leaf)
    return leaf


def _or(inner: Any) -> Any:
    return {"kind": "or", "of": [inner]}


def _side(inner: Any) -> Any:
    return {"inner": {"k": inner}}


def _branch(inner: Any) -> Any:
    return {"value": 1, "children": [inner]}


LEAF = {"kind": "leaf", "value": 5}

# name -> the JSON text of a value of `Everything`
ATTACKS: dict[str, str] = {}


def _attack(name: str, field: str, value: Any) -> None:
    ATTACKS[name] = json.dumps({field: value}, separators=(",", ":"))


_attack("a union, 18 deep, invalid", "rule", _nested(18, LEAF, _or))
_attack("a union, 18 deep, valid", "rule", _nested(18, {"kind": "leaf", "value": "x"}, _or))
_attack("a union, 45 deep", "rule", _nested(45, LEAF, _or))
_attack("a union through dicts", "either", _nested(40, 5, _side))
_attack("a union through dicts, valid", "either", _nested(40, None, _side))
_attack("wide unions at the bottom", "rule", _nested(12, LEAF, lambda one: {"kind": "or", "of": [one, one]}))
_attack("many unions", "rule", {"kind": "or", "of": [_nested(6, LEAF, _or)] * 2_000})
_attack("a tree of 48 levels", "tree", _nested(48, {}, _branch))
_attack(
    "errors at the bottom of a deep tree",
    "tree",
    _nested(40, {"value": 1, "children": [{}] * 90_000}, _branch),
)
_attack("wrong items", "numbers", ["x"] * 90_000)
_attack("wrong lists", "numbers", [[]] * 90_000)
_attack("wrong items in several ways", "lists", [[[]] * 90_000])
_attack("objects without their fields", "parts", [{}] * 90_000)
_attack("objects without their many fields", "wide", [{}] * 90_000)
_attack("wrong values of many keys", "prices", {str(number): "x" for number in range(70_000)})
_attack("a long set", "tags", [str(number) for number in range(90_000)])
_attack("a set of wrong items", "tags", [[number] for number in range(40_000)])
_attack("a long text for a pattern", "name", "a" * 900_000 + "!")
_attack("a long number", "numbers", ["1" * 900_000])
_attack("JSON in a string", "text", "[" + ",".join(['"x"'] * 90_000) + "]")
_attack("deep JSON in a string", "text", "[" * 100_000)
_attack("large JSON in a string", "text", "[" + "[]," * 300_000 + "[]]")
_attack("a long key", "prices", {"k" * 900_000: "x"})
_attack("an unknown tag", "rule", {"kind": "z" * 900_000})
_attack("many members", "untyped", {str(number): number for number in range(90_000)})
ATTACKS["too many parts"] = '{"untyped":[' + "[]," * 300_000 + "[]]}"
ATTACKS["too many objects"] = '{"untyped":[' + '{"":0},' * 130_000 + "0]}"
ATTACKS["too many levels"] = '{"untyped":' + "[" * 900_000
ATTACKS["levels that can be read"] = '{"untyped":' + "[" * 300 + "]" * 300 + "}"
ATTACKS["many unknown fields"] = "{" + ",".join(f'"x{number}":0' for number in range(60_000)) + "}"


def _sample_contention(stopped: threading.Event, samples: list[float]) -> None:
    """Measure again and again how long 10 ms of computing take, until stopped."""
    while not stopped.wait(0.05):
        start, computed = time.perf_counter(), time.thread_time()
        while time.thread_time() - computed < 0.01:
            pass
        samples.append((time.perf_counter() - start) / 0.01)


@dataclass
class Site:
    """A server and a worker process, and what another caller sees of them."""

    api: httpx.AsyncClient
    client: PolosClient
    processes: dict[str, Running]
    waits: dict[str, float] = field(default_factory=dict)
    contention: float = 1.0  # by how much other programs slowed this machine down

    async def post(self, path: str, text: str) -> httpx.Response:
        return await self.api.post(path, content=text, headers={"Content-Type": "application/json"})

    async def _probe(self, name: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        while True:
            start = time.perf_counter()
            await call()
            self.waits[name] = max(self.waits[name], time.perf_counter() - start)
            await asyncio.sleep(0.005)

    async def _quick(self) -> None:
        handle = await self.client.invoke("hostile-quick")
        assert await handle.result(timeout=60) == "done"

    async def _healthy(self) -> None:
        assert (await self.api.get("/healthz")).status_code == 200

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Measures how long another caller waits at most, while the block runs and for one call after."""
        self.waits = {"workflow": 0.0, "healthz": 0.0}
        stopped, samples = threading.Event(), [1.0]
        sampler = threading.Thread(target=_sample_contention, args=(stopped, samples))
        sampler.start()
        probes = [
            asyncio.create_task(self._probe("workflow", self._quick)),
            asyncio.create_task(self._probe("healthz", self._healthy)),
        ]
        try:
            yield
            await self._quick()
            await self._healthy()
        finally:
            for probe in probes:
                probe.cancel()
            await asyncio.gather(*probes, return_exceptions=True)
            stopped.set()
            await asyncio.to_thread(sampler.join)
            self.contention = sum(samples) / len(samples)

    def memory(self, name: str, kind: str) -> int:
        """A process's resident memory in bytes: now ("VmRSS"), or at most since `forget_peaks` ("VmHWM")."""
        status = Path(f"/proc/{self.processes[name].process.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def forget_peaks(self) -> None:
        for running in self.processes.values():
            Path(f"/proc/{running.process.pid}/clear_refs").write_text("5")

    async def asked(self, key: str) -> str:
        """An execution that waits for an answer."""
        handle = await self.client.invoke("hostile-answer", key)

        async def is_open() -> bool:
            return [
                one["step_key"] for one in await self.client.list_suspensions(workflow="hostile-answer")
            ].count(key) > 0

        await until(is_open, "a suspension")
        return handle.id


@pytest.fixture
async def site(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Site]:
    polos = Command(redis_url, namespace, tmp_path)
    serve = ("serve", "--insecure-dev", "--port", "0", "--rate-limit", "100000/minute")
    with polos.worker(FLOWS) as worker, polos.start(POLOS, *serve) as server:
        async with (
            httpx.AsyncClient(base_url=address(server), timeout=120) as api,
            PolosClient(redis_url, namespace) as client,
        ):
            yield Site(api, client, {"worker": worker, "server": server})


async def attack(site: Site, name: str, text: str) -> set[int]:
    """Send a value every way in; returns the statuses."""
    key = f"{name} {time.monotonic_ns()}"
    execution_id = await site.asked(key)
    bodies = {
        "/api/v1/executions": [
            f'{{"workflow_id":"hostile-input","input":{text}}}',
            f'{{"workflow_id":"hostile-state","initial_state":{text}}}',
        ],
        f"/api/v1/executions/{execution_id}/resume": [f'{{"step_key":"{key}","data":{text}}}'],
    }
    statuses = set()
    later = await site.client.invoke("hostile-early")
    early = await site.post(
        f"/api/v1/executions/{later.id}/resume", f'{{"step_key":"ask","early":true,"data":{text}}}'
    )
    statuses.add(early.status_code)
    async with site.watched():
        started = []
        for path, texts in bodies.items():
            for body in texts:
                answer = await site.post(path, body)
                statuses.add(answer.status_code)
                assert len(answer.content) < 50_000, name
                if answer.status_code == 201:
                    started.append(answer.json()["id"])
        await events.publish(
            site.client, f"go {later.id}", EventData(event_type="go", data={})
        )  # the worker checks the early answer
        for one in started:
            handle = site.client.get_handle(one)

            async def ended(handle: Any = handle) -> bool:
                return await handle.status() in ("completed", "failed")

            await until(ended, f"an execution started with {name}")
    for one in (execution_id, later.id):
        with contextlib.suppress(Exception):
            await site.client.cancel(one)
    return statuses


@pytest.mark.failure(47)
@pytest.mark.threat(12)
async def test_hostile_values_hold_up_nobody(site: Site) -> None:
    async with site.watched():
        await site.asked("warm")
        for path in ("/api/v1/executions",):
            await site.post(
                path, '{"workflow_id":"hostile-input","input":{"numbers":' + "[1" + ",1" * 90_000 + "]}}"
            )
    measured = []
    for name, text in ATTACKS.items():
        waits: list[float] = []
        growths: list[int] = []
        while len(waits) < ATTEMPTS and not (waits and waits[-1] < MAX_WAIT and growths[-1] < MAX_GROWTH):
            before = {one: site.memory(one, "VmRSS") for one in site.processes}
            site.forget_peaks()
            statuses = await attack(site, name, text)
            waits.append(max(site.waits.values()) / site.contention)
            growths.append(max(site.memory(one, "VmHWM") - before[one] for one in site.processes))
        measured.append((name, len(text), sorted(statuses), min(waits), min(growths)))
        assert statuses <= {200, 201, 202, 413, 422}, (name, statuses)
        assert statuses & {200, 413, 422}, (name, statuses)
    for name, size, answers, wait, growth in measured:
        print(f"{name}: {size} bytes, {answers}, others waited {wait:.3f} s, {growth / 1e6:.0f} MB")
    assert max(wait for *_, wait, _ in measured) < MAX_WAIT
    assert max(growth for *_, growth in measured) < MAX_GROWTH
