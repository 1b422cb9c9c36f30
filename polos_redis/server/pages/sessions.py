"""Sessions: people who have logged in with an API key, known by a signed cookie.

The cookie names the key and holds nothing that would work elsewhere; the key is looked up at every request,
so one that is revoked ends its sessions.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from itsdangerous import BadData, Signer, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from polos_redis import apikeys
from polos_redis.apikeys import ApiKey
from polos_redis.client import PolosClient
from polos_redis.server.callers import Caller
from polos_redis.server.problems import Problem

COOKIE = "polos_session"
VISITOR = "polos_visitor"
SECONDS = 12 * 3600


class Sessions:
    """The sessions of one app, and the tokens of its forms.

    Without `secrets` it makes one of its own: then sessions and open forms end with the process.
    """

    def __init__(self, client: PolosClient, known: Sequence[str]) -> None:
        self._client = client
        keys = list(reversed(known)) or [secrets.token_urlsafe(32)]  # the last one signs
        kind = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        self._cookies = URLSafeTimedSerializer(
            keys, salt=f"polos session 1 {client.namespace}", signer_kwargs=kind
        )
        self._forms = Signer(
            keys,
            salt=f"polos form 1 {client.namespace}",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )

    async def read(self, request: Request) -> Caller | None:
        """Who has logged in; None for nobody, or when it is too long ago, or the key holds no more."""
        try:
            key_id, _ = self._cookies.loads(request.cookies.get(COOKIE, ""), max_age=SECONDS)
        except (BadData, ValueError, TypeError):
            return None
        key = await apikeys.get(self._client, str(key_id))
        if key is None or not key.holds:
            return None
        return Caller(key.name, key.groups, frozenset(key.scopes), "session", key_id=key.id)

    def start(self, request: Request, response: Response, key: ApiKey) -> None:
        """Let an answer log in the holder of a key."""
        value = self._cookies.dumps([key.id, secrets.token_urlsafe(12)])
        _set(request, response, COOKIE, str(value), SECONDS)

    def end(self, response: Response) -> None:
        response.delete_cookie(COOKIE, httponly=True, samesite="lax")

    # --- forms --------------------------------------------------------------------------

    def form_token(self, request: Request, link_token: str = "") -> str:
        """What a form of this visitor's carries, so that no other site can send it for them."""
        return self._forms.get_signature(self._holder(request, link_token)).decode()

    def check_form(self, request: Request, given: str, link_token: str = "") -> None:
        """Refuse a form that we did not give this visitor: `Problem` 403."""
        signature = given.encode("utf-8", "replace")
        if not self._forms.verify_signature(self._holder(request, link_token), signature):
            raise Problem(
                403,
                "this form was open for too long, or came from another page: go back, reload it, try again",
                kind="forbidden",
                title="Please try again",
            )

    def _holder(self, request: Request, link_token: str) -> bytes:
        """What only this visitor has: their link's token, their session's cookie, else a cookie for this."""
        if link_token:
            return b"link " + link_token.encode("utf-8", "replace")
        cookie = request.cookies.get(COOKIE)
        if cookie and getattr(getattr(request.state, "caller", None), "source", "") == "session":
            return b"session " + cookie.encode("utf-8", "replace")
        return b"visitor " + self._visitor(request).encode("utf-8", "replace")

    def _visitor(self, request: Request) -> str:
        known = request.cookies.get(VISITOR)
        if known:
            return known
        made: str | None = getattr(request.state, "visitor", None)
        if made is None:
            made = request.state.visitor = secrets.token_urlsafe(16)
        return made

    def keep_visitor(self, request: Request, response: Response) -> None:
        """Give a new visitor the cookie that their form needs."""
        made: str | None = getattr(request.state, "visitor", None)
        if made is not None:
            _set(request, response, VISITOR, made, None)


def _set(request: Request, response: Response, name: str, value: str, seconds: int | None) -> None:
    response.set_cookie(
        name, value, max_age=seconds, httponly=True, samesite="lax", secure=request.url.scheme == "https"
    )


def sessions_of(request: Request) -> Sessions:
    """The sessions of the app that a request came to."""
    found: Sessions = request.app.state.sessions
    return found


async def read(request: Request) -> Caller | None:
    """Who has logged in, for whoever wants to know who sent a request."""
    return await sessions_of(request).read(request)
