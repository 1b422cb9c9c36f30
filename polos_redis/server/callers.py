"""Callers: the sender of a request, identified by API key, signed link, session or loopback address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polos_redis.apikeys import ApiKey
from polos_redis.links import Link


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request and their scopes.

    `name` and `groups` are compared with a suspension's approvers. A caller with a `link` may only read the
    link's suspension, and decide it if the link allows that. One with `workflows` may only see and change
    executions whose root is one of these.
    """

    name: str | None
    groups: tuple[str, ...]
    scopes: frozenset[str]
    source: Literal["key", "session", "link", "dev"]
    key_id: str | None = None
    link: Link | None = None
    workflows: frozenset[str] = frozenset()
    session_id: str = ""

    @classmethod
    def of_key(cls, key: ApiKey, session_id: str = "") -> Caller:
        """The holder of a valid API key, logged in if there is a session."""
        scopes, workflows = frozenset(key.scopes), frozenset(key.workflows)
        source: Literal["key", "session"] = "session" if session_id else "key"
        return cls(
            key.name, key.groups, scopes, source, key_id=key.id, workflows=workflows, session_id=session_id
        )

    def covers(self, workflow_id: str | None) -> bool:
        """Whether the caller may see executions whose root is of this workflow; None is an unknown one."""
        return not self.workflows or workflow_id in self.workflows

    def may(self, scope: str) -> bool:
        """Whether the caller has a scope; admin includes all."""
        return scope in self.scopes or "admin" in self.scopes
