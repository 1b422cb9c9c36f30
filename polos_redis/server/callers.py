"""Callers: the sender of a request, identified by API key, signed link, session or loopback address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polos_redis.links import Link


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request and their scopes.

    `name` and `groups` are compared with a suspension's approvers. A caller with a `link` may only read the
    link's suspension, and decide it if the link allows that.
    """

    name: str | None
    groups: tuple[str, ...]
    scopes: frozenset[str]
    source: Literal["key", "session", "link", "dev"]
    key_id: str | None = None
    link: Link | None = None

    def may(self, scope: str) -> bool:
        """Whether the caller has a scope; admin includes all."""
        return scope in self.scopes or "admin" in self.scopes
