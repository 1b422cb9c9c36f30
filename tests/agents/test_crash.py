"""Killed agent workers: no finished model call is paid for twice.

The LLM server runs in its own process; its log is the evidence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from polos_redis import PolosClient
from polos_redis.testing.model import read_log, repeated
from tests.harness.agent_workflows import ask_the_writer
from tests.harness.fleet import Fleet
from tests.harness.model_process import model_process
from tests.harness.running import until

pytestmark = pytest.mark.also_on_cluster
AGENTS = {"knows": "writer,note,ask_the_writer", "defined_in": "tests.harness.agent_workflows"}
NOTES = [{"name": "note", "arguments": {"text": text}, "id": f"call_{text}"} for text in ("one", "two")]


@contextmanager
def serving(folder: Path, *script: dict[str, Any]) -> Iterator[Path]:
    """Runs the server with a script; yields its log."""
    path, log = folder / "script.json", folder / "log"
    path.write_text(json.dumps(script))
    with pytest.MonkeyPatch.context() as patch, model_process(path, log) as base_url:
        patch.setenv("OPENAI_API_KEY", "sk-test")
        patch.setenv("OPENAI_BASE_URL", base_url)
        yield log


async def hanging(log: Path, count: int) -> None:
    """Waits until `count` requests have arrived and the last one hangs."""
    await until(lambda: len(read_log(log)) == count and read_log(log)[-1].hanging)


@pytest.mark.promise("model call")
async def test_a_worker_killed_between_two_calls(fleet: Fleet, client: PolosClient, tmp_path: Path) -> None:
    """Killed while the tools called by the first answer are running."""
    script = {"say": "", "tool_calls": NOTES}, {"say": "all noted"}
    with serving(tmp_path, *script) as log:
        victim = await fleet.start(**AGENTS)
        handle = await ask_the_writer.invoke(client, "Note this")
        await fleet.seen(handle.id, "one")
        await fleet.seen(handle.id, "two")
        victim.kill()
        await fleet.start(**AGENTS)
        await fleet.seen(handle.id, "one", times=2)
        fleet.open("go")
        assert await handle.result(timeout=20) == "all noted"
        requests = read_log(log)
    assert [request.outcome for request in requests] == ["finished", "finished"]
    assert repeated(requests) == []
    assert list(requests[1].results.values()) == ["noted one", "noted two"]


@pytest.mark.failure(1)
async def test_a_worker_killed_during_a_call(fleet: Fleet, client: PolosClient, tmp_path: Path) -> None:
    """Only the call whose end the worker did not see is made again."""
    script = (
        {"say": "", "tool_calls": NOTES[:1]},
        {"say": "all noted", "chunks": 4, "hang_after": 2},
        {"say": "all noted"},
    )
    with serving(tmp_path, *script) as log:
        victim = await fleet.start(**AGENTS)
        fleet.open("go")
        handle = await ask_the_writer.invoke(client, "Note this")
        await until(lambda: any(request.hanging for request in read_log(log)))
        victim.kill()
        await fleet.start(**AGENTS)
        assert await handle.result(timeout=20) == "all noted"
        requests = read_log(log)
    assert [request.outcome for request in requests] == ["finished", "left", "finished"]
    assert repeated(requests) == []
    assert requests[1].body == requests[2].body, "built from journaled values only"
    assert [name for name, _ in fleet.effects(handle.id)] == ["one"]


@pytest.mark.failure(1)
async def test_workers_killed_again_and_again(fleet: Fleet, client: PolosClient, tmp_path: Path) -> None:
    """Every turn is interrupted once by its worker's death."""
    script: list[dict[str, Any]] = []
    for number in range(3):
        calls = [{**NOTES[0], "id": f"call_{number}"}] if number < 2 else []
        said = {"say": f"turn {number}", "tool_calls": calls}
        script += [{**said, "hang_after": 1}, said]
    fleet.open("go")
    with serving(tmp_path, *script) as log:
        handle = await ask_the_writer.invoke(client, "Note this")
        for number in range(3):
            victim = await fleet.start(**AGENTS)
            await hanging(log, 2 * number + 1)
            victim.kill()
        await fleet.start(**AGENTS)
        assert await handle.result(timeout=20) == "turn 2"
        requests = read_log(log)
    assert [request.outcome for request in requests] == ["left", "finished"] * 3
    assert repeated(requests) == []
    assert len(fleet.effects(handle.id)) == 2
