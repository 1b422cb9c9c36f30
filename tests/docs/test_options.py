"""The documentation's one table of options is the table in the code."""

from __future__ import annotations

import pytest

from polos_redis import ConfigurationError, PolosClient
from polos_redis.settings import OPTIONS, resolve
from tests import ROOT

PAGE = (ROOT / "docs/reference/options.md").read_text("utf-8")


@pytest.mark.parametrize("option", OPTIONS.values(), ids=list(OPTIONS))
def test_the_page_has_every_option(option: object) -> None:
    default = OPTIONS[option.name].default  # type: ignore[attr-defined]
    shown = f"{default:.10g}" if isinstance(default, float) else str(default)
    o = OPTIONS[option.name]  # type: ignore[attr-defined]
    assert f"| `{o.name}` | `{o.environment}` | `{shown}` | {o.meaning} |" in PAGE


def test_environment_gives_way_to_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLOS_CONCURRENCY", "7")
    assert resolve("concurrency") == 7
    assert resolve("concurrency", 3) == 3


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "nan", "inf", "1e400"])
def test_a_bad_number_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POLOS_CONCURRENCY", value)
    with pytest.raises(ConfigurationError, match="POLOS_CONCURRENCY must be a positive whole number"):
        resolve("concurrency")


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "a b", "a\n", "x" * 201])
def test_a_namespace_that_breaks_its_keys_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError):
        PolosClient(namespace=namespace)


def test_a_bad_url_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        PolosClient("http://user:secret@host")
    assert "secret" not in str(caught.value)
