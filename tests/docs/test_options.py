"""The table of options in the documentation matches the code."""

from __future__ import annotations

import pytest

from polos_redis import ConfigurationError, PolosClient
from polos_redis.settings import OPTIONS, resolve
from tests import ROOT

PAGE = (ROOT / "docs/reference/options.md").read_text("utf-8")


@pytest.mark.parametrize("option", OPTIONS.values(), ids=list(OPTIONS))
def test_every_option_is_listed(option: object) -> None:
    default = OPTIONS[option.name].default  # type: ignore[attr-defined]
    shown = f"{default:.10g}" if isinstance(default, float) else str(default)
    documented = OPTIONS[option.name]  # type: ignore[attr-defined]
    assert f"| `{documented.name}` | `{documented.environment}` | `{shown}` | {documented.meaning} |" in PAGE


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLOS_CONCURRENCY", "7")
    assert resolve("concurrency") == 7
    assert resolve("concurrency", 3) == 3


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "nan", "inf", "1e400"])
def test_an_invalid_number_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POLOS_CONCURRENCY", value)
    with pytest.raises(ConfigurationError, match="POLOS_CONCURRENCY must be a positive whole number"):
        resolve("concurrency")


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "a b", "a\n", "x" * 201])
def test_a_namespace_that_breaks_its_keys_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError):
        PolosClient(namespace=namespace)


def test_an_invalid_url_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        PolosClient("http://user:secret@host")
    assert "secret" not in str(caught.value)
