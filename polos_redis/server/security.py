"""Authentication by API key, signed link, session cookie or loopback address, and the check of scopes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from polos_redis import apikeys
from polos_redis.apikeys import ApiKey
from polos_redis.errors import MAX_LISTED, ExecutionNotFoundError, LinkError
from polos_redis.executions import queries
from polos_redis.links import Link
from polos_redis.redaction import KEY_PREFIX, LINK_PREFIX
from polos_redis.server import problems, sessions
from polos_redis.server.callers import Caller
from polos_redis.server.problems import Problem
from polos_redis.server.rates import Rate, network_of
from polos_redis.server.site import Site, site_of
from polos_redis.state import keys

SAFE = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
BEARER = HTTPBearer(
    auto_error=False,
    description="An API key (`polos keys create`), which may be restricted to workflows: executions of other "
    "workflows don't exist for it. Or a signed link's token.",
)


async def caller_of(request: Request) -> Caller:
    """The caller of a request, cached per request. Raises `Problem` 401, or 429 over the rate limit."""
    known: Caller | None = getattr(request.state, "caller", None)
    if known is not None:
        return known
    site = site_of(request)
    address = address_of(request)
    try:
        caller = await _identify(request, site)
    except Problem as problem:
        if problem.status_code == 401:
            rate = site.failures if "authorization" in request.headers else site.rate
            if wait := await rate.take(address):
                raise problems.too_many(wait) from None
        raise
    if wait := await site.rate.take(caller.key_id or address):
        raise problems.too_many(wait)
    request.state.caller = caller
    return caller


async def public(request: Request) -> None:
    """Count a request to a route that identifies no caller. Raises `Problem` 429 over the address's rate."""
    _count(request, site_of(request).public)


async def probed(request: Request) -> None:
    """Count a request of a monitor, apart from all others. Raises `Problem` 429 over the address's rate."""
    _count(request, site_of(request).probes)


def _count(request: Request, rate: Rate) -> None:
    if wait := rate.take(address_of(request)):
        raise problems.too_many(wait)


def address_of(request: Request) -> str:
    """The network that a request comes from, as rate limits count it."""
    return network_of(request.client.host if request.client else "")


def require(scope: str, *, link: bool = False, restricts: bool = False) -> Callable[..., Awaitable[Caller]]:
    """A dependency that returns the caller. Raises `Problem` 403 without the scope, for callers with a signed
    link unless the route checks it (`link`), and for callers whose key is restricted to workflows unless the
    route is about one of their executions, or restricts what it does itself (`restricts`)."""

    async def check(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
    ) -> Caller:
        caller = await caller_of(request)
        if caller.link is not None and not link:
            raise forbidden("a signed link only gives access to its own suspension", scope)
        if not caller.may(scope):
            raise forbidden(f"the scope {scope!r} is required", scope)
        await check_covered(request, caller, scope, restricts=restricts)
        return caller

    return check


async def check_covered(request: Request, caller: Caller, scope: str, *, restricts: bool) -> None:
    """Check that a caller's key covers the execution, or the execution's topic, in a request's path.

    Raises `ExecutionNotFoundError` if it does not, as for an execution that does not exist; and `Problem` 403
    if the path has neither, unless the route `restricts` what it does.
    """
    if not caller.workflows:
        return
    execution_id = request.path_params.get("execution_id")
    if "topic" in request.path_params:
        _, execution_id = keys.parse_topic(request.path_params["topic"])
    if execution_id is not None:
        root = await queries.root_workflow(site_of(request).client, execution_id)
        if not caller.covers(root):
            raise ExecutionNotFoundError(execution_id)
    elif not restricts:
        raise uncovered(caller, "this is not only about these", scope)


def uncovered(caller: Caller, why: str, scope: str) -> Problem:
    """The problem for a caller whose key is restricted to other workflows."""
    listed = ", ".join(repr(one) for one in sorted(caller.workflows)[:MAX_LISTED])
    more = ", ..." if len(caller.workflows) > MAX_LISTED else ""
    return forbidden(f"this API key is restricted to workflows ({listed}{more}): {why}", scope)


def check_address(caller: Caller, execution_id: str, step_key: str) -> None:
    """Raise `Problem` 403 if a caller's link is for another suspension than the requested one.

    Called before the suspension is read, so that a link does not reveal whether others exist.
    """
    link = caller.link
    if link is None:
        return
    if step_key != link.step_key or execution_id not in (link.execution_id, keys.root_of(link.execution_id)):
        raise forbidden("this link belongs to another suspension", "approve")


def check_link(caller: Caller, suspension: dict[str, Any]) -> None:
    """Raise `Problem` 403 if a caller's link is not for this suspension (in the form of
    `client.get_suspension`): for another one, an earlier run, or a deleted execution of the same id."""
    link = caller.link
    if link is None:
        return
    if (link.execution_id, link.step_key) != (suspension["execution_id"], suspension["step_key"]):
        raise forbidden("this link belongs to another suspension", "approve")
    if not link.is_for(suspension["run"], datetime.fromisoformat(suspension["execution_created_at"])):
        raise forbidden(
            "the execution was restarted after this link was created: ask for a new one", "approve"
        )


async def _identify(request: Request, site: Site) -> Caller:
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("the Authorization header must have the form: Bearer KEY")
        return await bearer(site, token.strip(), address_of(request))
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if request.method in SAFE or not path.startswith("/api/"):
        # Browsers send cookies with other sites' requests, too, so a session may not change anything here.
        key_id = sessions.sessions_of(request).key_id(request)
        if wait := site.rate.wait(key_id):
            raise problems.too_many(wait)
        session = await sessions.read(request)
        if session is not None:
            return session
    if site.insecure_dev:
        return _developer(request, site)
    raise _unauthorized("an API key is required: send it as Authorization: Bearer KEY")


async def find_key(site: Site, secret: str, address: str) -> ApiKey | None:
    """The valid API key with this secret; None if there is none. Raises `Problem` 429 for a caller whom this
    process knows to be over a limit, without a look-up."""
    if site.known.is_refused(secret):
        return None
    key_id = site.known.accepted(secret)
    if key_id is not None:
        wait = site.rate.wait(key_id)
    else:  # a guess, or a key that is new to this process
        wait = site.doubtful.take(address) if site.failures.wait(address) else 0.0
    if wait:
        raise problems.too_many(wait)
    key = await apikeys.find(site.client, secret)
    if key is None:
        site.known.refuse(secret)
    else:
        site.known.accept(secret, key.id)
    return key


async def bearer(site: Site, token: str, address: str) -> Caller:
    """The caller that an API key or a signed link's token identifies. Raises `Problem` 401 or 429."""
    if token.startswith(KEY_PREFIX) and not token.startswith(LINK_PREFIX):
        key = await find_key(site, token, address)
        if key is None:
            raise _unauthorized("this API key is unknown, expired or revoked")
        return Caller.of_key(key)
    if site.links is None or not site.links.secrets:
        raise _unauthorized("this is not an API key, and this server accepts no signed links")
    try:
        link = site.links.read(token, at=await (await site.client.store()).clock.now())
    except LinkError as error:
        raise _unauthorized(str(error)) from None
    return of_link(link)


def of_link(link: Link) -> Caller:
    """The caller that a signed link identifies."""
    scopes = {"read", "approve"} if link.scope == "decide" else {"read"}
    return Caller(link.name, tuple(link.groups), frozenset(scopes), "link", link=link)


def _developer(request: Request, site: Site) -> Caller:
    """The caller for `--insecure-dev`: anyone on this machine, but not clients of a proxy on it, nor pages of
    other sites in the developer's browser."""
    if request.client is not None and request.client.host not in ("127.0.0.1", "::1"):
        raise forbidden(f"--insecure-dev is for this machine only, not for {request.client.host}", "admin")
    host = request.headers.get("host", "")
    if re.sub(r":\d*$", "", host).lower() not in LOOPBACK:
        raise forbidden(f"--insecure-dev only accepts {', '.join(LOOPBACK)}, not {host!r}", "admin")
    origin = request.headers.get("origin")
    own = f"{request.scope['scheme']}://{host}"
    if origin is not None and origin != own and origin not in site.cors_origins:
        raise forbidden(f"the origin {origin!r} is not allowed by --cors-origin", "admin")
    return Caller(None, (), frozenset(apikeys.SCOPES), "dev")


def _unauthorized(detail: str) -> Problem:
    return Problem(401, detail, kind="unauthorized", headers={"WWW-Authenticate": "Bearer"})


def forbidden(detail: str, scope: str) -> Problem:
    return Problem(403, detail, kind="forbidden", scope=scope)
