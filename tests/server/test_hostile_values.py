"""Hostile values in a real server and a real worker: they are refused while others are served as before.

The server process has not imported the types and checks answers by their JSON schema; the worker has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from polos_redis import PolosClient
from tests.cli.test_serve import address
from tests.harness.command import POLOS, Command, Running
from tests.harness.running import until

FLOWS = str(Path(__file__).with_name("hostile_flows.py"))
MAX_WAIT = 1.0  # seconds that a process may compute while another caller waits for it
MAX_GROWTH = 100_000_000  # bytes
MAX_PAGE = 2_000_000  # bytes of a page


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
SAME_HASH = [number * (2**61 - 1) for number in range(40_000)]  # the hash of each is 0
_attack("numbers with one hash", "ids", SAME_HASH)
_attack("keys with one hash", "counts", {str(number): 0 for number in SAME_HASH})
_attack("errors with long messages", "choices", ["z"] * 90_000)
_attack("a pattern", "regex", "(?i)" + "[\0-\U0010ffff]" * 20_000)
HARMLESS = '{"numbers":[1' + ",1" * 90_000 + "]}"
ATTACKS["many unknown fields"] = "{" + ",".join(f'"x{number}":0' for number in range(60_000)) + "}"


@dataclass
class Site:
    """A server and a worker process, and what another caller sees of them."""

    api: httpx2.AsyncClient
    client: PolosClient
    processes: dict[str, Running]
    waits: dict[str, float] = field(default_factory=dict)
    open_suspension: tuple[str, str] = (
        "",
        "",
    )  # execution and step key: it stays open if answers are refused

    async def post(self, path: str, text: str) -> httpx2.Response:
        return await self.api.post(path, content=text, headers={"Content-Type": "application/json"})

    def _computed(self, name: str) -> float:
        """The seconds of a processor that a process has used: other programs don't change them."""
        return int(Path(f"/proc/{self.processes[name].process.pid}/schedstat").read_text().split()[0]) / 1e9

    async def _probe(self, name: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        while True:
            before = self._computed(name)
            await call()
            self.waits[name] = max(self.waits[name], self._computed(name) - before)
            await asyncio.sleep(0.005)

    async def _quick(self) -> None:
        handle = await self.client.invoke("hostile-quick")
        assert await handle.result(timeout=60) == "done"

    async def _healthy(self) -> None:
        assert (await self.api.get("/healthz")).status_code == 200

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Measures how long each process computes at most while another caller waits for it."""
        self.waits = dict.fromkeys(self.processes, 0.0)
        probes = [
            asyncio.create_task(self._probe("worker", self._quick)),
            asyncio.create_task(self._probe("server", self._healthy)),
        ]
        try:
            yield
            await self._quick()
            await self._healthy()
        finally:
            for probe in probes:
                probe.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    def memory(self, name: str, kind: str) -> int:
        """A process's resident memory in bytes: now ("VmRSS"), or at most since `forget_peaks` ("VmHWM")."""
        status = Path(f"/proc/{self.processes[name].process.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def forget_peaks(self) -> None:
        for running in self.processes.values():
            Path(f"/proc/{running.process.pid}/clear_refs").write_text("5")

    async def ended(self, execution_id: str) -> bool:
        return await self.client.get_handle(execution_id).status() in ("completed", "failed")

    async def is_decided(self, execution_id: str) -> bool:
        """Whether an early answer was taken or refused."""
        return await self.ended(execution_id) or await self.is_open(execution_id, "ask")

    async def is_open(self, execution_id: str, step_key: str) -> bool:
        execution = await self.client.get_execution(execution_id)
        return step_key in {one["step_key"] for one in execution["open_suspensions"]}

    async def asked(self, key: str) -> str:
        """An execution that waits for an answer."""
        handle = await self.client.invoke("hostile-answer", key)

        await until(partial(self.is_open, handle.id, key), "a suspension")
        return handle.id


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@pytest.fixture
async def site(polos: Command, redis_url: str, namespace: str) -> AsyncIterator[Site]:
    serve = ("serve", "--insecure-dev", "--port", "0", "--rate-limit", "100000/minute")
    with polos.worker(FLOWS) as worker, polos.start(POLOS, *serve) as server:
        async with (
            httpx2.AsyncClient(base_url=address(server), timeout=120) as api,
            PolosClient(redis_url, namespace) as client,
        ):
            yield Site(api, client, {"worker": worker, "server": server})


async def attack(site: Site, name: str, text: str) -> tuple[set[int], float, int]:
    """Send a value every way in; returns the statuses, how long another caller waited, and by how many bytes
    the memory of a process grew at most."""
    if not site.open_suspension[0]:
        key = f"{name} {time.monotonic_ns()}"
        site.open_suspension = (await site.asked(key), key)
    execution_id, key = site.open_suspension
    later = await site.client.invoke("hostile-early")
    await until(partial(site.is_open, later.id, "gate"), "the gate")
    requests = [
        ("/api/v1/executions", f'{{"workflow_id":"hostile-input","input":{text}}}'),
        ("/api/v1/executions", f'{{"workflow_id":"hostile-state","initial_state":{text}}}'),
        (f"/api/v1/executions/{later.id}/resume", f'{{"step_key":"ask","early":true,"data":{text}}}'),
        (f"/api/v1/executions/{execution_id}/resume", f'{{"step_key":"{key}","data":{text}}}'),
    ]
    before = {one: site.memory(one, "VmRSS") for one in site.processes}
    site.forget_peaks()
    statuses = set()
    async with site.watched():
        for path, body in requests:
            answer = await site.post(path, body)
            statuses.add(answer.status_code)
            assert len(answer.content) < 50_000, name
            if answer.status_code == 201:
                await until(partial(site.ended, answer.json()["id"]), f"the end of {name}")
        if answer.status_code == 200:
            site.open_suspension = ("", "")
        await site.client.resume(suspend_execution_id=later.id, suspend_step_key="gate", data=None)
        await until(partial(site.is_decided, later.id), f"the early answer of {name}")  # the worker checks it
    growth = max(site.memory(one, "VmHWM") - before[one] for one in site.processes)
    return statuses, max(site.waits.values()), growth


@pytest.mark.failure(47)
@pytest.mark.threat(12)
async def test_hostile_values_hold_up_nobody(site: Site) -> None:
    await attack(site, "harmless", HARMLESS)  # what is loaded at first use is no growth
    for name, text in ATTACKS.items():
        statuses, wait, growth = await attack(site, name, text)
        assert statuses <= {200, 201, 202, 413, 422}, (name, statuses)
        assert statuses & {200, 413, 422}, (name, statuses)
        print(f"{name}: {len(text)} bytes, {sorted(statuses)}, {wait:.3f} s, {growth / 1e6:.0f} MB")
        assert wait < MAX_WAIT and growth < MAX_GROWTH, (name, wait, growth)


# --- pages, and steps of other workflows --------------------------------------------------------

ON_PAGES = [
    "a union, 18 deep, invalid",
    "a union, 45 deep",
    "a union through dicts",
    "a tree of 48 levels",
    "wrong items",
    "objects without their many fields",
    "a long text for a pattern",
    "deep JSON in a string",
    "an unknown tag",
    "too many parts",
    "too many levels",
    "levels that can be read",
    "keys with one hash",
    "many unknown fields",
]


async def post_form(site: Site, execution_id: str, key: str, **fields: Any) -> httpx2.Response:
    """Load an approval page and send its form with these fields."""
    path = f"/approve/{execution_id}/{quote(key, safe='')}"
    page = await site.api.get(path)
    assert page.status_code == 200 and len(page.content) < MAX_PAGE
    (token,) = set(re.findall(r'name="form_token" value="([^"]+)"', page.text))
    return await site.api.post(path, data={"form_token": token, **fields})


async def pages_and_steps(site: Site, name: str, text: str) -> tuple[set[int], list[str]]:
    """Send a value by the JSON box of a page and by steps of another workflow, and have pages show it."""
    key = "ask it"
    asked = [await site.asked(key) for _ in range(2)]
    statuses, results = set(), []
    async with site.watched():
        answer = await post_form(site, asked[0], key, json=text)
        statuses.add(answer.status_code)
        assert len(answer.content) < MAX_PAGE, name
        passed_on = await site.post(
            "/api/v1/executions",
            f'{{"workflow_id":"hostile-resumes","input":{{"to":"{asked[1]}","key":"{key}","data":{text}}}}}',
        )
        statuses.add(passed_on.status_code)
        if passed_on.status_code == 201:
            results.append(await site.client.get_handle(passed_on.json()["id"]).result(timeout=120))
        shown = await site.post("/api/v1/executions", f'{{"workflow_id":"hostile-shown","input":{text}}}')
        statuses.add(shown.status_code)
        if shown.status_code == 201:
            shown_id = shown.json()["id"]
            await until(partial(site.is_open, shown_id, "ask"), "the suspension that shows it")
            for path in (f"/approve/{shown_id}/ask", f"/executions/{shown_id}", "/", "/executions"):
                page = await site.api.get(path)
                assert page.status_code == 200 and len(page.content) < MAX_PAGE, (name, path)
            await site.client.cancel(shown_id)
    for one in asked:
        if not await site.ended(one):
            await site.client.cancel(one)
    return statuses, results


@pytest.mark.failure(47)
@pytest.mark.threat(12)
async def test_hostile_values_on_pages_and_in_steps_hold_up_nobody(site: Site) -> None:
    await pages_and_steps(site, "harmless", HARMLESS)
    for name in ON_PAGES:
        before = {one: site.memory(one, "VmRSS") for one in site.processes}
        site.forget_peaks()
        statuses, results = await pages_and_steps(site, name, ATTACKS[name])
        growth = max(site.memory(one, "VmHWM") - before[one] for one in site.processes)
        wait = max(site.waits.values())
        print(f"{name}: {sorted(statuses)}, {results}, {wait:.3f} s, {growth / 1e6:.0f} MB")
        assert statuses <= {200, 201, 303, 413, 422}, (name, statuses)
        allowed = (
            "passed on|InvalidAnswerError|ValueTooLargeError|ExecutionFinishedError|SuspensionNotFoundError"
        )
        assert all(re.fullmatch(f"({allowed}) ({allowed})", one) for one in results), (name, results)
        assert wait < MAX_WAIT and growth < MAX_GROWTH, (name, wait, growth)


@pytest.mark.threat(12)
async def test_hostile_forms_hold_up_nobody(site: Site) -> None:
    """Rows, fields and texts that no page has offered."""
    key = "ask it"
    execution_id = await site.asked(key)
    rows = [str(number) for number in range(3_000)]
    posts: dict[str, dict[str, Any]] = {
        "many rows": {"answer/numbers#": rows, "_add": "answer/numbers"},
        "rows of rows": {"answer/lists#": rows, **{f"answer/lists/{one}#": rows[:2] for one in rows}},
        "a row that is removed": {"answer/numbers#": rows, "_remove": "answer/numbers/7"},
        "deep names": {"answer/tree" + "/children/0" * 300 + "/value": "1", "answer/tree/children#": ["0"]},
        "a long text": {"answer/name": "a" * 1_000_000 + "!"},
        "a long number": {"answer/numbers#": ["0"], "answer/numbers/0": "1" * 1_000_000},
        "JSON in a field": {"answer/untyped": "[" * 250_000},
        "escapes": {"answer/untyped": "[" * 600_000},
        "many fields": {f"x{number}": "" for number in range(20_000)},
        "odd texts": {"answer/name": "\0\u202e", "_add": "\0", "_remove": "answer/" + "/" * 10_000},
    }
    for name, fields in posts.items():
        before = {one: site.memory(one, "VmRSS") for one in site.processes}
        site.forget_peaks()
        async with site.watched():
            answer = await post_form(site, execution_id, key, **fields)
        growth = max(site.memory(one, "VmHWM") - before[one] for one in site.processes)
        wait = max(site.waits.values())
        print(
            f"{name}: {answer.status_code}, {len(answer.content)} bytes, {wait:.3f} s, {growth / 1e6:.0f} MB"
        )
        assert answer.status_code in (200, 303, 400, 413, 422), (name, answer.status_code, answer.text[:300])
        assert len(answer.content) < MAX_PAGE, name
        assert wait < MAX_WAIT and growth < MAX_GROWTH, (name, wait, growth)
        if await site.ended(execution_id):
            execution_id = await site.asked(key)


@pytest.mark.threat(12)
async def test_the_command_refuses_hostile_answers_with_a_sentence(site: Site, polos: Command) -> None:
    execution_id = await site.asked("ask")
    for name, text in ATTACKS.items():
        if len(text) > 120_000:
            continue  # no argument is that long
        done = await polos("resume", execution_id, "--data", text)
        if done.code == 0:  # it fits the JSON schema: the worker checks the rest
            await until(partial(site.ended, execution_id), "the end")
            execution_id = await site.asked("ask")
            continue
        assert (done.code, done.err.count("\n")) in ((1, 1), (2, 1)), (name, done.code, done.err[:500])
        assert done.err.startswith("polos: ") and len(done.err) < 5_000, name
        assert not await site.ended(execution_id)
