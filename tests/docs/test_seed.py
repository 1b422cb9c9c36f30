"""The Polos docs' own programs in separate processes: a worker, the script, and a person who answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

import pytest

from polos_redis.testing.model import read_log
from tests import DATA
from tests.harness.command import Command, Running, wait_until
from tests.harness.model_process import model_process

FUNCTIONS = """
from pydantic import BaseModel


class Validation(BaseModel):
    is_valid: bool
    error: str = ""


class Charge(BaseModel):
    charge_id: str


def validate_charge_request(request):
    return Validation(is_valid=request.amount > 0)


async def charge_stripe(request):
    return Charge(charge_id=f"ch_{request.customer_id}")


def send_email(customer_id, charge_id):
    print(f"mail to {customer_id}: {charge_id}")


async def send_slack_message(channel, message, blocks):
    assert "https://admin.example.com/approve/" in blocks[0]["text"]["text"]
    print(f"{channel}: {message}")
"""

TIMEOUT = """
import asyncio
from polos_redis import PolosClient, StepExecutionError, WorkflowContext, workflow
from pydantic import BaseModel
from typing import Optional


class ChargeResponse(BaseModel):
    status: str
    reason: Optional[str] = None


@workflow
async def impatient(ctx: WorkflowContext):
{block}
    return ChargeResponse(status="answered", reason=resume_data["data"]["reason"])


async def main():
    handle = await impatient.invoke(PolosClient())
    print(f"started: {{handle.id}}")
    result = await handle.result()
    print(type(result).__name__, result.status, result.reason)


if __name__ == "__main__":
    asyncio.run(main())
"""

STAGES = """
import asyncio
import sys
from polos_redis import PolosClient, WorkflowContext, workflow
from pydantic import BaseModel


class MultiApprovalInput(BaseModel):
    amount: float


class MultiApprovalOutput(BaseModel):
    status: str
    result: str = ""


def execute_action(input):
    return f"moved {{input.amount:.0f}}"


{block}


async def main():
    input = MultiApprovalInput(amount=float(sys.argv[1]))
    handle = await multi_approval_workflow.invoke(PolosClient(), input)
    print(f"started: {{handle.id}}")
    result = await handle.result()
    print(type(result).__name__, result.status, result.result)


if __name__ == "__main__":
    asyncio.run(main())
"""


def block(name: str) -> str:
    return (DATA / name).read_text()


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@contextmanager
def script(polos: Command, program: Path, *args: str) -> Iterator[tuple[Running, str]]:
    """Runs the program as its user would; yields the id of the execution it started."""
    with polos.start(sys.executable, str(program), *args) as running:
        running.wait_for("started: ")
        running.wait_for("\n")
        found = re.search(r"started: (\S+)\n", running.out)
        assert found is not None
        yield running, found[1]


def charge_program(folder: Path, amount: str = "5000.00") -> Path:
    page = block("complete_example.txt")
    assert page.count("from polos import") == 1
    page = page.replace("from polos import", "from polos_redis import")
    assert page.count("amount=5000.00,") == 1
    program = folder / "charge.py"
    program.write_text(FUNCTIONS + page.replace("amount=5000.00,", f"amount={amount},"))
    return program


def test_the_complete_example_differs_only_in_its_import_line(tmp_path: Path) -> None:
    page = block("complete_example.txt").splitlines()
    ours = charge_program(tmp_path).read_text().removeprefix(FUNCTIONS).splitlines()
    assert [(a, b) for a, b in zip(page, ours, strict=True) if a != b] == [
        (
            "from polos import workflow, WorkflowContext, events, PolosClient",
            "from polos_redis import workflow, WorkflowContext, events, PolosClient",
        )
    ]


def test_an_approved_charge_completes(polos: Command, tmp_path: Path) -> None:
    program = charge_program(tmp_path)
    with polos.worker(str(program)) as worker, script(polos, program) as (running, execution_id):
        running.wait_for("#financial-approvals: High-value charge requires approval: $5000.0")
        assert "   Customer: cust_123\n   Amount: $5000.0\n   Description: Enterprise annual" in running.out
        answered = polos.run("resume", execution_id, "high_value_approval", "--data", '{"approved": true}')
        assert answered.code == 0, answered.err
        assert running.wait() == 0, running.err
        assert running.out.endswith("\nCharge completed: ch_cust_123\n")
        worker.wait_for("mail to cust_123: ch_cust_123")


def test_a_rejected_charge_has_no_id(polos: Command, tmp_path: Path) -> None:
    program = charge_program(tmp_path)
    with polos.worker(str(program)), script(polos, program) as (running, execution_id):
        running.wait_for("#financial-approvals")
        assert polos.run("resume", execution_id, "--reject", "--reason", "too much").code == 0
        assert running.wait() == 0, running.err
        assert running.out.endswith("\nCharge completed: None\n")
        found = polos.run("show", execution_id, "--json").json
    assert found["result"] == {"status": "rejected", "reason": "too much", "charge_id": None, "amount": 0.0}
    assert [step["step_key"] for step in found["steps"]] == ["validate_charge"]


def test_a_small_charge_needs_no_approval(polos: Command, tmp_path: Path) -> None:
    """The snippet's event loop then ends by itself, with the workflow."""
    program = charge_program(tmp_path, "999.00")
    with polos.worker(str(program)), script(polos, program) as (running, _):
        assert running.wait() == 0, running.err
    assert "requires approval" not in running.out
    assert running.out.endswith("\nCharge completed: ch_cust_123\n")


def test_the_timeout_block_times_out(polos: Command, tmp_path: Path) -> None:
    """Unchanged, except for a timeout of one second instead of an hour."""
    page = block("timeout_block.txt")
    assert page.count("timeout=3600") == 1
    program = tmp_path / "impatient.py"
    program.write_text(TIMEOUT.format(block=indent(page.replace("timeout=3600", "timeout=1"), "    ")))
    with polos.worker(str(program)), script(polos, program) as (running, _):
        assert running.wait() == 0, running.err
    assert running.out.endswith("\nChargeResponse timeout Approval not received in time\n")


@pytest.mark.parametrize(
    ("amount", "answers", "end"),
    [
        ("25000", ["manager_approval --approve", "finance_approval --approve"], "completed moved 25000"),
        ("25000", ["manager_approval --approve", "finance_approval --reject"], "rejected_by_finance "),
        ("500", ["manager_approval --approve"], "completed moved 500"),
    ],
)
def test_the_multi_stage_block_asks_the_required_approvers(
    polos: Command, tmp_path: Path, amount: str, answers: list[str], end: str
) -> None:
    program = tmp_path / "stages.py"
    program.write_text(STAGES.format(block=block("multi_stage_block.txt")))
    with polos.worker(str(program)) as worker, script(polos, program, amount) as (running, execution_id):
        for answer in answers:
            step_key, option = answer.split()
            worker.wait_for(f"waits={step_key}")
            answered = polos.run("resume", execution_id, step_key, option)
            assert answered.code == 0, answered.err
        assert running.wait() == 0, running.err
    assert running.out.endswith(f"\nMultiApprovalOutput {end}\n")


# --- the first program: an agent plans, a person approves, a step executes ---------------

ACTION = """
def execute_action(plan):
    print(f"executing: {plan.description}")
    return f"{type(plan).__name__}: {len(plan.steps)} steps"
"""

PLAN = {
    "description": "Delete 1000 customer records from archive",
    "steps": ["Backup data", "Run deletion query", "Verify deletion"],
    "estimated_cost": 50.0,
    "risk_level": "high",
}


def agent_program(folder: Path) -> Path:
    """The first program of the docs and the one that listens, after the definitions they leave out."""
    page = block("agent_block.txt") + "\n\n" + block("listening_block.txt")
    assert page.count("from polos import") == 2
    program = folder / "plan.py"
    program.write_text(ACTION + page.replace("from polos import", "from polos_redis import"))
    return program


@contextmanager
def planning(polos: Command, folder: Path) -> Iterator[Path]:
    """The model's provider, which returns the plan once; yields its log."""
    path, log = folder / "script.json", folder / "llm.log"
    path.write_text(json.dumps([{"say": PLAN, "usage": [120, 60]}]))
    with model_process(path, log) as base_url:
        polos.environment |= {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": base_url}
        yield log


def test_the_agent_program_differs_only_in_its_import_lines(tmp_path: Path) -> None:
    page = (block("agent_block.txt") + "\n\n" + block("listening_block.txt")).splitlines()
    ours = agent_program(tmp_path).read_text().removeprefix(ACTION).splitlines()
    assert [(a, b) for a, b in zip(page, ours, strict=True) if a != b] == [
        (
            "from polos import workflow, WorkflowContext, Agent",
            "from polos_redis import workflow, WorkflowContext, Agent",
        ),
        ("from polos import PolosClient, events", "from polos_redis import PolosClient, events"),
    ]


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (["--approve"], {"status": "completed", "result": "ActionPlan: 3 steps", "rejection_reason": None}),
        (
            ["--reject", "--reason", "too risky"],
            {"status": "rejected", "result": None, "rejection_reason": "too risky"},
        ),
    ],
    ids=["approved", "rejected"],
)
def test_an_agents_plan_is_approved_or_rejected(
    polos: Command, tmp_path: Path, answer: list[str], result: dict[str, str]
) -> None:
    program = agent_program(tmp_path)
    with planning(polos, tmp_path) as log, polos.worker(str(program)) as worker:
        with script(polos, program) as (running, execution_id):
            assert running.wait() == 0, running.err
            assert "Workflow suspended, awaiting approval:" in running.out
            assert "  Steps: Backup data, Run deletion query, Verify deletion\n  Cost: $50.0" in running.out
            assert "  Approver: manager@company.com" in running.out
        answered = polos.run("resume", execution_id, *answer)
        assert answered.code == 0, answered.err

        def ended() -> bool:
            return bool(polos.run("show", execution_id, "--json").json["status"] == "completed")

        wait_until(ended, "the workflow never ended")
        found = polos.run("show", execution_id, "--json").json
        (request,) = read_log(log)
    assert found["result"] == result
    assert found["usage"]["total_tokens"] == 180
    assert ("executing: " in worker.out) == (answer == ["--approve"])
    assert request.messages == [
        {
            "role": "system",
            "content": "Analyze requests and create detailed action plans with cost estimates.",
        },
        {"role": "user", "content": "Create an action plan for: delete old customer records from archive"},
    ]
    assert request.response_format is not None and request.response_format["strict"] is True
