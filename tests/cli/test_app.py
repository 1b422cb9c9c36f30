"""The `polos` command as a whole: help, version and errors."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from polos_redis import PolosClient, __version__
from tests.harness.command import Command

COMMANDS = ("demo", "worker", "invoke", "list", "show", "events", "cancel", "suspensions", "resume")
TALKING = (
    ("invoke", "some"),
    ("list",),
    ("events", "x"),
    ("resume", "x", "k", "--approve"),
)


@pytest.fixture
def offline(tmp_path: Path) -> Iterator[Command]:
    """The command, with nothing listening at its Redis address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening, so nobody else gets the port
        yield Command(f"redis://someone:secret@127.0.0.1:{unused.getsockname()[1]}/0", "offline", tmp_path)


def test_version_is_printed(offline: Command) -> None:
    assert offline.run("--version").out == f"polos-redis {__version__}\n"


def test_help_lists_every_command_in_whole_lines(offline: Command) -> None:
    shown = offline.run("--help")
    assert shown.code == 0
    assert "..." not in shown.out.partition("Commands:")[2]
    for name in COMMANDS:
        assert f"\n  {name} " in shown.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(offline: Command, name: str) -> None:
    shown = offline.here(name, "--help")
    assert shown.code == 0
    assert f"    polos {name}" in shown.out
    assert "--json" in shown.out


def test_wrong_use_exits_with_2(offline: Command) -> None:
    assert offline.here("nonsense").code == 2
    assert offline.here("show").code == 2
    assert offline.here("list", "--status", "asleep").code == 2
    assert offline.here("list", "--limit", "0").code == 2


@pytest.mark.failure(14)
@pytest.mark.parametrize("arguments", TALKING)
def test_without_redis_one_sentence_names_it_and_no_password(
    offline: Command, arguments: tuple[str, ...]
) -> None:
    done = offline.run(*arguments, "--patience", "0.1")
    assert done.code == 1
    assert offline.environment["POLOS_REDIS_URL"].rpartition("@")[2].removesuffix("/0") in done.sentence
    assert "secret" not in done.sentence


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "nonsense://x"), "redis://"),
        (("--namespace", "a b"), "invalid namespace 'a b'"),
    ],
)
def test_an_invalid_option_is_one_sentence(offline: Command, arguments: tuple[str, ...], said: str) -> None:
    done = offline.here("list", *arguments)
    assert done.code == 1
    assert said in done.sentence


async def test_options_win_over_the_environment(offline: Command, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await client.invoke("cli-nobody", {"x": 1})
        listed = await offline("list", "--url", redis_url, "--namespace", namespace, "--json")
        assert [row["id"] for row in json.loads(listed.out)["executions"]] == [handle.id]
        await client.cancel(handle.id)
