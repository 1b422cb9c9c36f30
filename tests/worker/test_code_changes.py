"""Worker processes whose code is deployed anew while a person decides."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.command import Command, wait_until

APP = """
from pathlib import Path
from polos_redis import WorkflowContext, workflow

@workflow
async def pay(ctx: WorkflowContext) -> str:
    await ctx.step.run("charge", note, "charge")
    answer = await ctx.step.suspend("KEY", timeout=TIMEOUT, on_timeout={"approved": True})
    await ctx.step.run("after", note, "after")
    return "approved" if answer["data"]["approved"] else "rejected: " + answer["data"]["reason"]

def note(effect: str) -> None:
    with Path("effects").open("a") as effects:
        effects.write(effect + "\\n")
"""


def deploy(polos: Command, key: str, timeout: float) -> None:
    (polos.folder / "app.py").write_text(APP.replace("KEY", key).replace("TIMEOUT", str(timeout)))


@pytest.mark.failure(45)
@pytest.mark.timeout(180)
def test_a_renamed_suspension(redis_url: str, namespace: str, tmp_path: Path) -> None:
    """The rejection of the old suspension is not lost to the default answer of the new one."""
    polos = Command(redis_url, namespace, tmp_path)

    def status(execution_id: str) -> str:
        return str(polos.run("show", execution_id, "--json").json["status"])

    deploy(polos, "review", 3600)
    with polos.worker("app.py"):
        execution_id = polos.run("invoke", "pay").out.strip()
        wait_until(lambda: status(execution_id) == "waiting", "it was never parked")
    deploy(polos, "approval", 0.2)
    rejected = polos.run("resume", execution_id, "review", "--reject", "--reason", "fraud")
    assert "accepted" in rejected.out
    with ExitStack() as two:
        workers = [two.enter_context(polos.worker("app.py")) for _ in range(2)]
        wait_until(lambda: status(execution_id) == "stuck", "it was never stuck")
        logged = [row for worker in workers for row in worker.err.splitlines() if " stuck" in row]
        assert len(logged) == 1 and "WARNING" in logged[0]
        assert "at=app.py:8" in logged[0] and "review" in logged[0]
    deploy(polos, "review", 3600)
    with polos.worker("app.py"):
        assert polos.run("retry", execution_id).code == 0
        wait_until(lambda: status(execution_id) == "completed", "it never completed")
    assert polos.run("show", execution_id, "--json").json["result"] == "rejected: fraud"
    assert (polos.folder / "effects").read_text() == "charge\nafter\n"
