"""`polos demo`: the whole demo in one terminal, and with a second one that answers."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path

import httpx2
import pytest

from tests.harness.command import Command
from tests.harness.keyboard import terminal

END_OF_INPUT = b"\x04"


@pytest.fixture
def polos(tmp_path: Path) -> Command:
    """The command in a shell configured for another server and namespace: the demo uses its own."""
    return Command("redis://127.0.0.1:1/0", "elsewhere", tmp_path)


def test_a_yes_approves_and_the_demo_continues(polos: Command) -> None:
    with terminal(polos, "demo") as person:
        person.wait_for("approve? y/N ")
        assert "╭" in person.screen and "\x1b[" in person.raw.decode()
        assert re.search(r"Amount +\$5,000.00", person.screen)
        person.type(b"perhaps\n")
        person.wait_for("please answer y or n")
        person.type(b"y\n")
        assert person.end() == 0
        assert re.search(r"answer  approved by \S+\s", person.screen)
        assert "Charge completed: ch_cust_123_5000" in person.screen
        assert "elsewhere" not in person.screen


@pytest.mark.parametrize("typed", [b"\n", END_OF_INPUT], ids=["nothing", "end of input"])
def test_anything_but_a_yes_rejects(polos: Command, typed: bytes) -> None:
    with terminal(polos, "demo") as person:
        person.wait_for("approve? y/N ")
        person.type(typed)
        assert person.end() == 0
        assert "Charge rejected: Rejected in the demo" in person.screen
        assert "execute_charge" not in person.screen


def test_another_terminal_may_answer_with_the_printed_line(polos: Command) -> None:
    with terminal(polos, "demo") as person:
        person.wait_for("approve? y/N ")
        line = next(
            row.strip() for row in person.screen.splitlines() if row.strip().startswith("polos resume ")
        )
        program, *arguments = shlex.split(line)
        assert program == "polos"
        answered = polos.run(*arguments, "--by", "ana")
        assert answered.code == 0, answered.err
        assert person.end() == 0
        assert "answer  approved by ana (elsewhere)" in person.screen
        assert "Charge completed: ch_cust_123_5000" in person.screen


def test_a_browser_may_answer_on_the_printed_page(polos: Command) -> None:
    with terminal(polos, "demo") as screen:
        screen.wait_for("y/N")
        page = re.search(r"http://127\.0\.0\.1:\d+/approve/[0-9a-f]{32}", screen.screen)
        assert page is not None
        with httpx2.Client(follow_redirects=True) as browser:
            shown = browser.get(page[0])
            assert "Enterprise annual subscription" in shown.text
            hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', shown.text))
            button = re.search(r'<button class="approve" name="([^"]+)" value="true"', shown.text)
            assert button is not None
            answered = browser.post(str(shown.url), data={**hidden, button[1]: "true"})
        assert answered.status_code == 200
        screen.wait_for("(elsewhere)")
        assert screen.end() == 0
    assert "Charge completed" in screen.screen


def test_ctrl_c_leaves_nothing_behind(polos: Command) -> None:
    with terminal(polos, "demo") as person:
        person.wait_for("approve? y/N ")
        person.type(b"\x03")
        assert person.end() == 128 + signal.SIGINT
        assert "stopped; nothing was left behind" in person.screen
        assert "Traceback" not in person.screen


def test_without_a_terminal_a_flag_decides(polos: Command) -> None:
    approved = polos.run("demo", "--approve", "--by", "ana")
    assert approved.code == 0, approved.err
    story = approved.out.splitlines()
    assert [row.split()[-1] for row in story if row.startswith("  done")] == [
        "validate_charge",
        "execute_charge",
        "send_confirmation",
    ]
    assert "  answer  approved by ana" in story
    assert story[-1] == "Charge completed: ch_cust_123_5000"
    rejected = polos.run("demo", "--reject", "--json")
    assert rejected.code == 0, rejected.err
    assert rejected.json["result"]["status"] == "rejected"
    assert "requires approval" in rejected.err


@pytest.mark.parametrize("flags", [(), ("--approve", "--reject")])
def test_without_a_terminal_or_a_single_flag_it_does_not_hang(polos: Command, flags: tuple[str, ...]) -> None:
    done = polos.run("demo", *flags)
    assert done.code == 2
    assert "--approve" in done.sentence
