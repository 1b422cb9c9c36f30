"""Signed links: each lets whoever has it view, or answer, one suspension of one run of one execution.

An execution is named by its id and the time it was created, since another may get its id after it is deleted.
A token begins with `polos_link_`, so that it is recognised and redacted wherever it does not belong. It is
signed with HMAC-SHA-256 under a key derived from the secret and the namespace, and expires. Nothing is
stored, so the only way to revoke links is to change the secret, which revokes all of them. To rotate the
secret without that, configure the new and the old one: the first signs, all verify.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from polos_redis import settings
from polos_redis.decisions.people import check_groups, check_name
from polos_redis.errors import ConfigurationError, LinkError, UnreadableValueError
from polos_redis.redaction import LINK_PREFIX
from polos_redis.values.times import to_datetime_us, to_us
from polos_redis.values.versioned import VERSION, items_of

if TYPE_CHECKING:
    from itsdangerous import URLSafeSerializer

__all__ = ["Link", "Links"]

SALT = "polos approval link 2 "  # followed by the namespace

Scope = Literal["decide", "view"]


@dataclass(frozen=True, slots=True)
class Link:
    """The content of a token. Check it with `is_for`: a link is valid for one suspension of one run.

    `created_at` is when the execution was created; None if the link's signer did not say. `name` and `groups`
    are those of the person it was signed for; None and () if it is for anyone who has it.
    """

    execution_id: str
    step_key: str
    run: int
    created_at: datetime | None
    signed_at: datetime
    expires_at: datetime
    scope: Scope
    name: str | None
    groups: tuple[str, ...]

    def is_for(self, run: int, created_at: datetime) -> bool:
        """Return whether the link is for this run of the execution that was created at this time.

        A deleted execution may be started again under the same id; the links of one are not for the other. A
        link that doesn't name a creation time is for no execution created after it was signed.
        """
        is_same = created_at <= self.signed_at if self.created_at is None else created_at == self.created_at
        return is_same and run == self.run


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
        created_at: datetime | None = None,
        *,
        scope: Scope = "decide",
        name: str | None = None,
        groups: Iterable[str] = (),
        seconds: float | None = None,
        at: float | None = None,
    ) -> str:
        """Return a token for one suspension of one run, valid for `seconds` from now.

        `run` and `created_at` (the time the execution was created, to the microsecond) are the fields `run`
        and `execution_created_at` of `client.get_suspension` and of a `Notification`. Without `created_at`,
        the token is for the execution that has the id now, by this machine's clock: pass it if the clock may
        be behind that of Redis. `at` is the time to take for now (seconds since 1970).

        Raises `ConfigurationError`.
        """
        if scope not in ("decide", "view"):
            raise ConfigurationError(f"a link's scope must be 'decide' or 'view', not {scope!r}")
        if name is not None:
            check_name("a link's name", name)
        groups = check_groups("a link", groups)
        now = time.time() if at is None else at
        expires = now + settings.resolve("link_seconds", self.seconds if seconds is None else seconds)
        created_us = None if created_at is None else to_us(created_at)
        content = [VERSION, execution_id, step_key, run, created_us, now, expires, scope, name, groups]
        return f"{LINK_PREFIX}{self._signer().dumps(content)}"

    def read(self, token: str, *, at: float | None = None) -> Link:
        """Verify a token and return its content. Raises `LinkError` if it is invalid or expired, by now or by
        the time `at` (seconds since 1970)."""
        from itsdangerous import BadData

        try:
            if not token.startswith(LINK_PREFIX):
                raise BadData("not a link's token")
            content = self._signer().loads(token[len(LINK_PREFIX) :])
            (execution_id, step_key, run, created_us, signed, expires, scope, name, groups, *_) = items_of(
                "this link", content
            )
        except (BadData, ValueError):  # ValueError: signed with our secret, but not by this class
            raise LinkError(
                "this link is invalid: it is incomplete, was changed, or was signed with another secret or "
                "for another namespace; ask for a new one"
            ) from None
        except UnreadableValueError:
            raise LinkError(
                "this link was signed by another version of polos-redis; ask for a new one"
            ) from None
        expires_at = datetime.fromtimestamp(expires, UTC)
        if (time.time() if at is None else at) >= expires:
            raise LinkError(
                f"this link expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC; ask for a new one", expires_at
            )
        created_at = None if created_us is None else to_datetime_us(created_us)
        signed_at = datetime.fromtimestamp(signed, UTC)
        return Link(
            execution_id, step_key, run, created_at, signed_at, expires_at, scope, name, tuple(groups)
        )

    def url(
        self,
        execution_id: str,
        step_key: str,
        run: int,
        created_at: datetime | None = None,
        *,
        scope: Scope = "decide",
        name: str | None = None,
        groups: Iterable[str] = (),
        seconds: float | None = None,
        at: float | None = None,
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
            execution_id,
            step_key,
            run,
            created_at,
            scope=scope,
            name=name,
            groups=groups,
            seconds=seconds,
            at=at,
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
