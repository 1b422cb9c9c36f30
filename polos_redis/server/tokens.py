"""Approval links inside data: only those who may decide are given the token in them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from polos_redis.server.callers import Caller

FIELD = "_approval_url"


def for_caller(caller: Caller, value: Any) -> Any:
    """A plain JSON value as this caller may have it."""
    return value if caller.may("approve") else _without_tokens(value)


def _without_tokens(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_tokens(item) for item in value]
    if isinstance(value, dict):
        return {
            name: _cut(item) if name == FIELD and isinstance(item, str) else _without_tokens(item)
            for name, item in value.items()
        }
    return value


def _cut(url: str) -> str:
    """A URL without its token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    query = [(name, text) for name, text in parse_qsl(parts.query, keep_blank_values=True) if name != "token"]
    return parts._replace(query=urlencode(query), fragment="").geturl()
