"""Tokens and secrets are removed from whatever people read, and nothing else is."""

from __future__ import annotations

import json
import logging
import re
import secrets
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis.links import Links
from polos_redis.logs import JsonFormatter, KeyValueFormatter
from polos_redis.redaction import may_have_secrets, redact, redact_json, redact_text
from polos_redis.values import codec
from polos_redis.values.plain import readable

LINKS = Links(["a secret of more than 32 characters"], "shop", "https://polos.example.com", 3600)
CREATED = datetime(2026, 3, 2, 9, 14, 7, 312_459, UTC)

step_keys = st.text(min_size=1, max_size=300)
tokens = st.builds(
    lambda key, name: LINKS.token("0123456789abcdef" * 2, key, 1, CREATED, name=name),
    step_keys,
    st.none() | st.sampled_from(["bob", "Zoë"]),
)
keys = st.builds(
    lambda name, random: f"polos_{name.hex()}_{random}",
    st.binary(min_size=8, max_size=8),
    st.builds(lambda _: secrets.token_urlsafe(32), st.none()),
)
sensitive = tokens | keys
around = st.text(max_size=20)  # may also touch what it surrounds
PIECES = re.compile(r"polos_link_[\w.-]{40}|polos_[0-9a-f]{16}_[\w-]{32}", re.ASCII)


def values(leaf: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | leaf
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(leaf, inner, max_size=4)
    )


@given(around, sensitive, around)
def test_no_text_keeps_a_secret(before: str, secret: str, after: str) -> None:
    found = redact_text(before + secret + after)
    assert secret not in found and not PIECES.search(found)


@pytest.mark.failure(49)
@pytest.mark.threat(14)
@given(values(st.builds(lambda *parts: "".join(parts), around, sensitive, around)))
def test_no_value_keeps_a_secret(value: Any) -> None:
    for text in (json.dumps(redact(value)), redact_text(json.dumps(value)), redact_json(json.dumps(value))):
        assert not PIECES.search(text)
        json.loads(text)
    assert not PIECES.search(json.dumps(readable(codec.encode(value))))


@given(values(st.text(max_size=30) | st.sampled_from(["polos_redis", "polos_link_", "a polos_link_expiry"])))
def test_everything_else_is_kept(value: Any) -> None:
    assert redact(value) == value
    assert json.loads(redact_text(json.dumps(value))) == value
    assert readable(codec.encode(value)) == codec.to_plain(codec.encode(value))
    assert not may_have_secrets(codec.encode(value)), "so that it is not searched at all"


@given(sensitive, st.integers(1, 6))
def test_a_secret_that_lost_its_end_is_removed_too(secret: str, lost: int) -> None:
    assert not PIECES.search(redact_text(secret[:-lost]))


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("https://x.example/approve/1/ok?token={}", "https://x.example/approve/1/ok"),
        ("https://x.example/approve/1/ok?token={}&theme=dark", "https://x.example/approve/1/ok?theme=dark"),
        ("https://x.example/a?theme=dark&token={}#top", "https://x.example/a?theme=dark#top"),
        ("Bearer {}", "Bearer [redacted link]"),
        ("https%3A%2F%2Fx.example%2Fa%3Ftoken%3D{}", "https%3A%2F%2Fx.example%2Fa%3Ftoken%3D[redacted link]"),
    ],
)
def test_a_url_without_its_token_still_works(url: str, left: str) -> None:
    token = LINKS.token("0123456789abcdef" * 2, "ok", 1, CREATED)
    assert redact_text(url.format(token)) == left
    assert redact_text(f"<{url.format(token)}>") == f"<{left}>"


def test_a_suspend_events_own_link_can_be_kept() -> None:
    link = LINKS.url("0123456789abcdef" * 2, "ok", 1, CREATED)
    event = {"data": {"_approval_url": link, "note": f'"_approval_url": "{link}"', "other": [link]}}
    rendered = json.dumps(event)
    kept = json.loads(redact_json(rendered))["data"]
    assert kept["_approval_url"] == link
    assert not PIECES.search(kept["note"]) and not PIECES.search(kept["other"][0])
    assert not PIECES.search(redact_text(rendered))


@pytest.mark.threat(31)
@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter()])
def test_no_log_line_contains_a_secret(formatter: logging.Formatter) -> None:
    token = LINKS.token("0123456789abcdef" * 2, "ok", 1, CREATED)
    secret = f"polos_{'0' * 16}_{secrets.token_urlsafe(32)}"
    try:
        raise ValueError(f"refused {secret}")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("polos.worker", logging.ERROR, "", 1, "sent %s", (f"x?token={token}",), info)
    record.links = {"all": [token, secret]}
    line = formatter.format(record)
    assert "refused [redacted key]" in line and not PIECES.search(line)
