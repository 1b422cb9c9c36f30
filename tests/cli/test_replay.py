"""`polos export` and `polos replay`, as a team uses them: export from production, replay in CI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polos_redis import PolosClient
from tests.harness.command import Command
from tests.harness.running import until

CHARGE = """
from polos_redis import WorkflowContext, workflow


def note(what: str) -> str:
    with open("effects.txt", "a") as effects:
        effects.write(f"{what}\\n")
    return what


@workflow
async def charge(ctx: WorkflowContext, amount: int) -> str:
    number = await ctx.step.run("number", note, "number")
    answer = await ctx.step.suspend("approval", data={"amount": amount})
    if not answer["data"]["approved"]:
        return "rejected"
    await ctx.step.invoke_and_wait("receipt", receipt, amount)
    return await ctx.step.run("pay", note, "pay")


@workflow
async def receipt(ctx: WorkflowContext, amount: int) -> str:
    return await ctx.step.run("print", note, "print")
"""


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    (tmp_path / "charge.py").write_text(CHARGE)
    return Command(redis_url, namespace, tmp_path)


async def _invoke(polos: Command, amount: int) -> str:
    done = await polos("invoke", "charge", "--input", str(amount), "--json")
    execution_id: str = done.json["id"]
    return execution_id


async def _parked(client: PolosClient, *execution_ids: str) -> None:
    async def parked() -> bool:
        found = [await client.get_execution(one) for one in execution_ids]
        return all(one["status"] == "waiting" for one in found)

    await until(parked)


def _changed(polos: Command, before: str, after: str) -> None:
    assert before in CHARGE
    (polos.folder / "charge.py").write_text(CHARGE.replace(before, after))


async def test_a_changed_module_fails_the_build(polos: Command, client: PolosClient) -> None:
    with polos.worker("charge.py"):
        answered, open_ = await _invoke(polos, 1), await _invoke(polos, 2)
        await _parked(client, answered, open_)
        await polos("resume", answered, "--approve", "--by", "ann")
        assert await client.get_handle(answered).result(timeout=60) == "pay"
    effects = (polos.folder / "effects.txt").read_text()
    exported = await polos("export", answered, open_, "--children")
    assert exported.code == 0 and exported.err == "exported 3 executions\n"
    (polos.folder / "all.jsonl").write_text(exported.out)
    assert [json.loads(line)["status"] for line in exported.out.splitlines()] == [
        "completed",
        "completed",
        "waiting",
    ]
    waiting = await polos("export", "--workflow", "charge", "--status", "waiting", "--limit", "5")
    assert [json.loads(line)["id"] for line in waiting.out.splitlines()] == [open_]

    polos.environment["POLOS_REDIS_URL"] = "redis://127.0.0.1:1"  # files need no Redis
    same = await polos("replay", "charge.py", "all.jsonl")
    assert (same.code, same.out, same.err) == (0, "", "replayed 3 executions: none diverged\n")
    piped = await polos("replay", "charge.py", "-", input=waiting.out.encode())
    assert (piped.code, piped.err) == (0, "replayed 1 execution: none diverged\n")

    _changed(polos, '"approval"', '"review"')
    line = CHARGE.splitlines().index(
        '    answer = await ctx.step.suspend("approval", data={"amount": amount})'
    )
    changed = await polos("replay", "charge.py", "all.jsonl")
    assert changed.code == 1 and changed.err == "replayed 3 executions: 2 diverged\n"
    where = f"the code calls 'review' at charge.py:{line + 1}, but the history goes on with the"
    assert changed.out == (
        f"diverged  charge {answered}\n"
        f"  {where} decision on 'approval' by ann\n"
        f"diverged  charge {open_}\n"
        f"  {where} open suspension 'approval'\n"
    )
    as_json = await polos("replay", "charge.py", "all.jsonl", "--json")
    assert as_json.code == 1 and as_json.json["replayed"] == 3
    assert as_json.json["diverged"][0] == {
        "execution_id": answered,
        "workflow_id": "charge",
        "kind": "call",
        "message": f"{where} decision on 'approval' by ann",
        "step_key": "review",
        "where": f"charge.py:{line + 1}",
    }

    _changed(polos, "async def receipt", "async def slip")
    gone = await polos("replay", "charge.py", "all.jsonl")
    assert gone.code == 1
    assert "no workflow 'receipt' is defined here: import the module that defines it" in gone.out
    assert (polos.folder / "effects.txt").read_text() == effects


async def test_debugging_an_execution(polos: Command, client: PolosClient) -> None:
    with polos.worker("charge.py"):
        execution_id = await _invoke(polos, 7)
        await _parked(client, execution_id)
    effects = (polos.folder / "effects.txt").read_text()
    stops = ["p amount", "n", "p number", "c", "p answer", "q"]
    done = await polos("replay", "charge.py", execution_id, "--debug", input="\n".join(stops).encode())
    assert done.code == 0, done.err
    assert "step 'number' at charge.py:13\n" in done.err
    assert "step 'approval' at charge.py:14\n" in done.err
    assert "-> number = await ctx.step.run(" in done.out
    assert "(Pdb) 7\n" in done.out and "(Pdb) 'number'\n" in done.out
    assert "NameError: name 'answer' is not defined" in done.out

    one = await polos(
        "replay", "charge.py", execution_id, "--debug", "--step", "approval", input=b"p number\nc\n"
    )
    assert "step 'number'" not in one.err and "(Pdb) 'number'\n" in one.out
    assert one.code == 0 and one.err.endswith("replayed 1 execution: none diverged\n")

    for name, said in (
        ("aproval", "no step of this name was reached; did you mean 'approval'?"),
        ("nosuch", "no step of this name was reached; there are 'number', 'approval'"),
    ):
        none = await polos("replay", "charge.py", execution_id, "--debug", "--step", name)
        assert (none.code, none.err) == (
            2,
            f"replayed 1 execution: none diverged\npolos: --step {name}: {said}\n",
        )
    _changed(polos, 'ctx.step.run("number"', 'ctx.step.run("first"')
    before = await polos("replay", "charge.py", execution_id, "--debug", "--step", "approval")
    assert before.code == 2 and "diverged  charge" in before.out
    assert "--step approval: the replay ended before it reached this step, which is recorded" in before.err
    assert (polos.folder / "effects.txt").read_text() == effects


async def test_debugging_steps_in_tasks(polos: Command, client: PolosClient) -> None:
    (polos.folder / "fan.py").write_text(FAN)
    with polos.worker("fan.py"):
        execution_id = (await polos("invoke", "fan", "--input", "3", "--json")).json["id"]
        assert await client.get_handle(execution_id).result(timeout=60) == 3
    done = await polos(
        "replay", "fan.py", execution_id[:12], "--debug", "--step", "s1", input=b"p count\nc\n"
    )
    assert done.code == 0, done.err
    assert done.err == "step 's1' at fan.py:13\nreplayed 1 execution: none diverged\n"
    assert "fan.py(13)fan()\n-> return sum(await asyncio.gather(" in done.out and "(Pdb) 3\n" in done.out


async def test_what_other_commands_print_is_no_history(polos: Command, client: PolosClient) -> None:
    with polos.worker("charge.py"):
        execution_id = await _invoke(polos, 7)
        await _parked(client, execution_id)
    shown = (await polos("show", execution_id, "--json")).out
    listed = (await polos("list", "--json")).out
    exported = (await polos("export", execution_id)).out
    without = "without the stored bytes that a replay needs: write the file with polos export"
    for content, said in (
        (shown, f"x.json:1 is what polos show --json prints, {without} {execution_id}"),
        (
            json.dumps(json.loads(shown)),
            f"x.json:1 is what polos show --json prints, {without} {execution_id}",
        ),
        (listed, "x.json:1 is what polos list --json prints: write the file with polos export"),
        (json.dumps(json.loads(exported), indent=1), "x.json:1 is a history on several lines: put it on one"),
        (exported + "\n" + shown, "x.json:3 is what polos show --json prints"),
        ('{\n "a": 1\n}\n', "x.json:1 is not a history: write it with polos export"),
        ("[\n1,\n", "x.json:1 is not a history: write it with polos export"),
    ):
        (polos.folder / "x.json").write_text(content)
        done = await polos("replay", "charge.py", "x.json")
        assert done.code == 1 and done.sentence.startswith(f"polos: {said}"), done


FAN = """
import asyncio

from polos_redis import WorkflowContext, workflow


async def same(number: int) -> int:
    return number


@workflow
async def fan(ctx: WorkflowContext, count: int) -> int:
    return sum(await asyncio.gather(*(ctx.step.run(f"s{n}", same, n) for n in range(count))))
"""


def test_wrong_usage_is_one_sentence(polos: Command) -> None:
    (polos.folder / "empty.jsonl").write_text("\n")
    (polos.folder / "other.jsonl").write_text('\n{"a": 1}\n')
    (polos.folder / "torn.jsonl").write_text('{"polos_history": 1, "id"')
    for args, code, sentence in (
        (("export",), 2, "polos: export needs the ids of executions, or --workflow, and not both"),
        (("export", "a", "--workflow", "b"), 2, "polos: export needs the ids of executions, or --workflow"),
        (("export", "a", "--status", "failed"), 2, "polos: --status is for --workflow"),
        (("export", "gone"), 1, "polos: there is no execution 'gone' in this namespace"),
        (("replay", "charge.py", "gone"), 1, "polos: there is no execution 'gone' in this namespace"),
        (("replay", "charge.py", "gone.jsonl"), 2, "polos: no such file: gone.jsonl"),
        (("replay", "charge.py", "x", "--step", "a"), 2, "polos: --step is for --debug"),
        (("replay", "none.py", "empty.jsonl"), 2, "polos: no such file: none.py"),
        (("replay", "charge.py", "empty.jsonl"), 1, "polos: empty.jsonl has no history"),
        (("replay", "charge.py", "other.jsonl"), 1, "polos: other.jsonl:2 is not a history"),
        (("replay", "charge.py", "torn.jsonl"), 1, "polos: torn.jsonl:1 is not a history, which"),
    ):
        done = polos.run(*args)
        assert done.code == code, (args, done)
        assert done.sentence.startswith(sentence), done.sentence
