"""Signed links: what lets the one who has it look at one suspension of one run, or decide it.

A token is signed with HMAC-SHA-256, under a key made of the secret and the namespace, and says until when it
holds. Nothing is stored: to take all links back, change the secret. To change it gently, have both for a
while: the first signs, all verify.
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

SLACK = timedelta(minutes=15)  # between the clocks of whoever makes links and of Redis
SALT = "polos approval link 1 "  # and the namespace

Scope = Literal["decide", "view"]


@dataclass(frozen=True, slots=True)
class Link:
    """What a token says. Whoever checks one asks `is_for`: a link is for one suspension of one run.

    `name` and `groups` are those of the person it was made for, None and () when it is for whoever has it.
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
        """Whether it is for a suspension of this run that was opened then. An execution that was deleted
        may be begun again under the same id: a link that was made long before that is not for it."""
        return self.run == run and self.made_at > opened_at - SLACK


class Links:
    """Makes links and reads their tokens, for one namespace.

    `secrets`: texts of 32 characters at least; with none, links carry no token. `public_url`: where the
    approval page is served; without it there are tokens but no links. `seconds`: how long a link holds
    unless said otherwise.
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
        """As the options say, or the environment; None when there is neither a public URL nor a secret."""
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
        """A token for one suspension of one run, for `seconds` from now. Raises `ConfigurationError`."""
        if scope not in ("decide", "view"):
            raise ConfigurationError(f"a link's scope is decide or view, not {scope!r}")
        if name is not None:
            check_name("a link's name", name)
        groups = check_groups("a link", groups)
        now = time.time()
        until = now + settings.resolve("link_seconds", self.seconds if seconds is None else seconds)
        return str(self._signer().dumps([execution_id, step_key, run, until, scope, name, groups, now]))

    def read(self, token: str) -> Link:
        """What a token says. Raises `LinkError` when it is not ours, or when its time is over."""
        from itsdangerous import BadData

        try:
            execution_id, step_key, run, until, scope, name, groups, made = self._signer().loads(token)
        except (BadData, ValueError):  # a secret's owner alone could sign anything of another shape
            raise LinkError(
                "this link can't be used: it is incomplete or was changed, or its signature is of another "
                "secret or namespace; ask for a new one"
            ) from None
        expires_at = datetime.fromtimestamp(until, UTC)
        if time.time() >= until:
            raise LinkError(
                f"this link has expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC; ask for a new one", expires_at
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
        """The address of a suspension's page, with a token when there are secrets; options as for `token`.
        Raises `ConfigurationError`."""
        if self.public_url is None:
            raise ConfigurationError("a link needs to know where the approval page is: set POLOS_PUBLIC_URL")
        place = quote(step_key, safe="", errors="surrogatepass")
        page = f"{self.public_url}/approve/{execution_id}/{place}"
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
            serializer_kwargs={"ensure_ascii": True},  # a step key may be any text
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
