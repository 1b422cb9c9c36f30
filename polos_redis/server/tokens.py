"""Tokens of approval links inside data, which only callers who may decide get to see."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from polos_redis.server.callers import Caller

FIELD = "_approval_url"


def for_caller(caller: Caller, value: Any) -> Any:
    """A plain JSON value, with the tokens removed unless the caller has the scope approve."""
    return value if caller.may("approve") else _without_tokens(value)


def _without_tokens(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_tokens(item) for item in value]
    if isinstance(value, dict):
        return {
            name: _without_token(item) if name == FIELD and isinstance(item, str) else _without_tokens(item)
            for name, item in value.items()
        }
    return value


def _without_token(url: str) -> str:
    """A URL without its token; "" if it is malformed."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    query = [(name, text) for name, text in parse_qsl(parts.query, keep_blank_values=True) if name != "token"]
    return parts._replace(query=urlencode(query), fragment="").geturl()
