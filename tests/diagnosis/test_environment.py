"""The checks of a process' settings."""

from __future__ import annotations

import re

import pytest

from polos_redis import PolosClient
from polos_redis.diagnosis.environment import OTHERS, check_environment, effective_settings
from polos_redis.settings import OPTIONS
from tests import ROOT

URL = "redis://app:hunter2hunter2@localhost:6379/0"


def client(url: str = URL) -> PolosClient:
    return PolosClient(url, "doctor")


@pytest.mark.parametrize(
    ("name", "value", "level", "found", "remedy"),
    [
        (
            "POLOS_LEASE_SECONDS",
            "soon",
            "problem",
            "must be a positive number",
            "unset it",
        ),
        ("POLOS_SECRET", "short", "problem", "at least 32 characters", "unset it"),
        ("POLOS_REDIS_ULR", "x", "warning", "is not one of polos-redis", "did you mean POLOS_REDIS_URL?"),
        ("POLOS_NAMSPACE", "x", "warning", "is not one of polos-redis", "did you mean POLOS_NAMESPACE?"),
        ("POLOS_PUBLIC_URL", "https://a.example", "warning", "POLOS_SECRET is not", "set POLOS_SECRET"),
    ],
)
def test_a_wrong_variable_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, level: str, found: str, remedy: str
) -> None:
    assert [one.level for one in check_environment(client())] == ["ok"]
    monkeypatch.setenv(name, value)
    (one,) = check_environment(client())
    assert one.level == level and found in one.found and remedy in one.remedy
    if name == "POLOS_SECRET":
        assert value not in str(one)


@pytest.mark.parametrize(
    "name", ["POLOS_SERVICE_HOST", "POLOS_PORT_8000_TCP", "POLOS_WORKER_IMAGE", "POLOS_X"]
)
def test_variables_of_others_are_no_mistake(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kubernetes sets some for a service of this name."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:8000")
    assert [one.level for one in check_environment(client())] == ["ok"]


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("redis://redis.internal:6379/0", True),
        ("redis://:pw@redis.internal:6379/0", False),
        ("redis://localhost:6379/0", False),
        ("unix:///tmp/x.sock", False),
        ("redis+cluster://a.internal:1,b.internal:2", True),
    ],
)
def test_a_server_without_a_password_is_found(url: str, warned: bool) -> None:
    (one,) = check_environment(client(url))
    assert (one.level == "warning" and "no password" in one.found) == warned


def test_settings_have_their_sources_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLOS_SECRET", "s" * 40)
    monkeypatch.setenv("POLOS_CONCURRENCY", "7")
    found = {one["name"]: one for one in effective_settings(client())}
    assert found.keys() == OPTIONS.keys()
    assert (found["secret"]["value"], found["secret"]["source"]) == ("set", "environment")
    assert (found["concurrency"]["value"], found["concurrency"]["source"]) == (7, "environment")
    assert (found["url"]["value"], found["url"]["source"]) == ("localhost:6379", "argument")
    assert (found["lease_seconds"]["value"], found["lease_seconds"]["source"]) == (15.0, "default")
    assert "hunter2" not in str(found) and "s" * 40 not in str(found)


def test_every_variable_that_is_read_is_known() -> None:
    """Else a misspelt one would not be noticed, or a right one corrected."""
    read = set()
    for folder in ("polos_redis", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            read |= {word for word in _words(path.read_text("utf-8")) if path.name != "environment.py"}
    assert read <= {*(option.environment for option in OPTIONS.values()), *OTHERS}


def _words(source: str) -> set[str]:
    return set(re.findall(r"[\"']?(POLOS_[A-Z_]*[A-Z])\b", source))
