"""The `polos` command as a whole: help, version, and how it tells what went wrong."""

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
    """The command where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it
        yield Command(f"redis://someone:secret@127.0.0.1:{taken.getsockname()[1]}/0", "offline", tmp_path)


def test_version(offline: Command) -> None:
    assert offline.run("--version").out == f"polos-redis {__version__}\n"


def test_help_lists_every_command_in_whole_lines(offline: Command) -> None:
    told = offline.run("--help")
    assert told.code == 0
    assert "..." not in told.out.partition("Commands:")[2]
    for name in COMMANDS:
        assert f"\n  {name} " in told.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(offline: Command, name: str) -> None:
    told = offline.here(name, "--help")
    assert told.code == 0
    assert f"    polos {name}" in told.out
    assert "--json" in told.out


def test_wrong_use_is_exit_code_2(offline: Command) -> None:
    assert offline.here("nonsense").code == 2
    assert offline.here("show").code == 2
    assert offline.here("list", "--status", "asleep").code == 2
    assert offline.here("list", "--limit", "0").code == 2


@pytest.mark.failure(14)
@pytest.mark.parametrize("arguments", TALKING)
def test_no_redis_is_one_sentence_that_names_it_and_no_password(
    offline: Command, arguments: tuple[str, ...]
) -> None:
    done = offline.run(*arguments, "--patience", "0.1")
    assert done.code == 1
    assert offline.environment["POLOS_REDIS_URL"].rpartition("@")[2].removesuffix("/0") in done.sentence
    assert "secret" not in done.sentence


def test_a_worker_without_redis_says_so(offline: Command, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("from polos_redis import workflow\n@workflow\nasync def f(ctx): ...\n")
    done = offline.run("worker", "flow.py", "--patience", "0.1")
    assert done.code == 1
    assert "127.0.0.1" in done.sentence
    assert "secret" not in done.sentence


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "nonsense://x"), "redis://"),
        (("--namespace", "a b"), "namespace 'a b' can't be used"),
    ],
)
def test_an_option_that_cannot_work_is_one_sentence(
    offline: Command, arguments: tuple[str, ...], said: str
) -> None:
    done = offline.here("list", *arguments)
    assert done.code == 1
    assert said in done.sentence


async def test_the_options_win_over_the_environment(offline: Command, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await client.invoke("cli-nobody", {"x": 1})
        listed = await offline("list", "--url", redis_url, "--namespace", namespace, "--json")
        assert [row["id"] for row in json.loads(listed.out)["executions"]] == [handle.id]
        await client.cancel(handle.id)
