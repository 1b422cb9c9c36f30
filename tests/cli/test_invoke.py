"""`polos invoke`: starting workflows that this machine has no code for, and waiting for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from polos_redis import Polos, PolosClient, WorkflowContext, workflow
from tests.harness.command import Command


class Parcel(BaseModel):
    weight: float
    to: str


class Receipt(BaseModel):
    number: int
    note: str


@workflow(id="cli-send")
async def send(ctx: WorkflowContext, input: Parcel) -> Receipt:
    if input.weight < 0:
        raise ValueError("no such weight")
    return Receipt(number=7, note=input.to)


@workflow(id="cli-asks")
async def asks(ctx: WorkflowContext) -> None:
    await ctx.step.suspend("permission")


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@pytest.fixture
def working(redis_url: str, namespace: str) -> Polos:
    return Polos(url=redis_url, namespace=namespace, workflows=[send, asks])


async def test_it_prints_only_the_id(polos: Command, working: Polos) -> None:
    async with working as client:
        started = await polos("invoke", "cli-send", "--input", '{"weight": 1, "to": "Ana"}')
        assert started.err == ""
        (execution_id,) = started.out.splitlines()
        assert await client.get_handle(execution_id).result() == Receipt(number=7, note="Ana")


async def test_it_prints_a_result_of_an_unknown_type(polos: Command, working: Polos, tmp_path: Path) -> None:
    place = "a street " * 2000  # nothing is cut in a pipe
    (tmp_path / "parcel.json").write_text('{"weight": 1,\n "to": "' + place + '"}')
    async with working:
        done = await polos("invoke", "cli-send", "--input", "@parcel.json", "--wait")
        assert done.code == 0, done.err
        assert done.json == {"number": 7, "note": place}
        as_json = await polos(
            "invoke", "cli-send", "--input", "-", "--wait", "--json", input=b'{"weight":1,"to":"B"}'
        )
        assert (as_json.json["status"], as_json.json["error"]) == ("completed", None)
        assert as_json.json["result"] == {"number": 7, "note": "B"}


async def test_a_failure_is_one_sentence(polos: Command, working: Polos) -> None:
    async with working:
        for text, said in (
            ('{"weight": -1, "to": "C"}', "ValueError: no such weight"),
            ('{"weight": 1}', "input.to: Field required"),
        ):
            done = await polos("invoke", "cli-send", "--input", text, "--wait")
            assert (done.code, done.out) == (1, "")
            started, sentence = done.err.splitlines()
            assert started.startswith("started ")
            assert said in sentence
        as_json = await polos("invoke", "cli-send", "--input", text, "--wait", "--json")
        assert as_json.code == 1
        assert as_json.json["status"] == "failed"
        assert as_json.json["error"]["type"] == "InvalidInputError"


async def test_a_timeout_says_what_the_execution_waits_for(polos: Command, working: Polos) -> None:
    async with working as client:
        done = await polos("invoke", "cli-asks", "--wait", "--timeout", "1")
        assert done.code == 1
        assert " did not finish within 1 s: it is waiting for a person (permission) since 20" in done.err
        (waits,) = await client.list_suspensions()
        await client.cancel(waits["execution_id"])


async def test_an_unknown_workflow_gets_a_warning(polos: Command, redis_url: str, namespace: str) -> None:
    done = await polos("invoke", "cli-unheard-of", "--json")
    assert done.code == 0
    assert done.err.startswith("polos: warning: no worker serves workflow 'cli-unheard-of'")
    async with PolosClient(redis_url, namespace) as client:
        assert (await client.get_execution(done.json["id"]))["status"] == "queued"
        shown = await polos("show", done.json["id"])
        assert "no worker serves this workflow: deploy its code, or cancel it" in shown.out
        assert (await polos("show", done.json["id"], "--json")).json["unserved"] is True
        await client.cancel(done.json["id"])
        assert "no worker serves" not in (await polos("show", done.json["id"])).out


@pytest.mark.failure(29)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,}', "--input can't be read as JSON: line 1, column 9"),
        ('{"a":\n  tru}', "--input can't be read as JSON: line 2, column 3"),
        ("[NaN]", "--input can't be read as JSON: JSON has no NaN"),
        ('{"a": 1e999}', "--input can't be read as JSON: the number 1e999 is too large for a float"),
        ('{"a": 1, "a": 2}', 'an object has the name "a" twice'),
        ("", "--input is empty"),
        ("[" * 100_000, "--input: the value is nested deeper than 100 levels"),
        ("@missing.json", "--input (missing.json) can't be read: No such file or directory"),
        ("@latin.json", "--input (latin.json) is not UTF-8 text: byte 1"),
        ("-", "--input (standard input) can't be read as JSON: line 1, column 1"),
    ],
)
def test_invalid_json_is_refused(offline: Command, text: str, said: str) -> None:
    (offline.folder / "latin.json").write_bytes(b'"\xe9"')
    done = offline.here("invoke", "cli-send", "--input", text, input=b"what")
    assert done.code == 2
    assert said in done.sentence


async def test_start_options_are_applied(polos: Command, working: Polos) -> None:
    async with working as client:
        options = ["--session", "s 1", "--user", "ana", "--queue", "calm", "--run-timeout", "0.2"]
        started = await polos("invoke", "cli-asks", "--delay", "3600", *options, "--json")
        assert started.err == (
            "polos: warning: no worker that serves workflow 'cli-asks' reads queue 'calm', so the execution "
            "stays queued until one does (read: 'default')\n"
        )
        found = await client.get_execution(started.json["id"])
        assert (found["status"], found["queue"]) == ("queued", "calm")
        assert (found["session_id"], found["user_id"]) == ("s 1", "ana")
        await client.cancel(found["id"])
        done = await polos("invoke", "cli-asks", "--run-timeout", "0.2", "--wait")
        assert done.code == 1
        assert "WorkflowTimeoutError: it did not finish within its 0.2 seconds" in done.err


async def test_a_key_starts_one_execution(polos: Command, working: Polos) -> None:
    async with working:
        call = ("invoke", "cli-send", "--idempotency-key", "order 1", "--wait", "--json", "--input")
        one = await polos(*call, '{"weight": 1, "to": "Ana"}')
        repeated = await polos(*call, '{"to": "Ana", "weight": 1}')
        assert one.json["id"] == repeated.json["id"]
        other = await polos(*call, '{"weight": 2, "to": "Ana"}')
        assert (other.code, other.out) == (1, "")
        assert "idempotency key 'order 1' was already used for workflow 'cli-send'" in other.sentence


async def test_a_concurrency_key_needs_a_limit(polos: Command, working: Polos) -> None:
    async with working:
        done = await polos("invoke", "cli-asks", "--concurrency-key", "ana")
        assert done.code == 1
        assert "concurrency_key needs a queue with a concurrency_limit" in done.sentence


@pytest.mark.parametrize("option", ["--delay", "--run-timeout"])
@pytest.mark.parametrize("seconds", ["-1", "soon"])
def test_invalid_seconds_are_wrong_use(offline: Command, option: str, seconds: str) -> None:
    assert offline.here("invoke", "cli-send", option, seconds).code == 2


def test_a_timeout_without_waiting_is_wrong_use(offline: Command) -> None:
    assert offline.here("invoke", "cli-send", "--timeout", "1").code == 2


@pytest.fixture
def offline(tmp_path: Path) -> Command:
    """The command with a Redis it has no reason to contact."""
    return Command("redis://127.0.0.1:1/0", "offline", tmp_path)
