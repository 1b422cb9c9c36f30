"""Completion: in a real bash, and what zsh and fish ask for."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import typer.main

from polos_redis import PolosClient, WorkflowContext, schedules, workflow
from polos_redis.cli import completion
from polos_redis.errors import ExecutionFinishedError
from tests.harness.command import POLOS, Command
from tests.harness.keyboard import terminal
from tests.harness.running import until, working

Complete = Callable[[typer.Context, str], list[tuple[str, str]]]
IDS = ("show", "events", "tail", "cancel", "export")


@workflow(id="approval-to-complete")
async def approval(ctx: WorkflowContext) -> None:
    await ctx.step.suspend("review", timeout=600)


@workflow(id="failing-to-complete")
async def failing(ctx: WorkflowContext) -> None:
    raise LookupError("no ink")


@workflow(id="exhausted-to-complete", on_exhausted="pause")
async def exhausted(ctx: WorkflowContext) -> None:
    raise LookupError("no ink")


@workflow(id="parent-to-complete")
async def parent(ctx: WorkflowContext) -> None:
    await ctx.step.invoke_and_wait("child", approval)


@workflow(id="internal-to-complete", internal=True)
async def internal(ctx: WorkflowContext) -> None:
    pass


@workflow(id="scheduled-to-complete", schedule="0 3 * * *")
async def scheduled(ctx: WorkflowContext) -> None:
    pass


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


async def completed(polos: Command, *words: str, **environment: str) -> list[str]:
    """The completions of the last word, as the script of bash asks for them."""
    before = polos.environment
    polos.environment = before | {
        "_POLOS_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("polos", *words)),
        "COMP_CWORD": str(len(words)),
        **environment,
    }
    try:
        done = await polos()
    finally:
        polos.environment = before
    assert done.err == ""
    return done.out.split()


async def completed_of_one(polos: Command, complete: Complete, word: str) -> list[str]:
    """The completions of a word as if more executions were newer than those that are listed first."""
    context = typer.Context(typer.main.get_command(typer.Typer(callback=print)))
    context.params = {"url": url_of(polos), "namespace": polos.environment["POLOS_NAMESPACE"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion, "MOST", 1)
        patch.setattr(completion, "SECONDS", 20.0)
        return [one for one, _ in await asyncio.to_thread(complete, context, word)]


def test_a_real_bash_completes(polos: Command) -> None:
    """From the installation to the keys that a person presses."""
    home = polos.folder
    environment = {"HOME": str(home), "PS1": "$ ", "PATH": f"{Path(POLOS).parent}:/usr/bin:/bin"}

    async def start() -> str:
        async with PolosClient(url_of(polos), polos.environment["POLOS_NAMESPACE"]) as client:
            return (await client.invoke("nobody-serves-this")).id

    execution_id = asyncio.run(start())
    bash = shutil.which("bash")
    assert bash is not None
    with terminal(polos, "--norc", "--noprofile", "-i", environment=environment, program=bash) as person:
        person.wait_for("$ ")
        person.type(b"polos --install-completion\n")
        person.wait_for("bash completion installed")
        person.type(b"source ~/.bashrc; bind 'set enable-bracketed-paste off'; echo re''ady\n")
        person.wait_for("ready")
        for typed, whole in (
            ("polos susp", "polos suspensions "),
            ("polos list --sta", "polos list --status "),
            ("polos list --status pau", "polos list --status paused "),
            ("polos schedules pa", "polos schedules pause "),
            (f"polos show {execution_id[:6]}", f"polos show {execution_id} "),
            ("polos list --workflow nob", "polos list --workflow nobody-serves-this "),
        ):
            seen = len(person.screen)
            person.type(typed.encode() + b"\t")
            person.wait_for(whole, seen)
            person.type(b"\x15")  # Ctrl-U: a new line
        person.type(b"exit\n")
        assert person.end() == 0

    async def stop() -> None:
        async with PolosClient(url_of(polos), polos.environment["POLOS_NAMESPACE"]) as client:
            await client.cancel(execution_id)

    asyncio.run(stop())


def url_of(polos: Command) -> str:
    return polos.environment["POLOS_REDIS_URL"]


@pytest.mark.parametrize("command", IDS)
async def test_ids_are_completed(polos: Command, client: PolosClient, command: str) -> None:
    handles = [await client.invoke("nobody-serves-this", {"n": n}) for n in range(3)]
    ids = [one.id for one in reversed(handles)]
    assert sorted(await completed(polos, command, "")) == sorted(ids)
    assert await completed(polos, command, ids[1][:12]) == [ids[1]]
    for one in ids:
        await client.cancel(one)


async def test_only_ids_that_a_command_can_use_are_completed(polos: Command, client: PolosClient) -> None:
    async with working(client, approval, failing, exhausted, parent):
        handles = {
            "waiting": await client.invoke(approval),
            "completed": await client.invoke(approval),
            "failed": await client.invoke(failing),
            "paused": await client.invoke(exhausted),
            "queued": await client.invoke("nobody-serves-this"),
            "cancelled": await client.invoke("nobody-serves-this"),
            "parent": await client.invoke(parent),
        }
        ids = {name: handle.id for name, handle in handles.items()}
        await client.cancel(ids["cancelled"])

        async def are_there() -> bool:
            found = [row.step_key for row in await client.list_suspensions()]
            states = [await handles[name].status() for name in ("failed", "paused")]
            return found == ["review"] * 3 and states == ["failed", "paused"]

        await until(are_there)
        await client.resume(suspend_execution_id=ids["completed"], suspend_step_key="review", data=1)
        await handles["completed"].result()
        (child,) = (await client.get_execution(ids["parent"])).children
        ids["child"] = child.id
        unfinished = {"waiting", "paused", "queued", "parent", "child"}
        expected = {
            "show": ids.keys(),
            "events": ids.keys(),
            "audit": ids.keys(),
            "fork": ids.keys(),
            "export": ids.keys(),
            "tail": unfinished,
            "cancel": unfinished,
            "resume": {"waiting", "child"},
            "link": {"waiting", "child"},
            "retry": {"failed", "paused"},
            "delete": {"completed", "failed", "cancelled"},
        }
        for command, names in expected.items():
            assert sorted(await completed(polos, command, "")) == sorted(ids[name] for name in names), command
        old = {
            completion.execution_ids: expected["show"],
            completion.unfinished_ids: expected["cancel"],
            completion.answerable_ids: expected["resume"],
            completion.retryable_ids: expected["retry"],
            completion.deletable_ids: expected["delete"],
        }
        for complete, names in old.items():
            for name in ids.keys() - {"parent", "child"}:
                found = await completed_of_one(polos, complete, ids[name][:12])
                assert found == [ids[name]] * (name in names), (complete, name)
            of_child = await completed_of_one(polos, complete, ids["child"][:40])
            assert of_child == [ids["child"]] * ("child" in names), complete
        assert sorted(await completed(polos, "resume", "--early", "")) == sorted(ids[x] for x in unfinished)
        for name in unfinished:
            with contextlib.suppress(ExecutionFinishedError):  # a parent fails with its child
                await client.cancel(ids[name])


async def test_an_old_id_is_completed(polos: Command, client: PolosClient) -> None:
    old = await client.invoke("nobody-serves-this")
    handles = [await client.invoke("nobody-serves-this") for _ in range(completion.MOST)]
    assert old.id not in await completed(polos, "show", "")
    assert await completed(polos, "show", old.id[:10]) == [old.id]
    for one in (old, *handles):
        await client.cancel(one.id)


async def test_what_is_named_before_and_options_count(polos: Command, client: PolosClient) -> None:
    async with working(client, approval):
        asked = await client.invoke(approval)

        async def waits() -> bool:
            return await asked.status() == "waiting"

        await until(waits)
        for given in (asked.id, asked.id[:12]):
            assert await completed(polos, "resume", given, "") == ["review"]
        assert await completed(polos, "invoke", "app") == ["approval-to-complete"]
        namespace = polos.environment.pop("POLOS_NAMESPACE")
        for option in ("--namespace", "-"):
            found = await completed(polos, "show", option, *([namespace, ""] if option != "-" else []))
            assert (asked.id in found) == (option == "--namespace")
            assert option != "-" or {"--url", "--full", "--json"} <= set(found)
        polos.environment["POLOS_NAMESPACE"] = namespace
        await client.cancel(asked.id)


async def test_schedules_and_workflows_that_a_command_can_use_are_completed(
    polos: Command, client: PolosClient
) -> None:
    async with working(client, internal, scheduled):
        (schedule,) = await schedules.list(client)
        for is_paused in (False, True):
            if is_paused:
                await schedules.pause(client, schedule.id)
            for command, completes in (("pause", not is_paused), ("resume", is_paused), ("delete", True)):
                expected = [schedule.id] if completes else []
                assert await completed(polos, "schedules", command, "") == expected, command
        assert await completed(polos, "invoke", "") == ["scheduled-to-complete"]
        listed = await completed(polos, "list", "--workflow", "")
        assert listed == ["internal-to-complete", "scheduled-to-complete"]


async def test_zsh_and_fish_get_what_they_ask_for(polos: Command, client: PolosClient) -> None:
    handle = await client.invoke("nobody-serves-this", start_delay=600)
    polos.environment |= {"_POLOS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "polos show "}
    assert f'"{handle.id}":"queued"' in (await polos()).out
    polos.environment |= {"_POLOS_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert (await polos()).out == f"{handle.id}\tqueued\n"
    for name in ("_POLOS_COMPLETE", "_TYPER_COMPLETE_ARGS", "_TYPER_COMPLETE_FISH_ACTION"):
        del polos.environment[name]
    await client.cancel(handle.id)


@pytest.mark.threat(21)
async def test_no_name_that_a_shell_would_run_is_completed(polos: Command, client: PolosClient) -> None:
    """zsh evaluates what is completed, and whoever may invoke chooses the workflow's id."""
    names = ["plain-name", "x$(touch owned)", "`touch owned`", 'a"; touch owned; "', "a b", "\x1b[2J", "é'"]
    handles = [await client.invoke(one) for one in names]
    for shell in ("bash", "zsh", "fish"):
        polos.environment |= {
            "_POLOS_COMPLETE": f"complete_{shell}",
            "_TYPER_COMPLETE_ARGS": "polos invoke ",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "COMP_WORDS": "polos invoke ",
            "COMP_CWORD": "2",
        }
        found = (await polos()).out
        assert "plain-name" in found and not re.search(r"touch|\x1b|a b|é", found), shell
    for one in handles:
        await client.cancel(one.id)


def test_without_redis_nothing_is_completed_and_nothing_said(tmp_path: Path) -> None:
    polos = Command("redis://127.0.0.1:1/0", "offline", tmp_path)
    del polos.environment["POLOS_PATIENCE_SECONDS"]
    for words in (("show", ""), ("show", "3f2a"), ("resume", "0" * 32, ""), ("invoke", "")):
        assert asyncio.run(completed(polos, *words)) == []
    assert asyncio.run(completed(polos, "show", "--url", "nonsense", "")) == []
