"""Signed links: each lets whoever has it view, or answer, one suspension of one run.

A token is signed with HMAC-SHA-256 under a key derived from the secret and the namespace, and expires.
Nothing is stored, so the only way to revoke links is to change the secret, which revokes all of them. To
rotate the secret without that, configure the new and the old one: the first signs, all verify.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from polos_redis import settings
from polos_redis.decisions.people import check_groups, check_name
from polos_redis.errors import ConfigurationError, LinkError

if TYPE_CHECKING:
    from itsdangerous import URLSafeSerializer

__all__ = ["Link", "Links"]

SLACK = timedelta(minutes=15)  # between the clocks of the signer and of Redis
SALT = "polos approval link 1 "  # followed by the namespace

Scope = Literal["decide", "view"]


@dataclass(frozen=True, slots=True)
class Link:
    """The content of a token. Check it with `is_for`: a link is valid for one suspension of one run.

    `name` and `groups` are those of the person it was signed for; None and () if it is for anyone who has it.
    `made_at` is when it was signed.
    """

    execution_id: str
    step_key: str
    run: int
    expires_at: datetime
    scope: Scope
    name: str | None
    groups: tuple[str, ...]
    made_at: datetime

    def is_for(self, run: int, opened_at: datetime) -> bool:
        """Return whether the link is for the suspension of this run, opened at this time.

        A deleted execution may be started again under the same id; a link signed well before its suspension
        opened is not for it.
        """
        return self.run == run and self.made_at > opened_at - SLACK


class Links:
    """Signs and verifies the links of one namespace.

    - `secrets`: strings of at least 32 characters. Without one, links carry no token.
    - `public_url`: the base address of the approval page. Without it there are tokens, but no links.
    - `seconds`: the default lifetime of a link.
    """

    def __init__(
        self, secrets: Sequence[str], namespace: str, public_url: str | None, seconds: float
    ) -> None:
        self.secrets = tuple(secrets)
        self.namespace = namespace
        self.public_url = public_url
        self.seconds = seconds

    @classmethod
    def from_settings(
        cls,
        namespace: str,
        *,
        public_url: str | None = None,
        secret: str | Iterable[str] | None = None,
        link_seconds: float | None = None,
    ) -> Links | None:
        """Create `Links` from these options or the environment; None with neither a public URL nor a secret.

        Raises `ConfigurationError`.
        """
        url: str | None = settings.resolve("public_url", public_url)
        secrets: list[str] = settings.resolve("secret", secret) or []
        seconds: float = settings.resolve("link_seconds", link_seconds)
        return cls(secrets, namespace, url, seconds) if url is not None or secrets else None

    def token(
        self,
        execution_id: str,
        step_key: str,
        run: int,
        *,
        scope: Scope = "decide",
        name: str | None = None,
        groups: Iterable[str] = (),
        seconds: float | None = None,
    ) -> str:
        """Return a token for one suspension of one run, valid for `seconds` from now.

        Raises `ConfigurationError`.
        """
        if scope not in ("decide", "view"):
            raise ConfigurationError(f"a link's scope must be 'decide' or 'view', not {scope!r}")
        if name is not None:
            check_name("a link's name", name)
        groups = check_groups("a link", groups)
        now = time.time()
        expires = now + settings.resolve("link_seconds", self.seconds if seconds is None else seconds)
        return str(self._signer().dumps([execution_id, step_key, run, expires, scope, name, groups, now]))

    def read(self, token: str) -> Link:
        """Verify a token and return its content. Raises `LinkError` if it is invalid or expired."""
        from itsdangerous import BadData

        try:
            execution_id, step_key, run, expires, scope, name, groups, made = self._signer().loads(token)
        except (BadData, ValueError):  # ValueError: signed with our secret, but not by this class
            raise LinkError(
                "this link is invalid: it is incomplete, was changed, or was signed with another secret or "
                "for another namespace; ask for a new one"
            ) from None
        expires_at = datetime.fromtimestamp(expires, UTC)
        if time.time() >= expires:
            raise LinkError(
                f"this link expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC; ask for a new one", expires_at
            )
        made_at = datetime.fromtimestamp(made, UTC)
        return Link(execution_id, step_key, run, expires_at, scope, name, tuple(groups), made_at)

    def url(
        self,
        execution_id: str,
        step_key: str,
        run: int,
        *,
        scope: Scope = "decide",
        name: str | None = None,
        groups: Iterable[str] = (),
        seconds: float | None = None,
    ) -> str:
        """Return the address of a suspension's page, with a token if there is a secret.

        Takes the options of `token`. Raises `ConfigurationError`.
        """
        if self.public_url is None:
            raise ConfigurationError("a link needs the address of the approval page: set POLOS_PUBLIC_URL")
        quoted = quote(step_key, safe="", errors="surrogatepass")
        page = f"{self.public_url}/approve/{execution_id}/{quoted}"
        if not self.secrets:
            return page
        token = self.token(
            execution_id, step_key, run, scope=scope, name=name, groups=groups, seconds=seconds
        )
        return f"{page}?token={token}"

    def _signer(self) -> URLSafeSerializer:
        from itsdangerous import URLSafeSerializer

        if not self.secrets:
            raise ConfigurationError("a signed link needs a secret: set POLOS_SECRET")
        return URLSafeSerializer(
            list(reversed(self.secrets)),  # the last one signs
            salt=SALT + self.namespace,
            serializer_kwargs={"ensure_ascii": True},  # a step key may be any string
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
