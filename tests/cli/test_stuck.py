"""`polos` about stuck executions, and about questions that code no longer asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import stuck_flow
from tests.harness.command import Command
from tests.harness.stuck_flow import MESSAGE

pytestmark = pytest.mark.failure(45)


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


async def test_a_stuck_execution_is_shown_and_an_answer_skipped(
    polos: Command, redis_url: str, namespace: str
) -> None:
    async with stuck_flow.deployed(redis_url, namespace) as (at, flow, handle):
        await stuck_flow.become_stuck(at, flow, handle)
        listed = await polos("list", "--status", "stuck")
        assert f"{handle.id}  stuck " in listed.out
        shown = await polos("show", handle.id)
        assert "status      stuck\n" in shown.out
        assert f"stuck       {MESSAGE}\n" in shown.out
        assert 'decided     review: {"approved": false} by ann at ' in shown.out
        retried = f"polos retry {handle.id}"
        assert f"go on with  {retried}, once code that reaches it is deployed\n" in shown.out
        assert f"or with     {retried} --skip review --reason TEXT, to pass it over\n" in shown.out

        for wrong, sentence in (
            (("--skip", "review"), "--skip needs --reason: say why an accepted answer is passed over"),
            (("--reason", "r"), "--reason is for --skip: name the step key of an accepted answer"),
        ):
            refused = await polos("retry", handle.id, *wrong)
            assert refused.code == 2 and sentence in refused.sentence
        refused = await polos("retry", handle.id, "--skip", "charge", "--reason", "r")
        assert refused.code == 1 and "has nothing to skip under 'charge'" in refused.sentence

        done = await polos("retry", handle.id, "--skip", "review", "--reason", "no review now", "--by", "bob")
        assert done.out == f"retrying {handle.id} as run 2, skipping review\n", done.err
        await stuck_flow.answer(at, handle, "other", approved=True)
        await at.opened(handle, "approval")
        shown, audit = await polos("show", handle.id), await polos("audit", handle.id)
        assert "      skipped by bob at " in shown.out and ": no review now\n" in shown.out
        (skipped,) = [one for one in audit.out.splitlines() if "skipped" in one]
        assert skipped.endswith("no review now") and "  bob " in skipped


async def test_a_stuck_execution_goes_on_with_the_old_code(
    polos: Command, redis_url: str, namespace: str
) -> None:
    async with stuck_flow.deployed(redis_url, namespace) as (at, flow, handle):
        await stuck_flow.become_stuck(at, flow, handle)
        flow.deploy(stuck_flow.asks)
        done = await polos("retry", handle.id, "--json")
        assert done.json == {"id": handle.id, "run": 2}, done.err
        await stuck_flow.answer(at, handle, "other", approved=True)
        assert await at.result(handle) == "reviewed"
        assert "stuck" not in (await polos("show", handle.id)).out


async def test_an_open_question_that_code_no_longer_asks(
    polos: Command, redis_url: str, namespace: str
) -> None:
    async with stuck_flow.deployed(redis_url, namespace) as (at, flow, handle):
        assert "not reached" not in (await polos("suspensions")).out
        await stuck_flow.pass_over_an_open_question(at, flow, handle)
        rows = (await polos("suspensions")).out.splitlines()
        assert ["review (not reached by its code now)  " in row for row in rows[1:]] == [True, False]
        shown = await polos("show", handle.id)
        assert shown.out.count(" (not reached by its code now)\n") == 2  # what it waits for, and suspensions
        found = (await polos("suspensions", "--json")).json["suspensions"]
        assert {one["step_key"]: one["unreached"] for one in found} == {"review": True, "approval": False}
