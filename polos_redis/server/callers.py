"""Callers: the sender of a request, identified by a key, a link, a cookie or a developer's own machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polos_redis.links import Link


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request and their scopes.

    Approvers are compared with `name` and `groups`. With a `link` the caller may see its suspension, decide
    it if the link says so, and nothing else.
    """

    name: str | None
    groups: tuple[str, ...]
    scopes: frozenset[str]
    source: Literal["key", "session", "link", "dev"]
    key_id: str | None = None
    link: Link | None = None

    def may(self, scope: str) -> bool:
        """Whether the caller has a scope; admin has all."""
        return scope in self.scopes or "admin" in self.scopes
