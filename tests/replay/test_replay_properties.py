"""Random workflows: their histories, read at any time, fit the code that made them, and no code that skips a
decision."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings

from polos_redis import ExecutionHandle, History
from tests.harness.deployments import Deployed, crash, stuck
from tests.harness.running import Running
from tests.replay.programs import diverged, history_of
from tests.steps.test_unreached_properties import (
    MANY,
    SEEDS,
    Node,
    answer_one,
    checked,
    code_of,
    finished,
    open_keys,
    play,
    turns,
    until_parked,
)


async def _recorded_at_any_time(
    at: Running, flow: Deployed, seed: int, histories: list[History]
) -> ExecutionHandle[Any]:
    """Run a program to its end, with crashes, and read its history meanwhile and then."""
    chance = random.Random(seed)
    handle = await flow.workflow.invoke(at.client)
    for _ in range(chance.randrange(20)):
        await turns(chance.randrange(40))
        what = chance.random()
        if what < 0.3:
            crash(at, handle)
        elif what < 0.7:
            histories.append(await history_of(at.client, handle))
        elif keys := await open_keys(at, handle):
            await answer_one(at, handle, chance.choice(keys))
    await finished(at, handle)
    histories.append(await history_of(at.client, handle))
    return handle


@settings(checked, max_examples=20)
@given(MANY, SEEDS)
def test_the_code_that_was_recorded_does_not_diverge(
    redis_url: str, namespace: str, programs: list[Node], seed: int
) -> None:
    found: list[tuple[Node, str, list[History]]] = []

    async def scenario(at: Running, flow: Deployed, program: Node) -> None:
        histories: list[History] = []
        found.append((program, flow.workflow.id, histories))
        await _recorded_at_any_time(at, flow, seed, histories)

    play(redis_url, namespace, programs, scenario, 3600.0)
    for program, workflow_id, histories in found:
        for history in histories:
            assert diverged(history, code_of(program), id=workflow_id) is None, history.view


@settings(checked, max_examples=20)
@given(MANY, SEEDS)
def test_a_skipped_decision_is_reported(
    redis_url: str, namespace: str, programs: list[Node], seed: int
) -> None:
    """Each program is stuck with the changed code; then a replay of that code says why."""
    found: list[tuple[Node, str, str, History]] = []

    async def scenario(at: Running, flow: Deployed, program: Node) -> None:
        chance = random.Random(seed)
        handle = await flow.workflow.invoke(at.client)
        keys = [key for key in await until_parked(at, handle) if key != "last"]
        if keys:
            changed = chance.choice(keys)
            flow.deploy(_without(program, changed))
            await at.answer(handle, changed)
            await stuck(at, handle)
            found.append((program, flow.workflow.id, changed, await history_of(at.client, handle)))
            flow.deploy(code_of(program))
            await at.client.retry(handle.id)
        await finished(at, handle)

    play(redis_url, namespace, programs, scenario, 0.4)
    for program, workflow_id, changed, history in found:
        assert diverged(history, code_of(program), id=workflow_id) is None, history.view
        divergence = diverged(history, _without(program, changed), id=workflow_id)
        assert divergence is not None, history.view
        assert f"the decision on {changed!r}" in divergence.message or divergence.kind == "call"


def _without(program: Node, changed: str) -> Any:
    return code_of(program, lambda key: None if key == changed else key)
