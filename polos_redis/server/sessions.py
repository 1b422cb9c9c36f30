"""Login sessions, identified by a signed cookie, and CSRF tokens for forms.

The cookie contains a session's id and the API key's id, never its secret. Both are looked up at every
request, in Redis: so logging out, or revoking the key, ends a session in every process, for copies of its
cookie too.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence

from itsdangerous import BadData, Signer, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from polos_redis import apikeys
from polos_redis.apikeys import ApiKey
from polos_redis.client import PolosClient
from polos_redis.errors import UnreadableValueError
from polos_redis.server.callers import Caller
from polos_redis.server.problems import Problem
from polos_redis.values.versioned import VERSION, items_of

COOKIE = "polos_session"
VISITOR = "polos_visitor"
SESSION_SECONDS = 12 * 3600


class Sessions:
    """The login sessions and form tokens of one app.

    The first of the `signing_secrets` signs, all verify. Without any, a random one is used, and sessions and
    open forms end with the process. Cookies are `secure` if people reach the pages through HTTPS, whatever a
    proxy says of the request: a browser then sends them through HTTPS only.
    """

    def __init__(self, client: PolosClient, signing_secrets: Sequence[str], *, secure: bool = False) -> None:
        self._client = client
        self._secure = secure
        keys = list(reversed(signing_secrets)) or [
            secrets.token_urlsafe(32)
        ]  # itsdangerous signs with the last
        options = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        self._cookies = URLSafeTimedSerializer(
            keys, salt=f"polos session 1 {client.namespace}", signer_kwargs=options
        )
        self._forms = Signer(
            keys,
            salt=f"polos form 1 {client.namespace}",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )

    async def read(self, request: Request) -> Caller | None:
        """Returns who is logged in; None without a valid cookie, an open session and a valid key."""
        key_id, session_id = self._content(request)
        if not session_id:
            return None
        key = await open_session(self._client, session_id, key_id)
        return None if key is None else Caller.of_key(key, session_id)

    async def start(self, request: Request, response: Response, key: ApiKey) -> None:
        """Logs in the holder of a key: opens a session and sets its cookie."""
        session_id = secrets.token_urlsafe(16)
        await (await self._client.store()).login_sessions.open(session_id, key.id, SESSION_SECONDS)
        self._set(
            request,
            response,
            COOKIE,
            str(self._cookies.dumps([VERSION, key.id, session_id])),
            SESSION_SECONDS,
        )

    async def end(self, request: Request, response: Response) -> None:
        """Logs out: closes the session of the request's cookie, and deletes the cookie."""
        _, session_id = self._content(request)
        if session_id:
            await (await self._client.store()).login_sessions.close(session_id)
        response.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=self._is_secure(request))

    def key_id(self, request: Request) -> str:
        """Returns the API key's id in a valid cookie, even of a closed session; empty without one."""
        return self._content(request)[0]

    def _content(self, request: Request) -> tuple[str, str]:
        """Returns the API key's id and the session's id of a valid cookie; two empty texts without one."""
        try:
            content = self._cookies.loads(request.cookies.get(COOKIE, ""), max_age=SESSION_SECONDS)
            key_id, session_id, *_ = items_of("the cookie", content)
        except (BadData, ValueError, TypeError, UnreadableValueError):
            return "", ""
        return str(key_id), str(session_id)

    def _is_secure(self, request: Request) -> bool:
        return self._secure or request.url.scheme == "https"

    def _set(self, request: Request, response: Response, name: str, value: str, seconds: int | None) -> None:
        secure = self._is_secure(request)
        response.set_cookie(name, value, max_age=seconds, httponly=True, samesite="lax", secure=secure)

    # --- forms --------------------------------------------------------------------------

    def form_token(self, request: Request, link_token: str = "") -> str:
        """Returns the CSRF token of this visitor's forms."""
        return self._forms.get_signature(self._holder(request, link_token)).decode()

    def check_form(self, request: Request, form_token: str, link_token: str = "") -> None:
        """Checks that a form was served to this visitor. Raises `Problem` 403 otherwise."""
        signature = form_token.encode("utf-8", "replace")
        if not self._forms.verify_signature(self._holder(request, link_token), signature):
            raise Problem(
                403,
                "this form has expired or came from another site: go back, reload the page and try again",
                kind="forbidden",
                title="Please try again",
            )

    def _holder(self, request: Request, link_token: str) -> bytes:
        """Returns what only this visitor has: the link's token, the session cookie or the visitor cookie."""
        if link_token:
            return b"link " + link_token.encode("utf-8", "replace")
        cookie = request.cookies.get(COOKIE)
        if cookie and getattr(getattr(request.state, "caller", None), "source", "") == "session":
            return b"session " + cookie.encode("utf-8", "replace")
        return b"visitor " + self._visitor(request).encode("utf-8", "replace")

    def _visitor(self, request: Request) -> str:
        cookie = request.cookies.get(VISITOR)
        if cookie:
            return cookie
        new: str | None = getattr(request.state, "visitor", None)
        if new is None:
            new = request.state.visitor = secrets.token_urlsafe(16)
        return new

    def set_visitor_cookie(self, request: Request, response: Response) -> None:
        """Sets the cookie that a new visitor's form token depends on."""
        new: str | None = getattr(request.state, "visitor", None)
        if new is not None:
            self._set(request, response, VISITOR, new, None)


async def open_session(client: PolosClient, session_id: str, key_id: str) -> ApiKey | None:
    """Returns the API key of an open session; None if the session was closed, or the key is not valid."""
    store = await client.store()
    holder, key = await asyncio.gather(store.login_sessions.key_id(session_id), apikeys.get(client, key_id))
    is_its_holder = key is not None and holder == key.id and key.held_at(await store.clock.now())
    return key if is_its_holder else None


def sessions_of(request: Request) -> Sessions:
    """Returns the sessions of the request's app."""
    sessions: Sessions = request.app.state.sessions
    return sessions


async def read(request: Request) -> Caller | None:
    """Returns the logged-in caller of a request; None if there is none."""
    return await sessions_of(request).read(request)
