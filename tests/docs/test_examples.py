"""The agent examples as users run them: a worker, the program, and a person or command that answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from polos_redis.testing.model import read_log
from tests import ROOT
from tests.harness.command import Command, Running, wait_until
from tests.harness.model_process import model_process

EXAMPLES = ROOT / "examples"


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@contextmanager
def example(polos: Command, name: str, *said: dict[str, Any]) -> Iterator[tuple[Running, Running, Path]]:
    """Runs an example's worker and its program; its model replies with `said` and logs the requests."""
    path, log = polos.folder / "script.json", polos.folder / "llm.log"
    path.write_text(json.dumps(said))
    with model_process(path, log) as base_url:
        polos.environment |= {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": base_url}
        program = str(EXAMPLES / name)
        with polos.worker(program) as worker, polos.start(sys.executable, program) as running:
            running.wait_for("started: ")
            yield worker, running, log


def waiting(polos: Command, count: int) -> list[dict[str, Any]]:
    """At least `count` open suspensions."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = polos.run("suspensions", "--json").json["suspensions"]
        return len(found) >= count

    wait_until(there, f"{count} suspensions")
    return found


PLAN = {"description": "Delete old records", "steps": ["Back up", "Delete"], "estimated_cost": 50.0}


@pytest.mark.parametrize(
    ("answer", "end"),
    [(["--approve"], "2 steps done"), (["--reject", "--reason", "too risky"], "rejected: too risky")],
    ids=["approved", "rejected"],
)
def test_the_plan_is_approved_or_rejected(polos: Command, answer: list[str], end: str) -> None:
    with example(polos, "agent_plan.py", {"say": PLAN}) as (_, running, _):
        running.wait_for("waiting for approval of: Delete old records\n")
        (address,) = re.findall(r"decide at \S+/approve/(\S+)\n", running.out)
        assert polos.run("resume", address, *answer).code == 0
        assert running.wait() == 0, running.err
    assert running.out.endswith(f"\n{end}\n")


def test_the_tools_ask_for_approval_and_answers(polos: Command) -> None:
    refund = {"name": "give_refund", "arguments": {"order_id": "o-17", "amount": 250.0}}
    small = {"name": "give_refund", "arguments": {"order_id": "o-18", "amount": 10.0}}
    question = {"name": "ask_user", "arguments": {"question": "Shall I send a new one?", "fields": []}}
    said = (
        {"say": "", "tool_calls": [{"name": "find_order", "arguments": {"id": "o-17"}}]},
        {"say": "", "tool_calls": [refund, small, question]},
        {"say": "Done."},
    )
    with example(polos, "agent_tools.py", *said) as (worker, running, log):
        found = {one["step_key"].partition("_")[0]: one for one in waiting(polos, 2)}
        asks, approve = found["ask"], found["approve"]
        assert approve["data"]["arguments"] == {"order_id": "o-17", "amount": 250.0}
        edited = {"approved": True, "arguments": {"order_id": "o-17", "amount": 125}, "reason": "half"}
        for one, answer in ((approve, edited), (asks, {"answer": "yes"})):
            resumed = polos.run("resume", one["execution_id"], one["step_key"], "--data", json.dumps(answer))
            assert resumed.code == 0, resumed.err
        # the policy asks again about an edit it does not allow, whoever wrote it
        (repeated,) = waiting(polos, 1)
        assert repeated["data"]["arguments"]["amount"] == 125.0
        assert polos.run("resume", repeated["execution_id"], repeated["step_key"], "--approve").code == 0
        assert running.wait() == 0, running.err
        assert sorted(re.findall(r"refunding \S+", worker.out)) == ["refunding $10.00", "refunding $125.00"]
        assert [request.outcome for request in read_log(log)] == ["finished"] * 3
    assert running.out.endswith("\nask_user: ok, {'answer': 'yes'}\nDone. (45 tokens)\n")


def test_the_stream_prints_its_story(polos: Command) -> None:
    story = "Once upon a time there was a fox."
    with example(polos, "agent_stream.py", {"say": story, "chunks": 8}) as (_, running, _):
        assert running.wait() == 0, running.err
    assert running.out.endswith(f"\n{story}\n(15 tokens)\n")
