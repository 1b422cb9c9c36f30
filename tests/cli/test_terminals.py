"""The command on real terminals: of several widths, without colours, dumb, and of ASCII only."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polos_redis import PolosClient, WorkflowContext, apikeys, workflow
from tests.harness.command import Command
from tests.harness.keyboard import at_terminal, terminal
from tests.harness.running import until, working

LONG = "please look at this closely " * 20
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


@workflow(id="order-that-needs-approval", schedule="0 3 * * *", version="2026-03")
async def order(ctx: WorkflowContext, input: dict[str, str] | None = None) -> str:
    await ctx.step.run("quote", lambda: {"text": LONG})
    answer = await ctx.step.suspend("review", data={"text": LONG}, timeout=7200)
    return str(answer["data"])


@workflow(id="order-that-fails")
async def failing(ctx: WorkflowContext) -> None:
    raise ValueError(LONG)


@pytest.fixture
def polos(redis_url: str, namespace: str, tmp_path: Path) -> Command:
    return Command(redis_url, namespace, tmp_path)


@pytest.fixture
async def ids(client: PolosClient) -> AsyncIterator[dict[str, str]]:
    """A namespace that has something to show for every command."""
    async with working(client, order, failing):
        waiting = await client.invoke(order, {"prompt": LONG})
        answered = await client.invoke(order, {"prompt": LONG})
        failed = await client.invoke(failing)

        async def are_there() -> bool:
            states = [await one.status() for one in (waiting, answered, failed)]
            return states == ["waiting", "waiting", "failed"]

        await until(are_there)
        await client.resume(
            suspend_execution_id=answered.id, suspend_step_key="review", data=LONG, resumed_by="alice"
        )
        await answered.result()
        later = await client.invoke("nobody-serves-this", start_delay=7200)
        await apikeys.create(client, "bob@example.com", ["read"], expires_in=5 * 86400)
        yield {"waiting": waiting.id, "answered": answered.id, "failed": failed.id, "later": later.id}
        await client.cancel(waiting.id)
        await client.cancel(later.id)


TABLES = {  # command: widths of terminals
    "list": (40, 60, 80, 120),
    "workers": (40, 80, 120),
    "queues": (40, 60),
    "versions": (40, 120),
    "keys list": (60, 120),
    "schedules list": (80, 140),
    "audit answered": (40, 120),
}


async def test_rows_are_columns_where_they_fit_and_cards_elsewhere(
    polos: Command, ids: dict[str, str]
) -> None:
    for name, widths in TABLES.items():
        command = [ids.get(word, word) for word in name.split()]
        plain = (await polos(*command)).out.splitlines()
        titles = re.split(r"  +", plain[0])
        labels = tuple(one.lower() for one in titles)
        assert "…" not in "".join(plain)
        for columns in widths:
            shown = await at_terminal(polos, columns, *command)
            lines = [one for one in shown if not one.endswith("--full shows them whole")]
            assert (len(lines) < len(shown)) == ("…" in "".join(lines)), "a hint about what is shortened"
            assert all(len(one) <= columns for one in lines), f"{name} at {columns}:\n" + "\n".join(lines)
            if re.split(r"  +", lines[0]) == titles:
                assert columns > 40 or name == "queues"
                starts = [one.split(" ")[0] for one in plain]
                assert [one.split(" ")[0] for one in lines if one[0] != " "] == starts, "rows are complete"
            else:
                cards = "\n".join(lines).split("\n\n")
                assert len(cards) == len(plain) - 1, name
                assert all(card.startswith(labels[0]) for card in cards), name
                assert all(line.startswith((*labels, "   ")) for card in cards for line in card.splitlines())
                assert columns < 120 or name in ("keys list", "schedules list", "list"), name


async def test_times_are_relative_and_reports_have_both(polos: Command, ids: dict[str, str]) -> None:
    for columns in (40, 140):
        listed = " ".join(" ".join(await at_terminal(polos, columns, "list")).split())
        assert len(re.findall(r"\b(now|\d+ (s|min) ago)\b", listed)) == 6  # 4 created, 2 finished
        assert "UTC" not in listed and "due in 2 h" in listed
        assert "for a person (review) due in 2 h" in listed
    shown = "\n".join(await at_terminal(polos, 80, "show", ids["failed"]))
    assert re.search(r"\nfinished +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \((now|\d+ \w+ ago)\)\n", shown)
    plain = (await polos("list")).out + (await polos("show", ids["failed"])).out
    assert " ago" not in plain and "UTC" in plain
    assert "expires in 5 d" in "\n".join(await at_terminal(polos, 60, "keys", "list"))


async def test_long_values_are_complete_with_full_and_off_a_terminal(
    polos: Command, ids: dict[str, str]
) -> None:
    for command, times in ((("show", ids["answered"]), 5), (("suspensions",), 1)):
        shown = await at_terminal(polos, 80, *command)
        assert LONG.strip() not in "\n".join(shown) and "…" in "\n".join(shown)
        assert all(len(one) <= 3 * 80 for one in shown if not one.startswith(" " * 12))
        assert shown[-1] == "some values are shortened: --full shows them whole"
        for complete in (
            "\n".join(await at_terminal(polos, 80, *command, "--full")),
            (await polos(*command)).out,
            (await polos(*command, "--json")).out,
        ):
            assert complete.count(LONG.strip()) >= times and "…" not in complete, command


async def test_top_fits_its_screen_and_follows_its_width(polos: Command, ids: dict[str, str]) -> None:
    def watch() -> None:
        with terminal(polos, "top", "--interval", "0.2", columns=120, rows=24) as person:
            for columns, rows in ((120, 24), (60, 24), (40, 30), (100, 16)):
                person.resize(columns, rows)
                seen = len(person.screen)
                for _ in range(3):  # frames of this width
                    person.wait_for("executions  ", seen)
                    seen = len(person.screen)
                frame = person.frame
                assert len(frame) <= rows and max(map(len, frame)) <= columns, "\n".join(frame)
                text = " ".join(" ".join(frame).split())
                for fact in ("per second", "1 completed", "default", "alive"):
                    assert fact in text, text
                assert ("WORKFLOWS" in text) == (columns >= 100), text
            person.process.send_signal(signal.SIGINT)
            assert person.end() == 0

    await asyncio.to_thread(watch)


@pytest.mark.parametrize("columns", [40, 60, 120])
async def test_no_line_ends_with_blanks(polos: Command, ids: dict[str, str], columns: int) -> None:
    def raw(*command: str) -> list[str]:
        with terminal(polos, *command, columns=columns) as person:
            person.end()
            return person.screen.replace("\r\n", "\n").split("\n")

    for name in (*TABLES, "show answered", "show failed", "suspensions", "doctor"):
        command = [ids.get(word, word) for word in name.split()]
        for line in await asyncio.to_thread(raw, *command):
            assert line == line.rstrip(), (name, line)


async def test_without_colours_nothing_is_coloured(polos: Command, ids: dict[str, str]) -> None:
    def raw(**environment: str) -> str:
        with terminal(polos, "list", columns=120, environment=environment) as person:
            assert person.end() == 0
            return person.raw.decode()

    coloured = re.compile(r"\x1b\[(\d+;)*[34]\d")
    assert coloured.search(await asyncio.to_thread(raw))
    assert not coloured.search(await asyncio.to_thread(lambda: raw(NO_COLOR="1")))


async def test_a_dumb_terminal_gets_no_escapes_and_one_overview(polos: Command, ids: dict[str, str]) -> None:
    def raw(*command: str) -> str:
        with terminal(polos, *command, columns=80, environment={"TERM": "dumb"}) as person:
            assert person.end() == 0
            return person.raw.decode()

    for command in (("list",), ("show", ids["answered"]), ("top",), ("suspensions",)):
        found = await asyncio.to_thread(raw, *command)
        assert "\x1b" not in found and found.strip(), command


@pytest.mark.parametrize("columns", [40, 120])
async def test_a_terminal_of_ascii_gets_ascii(polos: Command, ids: dict[str, str], columns: int) -> None:
    for command in (("list",), ("show", ids["answered"]), ("suspensions",), ("audit", ids["answered"])):
        shown = "\n".join(await at_terminal(polos, columns, *command, environment=ASCII))
        assert shown.isascii(), command
        assert "..." in shown or command == ("list",)


async def test_the_doctor_wraps_its_findings(polos: Command, ids: dict[str, str]) -> None:
    def run(columns: int) -> list[str]:
        with terminal(polos, "doctor", columns=columns) as person:
            person.end()
            return person.lines

    plain = (await polos("doctor")).out
    words = {word for word in plain.split() if not re.search(r"\d", word)}
    for columns in (40, 60, 80, 120):
        shown = await asyncio.to_thread(run, columns)
        assert words <= set(" ".join(shown).split()), "every word is there"
        findings = shown[2 : shown.index("", 2)]
        assert all(len(one) <= columns or len(one.split()) == 1 for one in findings), "\n".join(findings)
