"""`import polos_redis` stays light: a service that only starts workflows loads nothing else."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest


@functools.cache
def _imported(source: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", source], capture_output=True, text=True, check=True
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("heavy", ["openai", "fastapi", "starlette", "typer", "rich", "pydantic", "redis"])
def test_the_import_is_light(heavy: str) -> None:
    assert heavy not in _imported("import polos_redis")


def test_every_public_name_can_be_imported() -> None:
    source = "import polos_redis\nfor name in polos_redis.__all__: getattr(polos_redis, name)"
    imported = _imported(source)
    assert "polos_redis.worker.worker" in imported
    assert not {"openai", "fastapi", "typer", "rich"} & imported


def test_an_unknown_name_raises_a_plain_error() -> None:
    import polos_redis

    with pytest.raises(AttributeError, match="module 'polos_redis' has no attribute 'nothing'"):
        _ = polos_redis.nothing


@pytest.mark.parametrize("heavy", ["openai", "httpx", "httpx2", "fastapi", "typer", "rich", "redis"])
def test_an_agent_is_light(heavy: str) -> None:
    """Covers code that only defines and calls agents, without tools or output types."""
    assert heavy not in _imported(_AGENT)


def test_an_agent_without_types_needs_no_pydantic() -> None:
    assert "pydantic" not in _imported(_AGENT)


_AGENT = """
import polos_redis.agents
polos_redis.Agent(id="light", model="gpt-4o", provider="openai").with_input("Hi")
polos_redis.Agent(id="lighter", model="gpt-4o", provider="openai-responses").with_input("Hi")
"""
