"""Identifies the visitor of a page and checks their scope."""

from __future__ import annotations

from starlette.requests import Request

from polos_redis.errors import LinkError
from polos_redis.server import problems
from polos_redis.server.callers import Caller
from polos_redis.server.problems import Problem
from polos_redis.server.security import address_of, caller_of, check_covered, of_link
from polos_redis.server.site import site_of


async def visitor(
    request: Request, scope: str = "read", token: str = "", *, restricts: bool = False
) -> Caller:
    """Returns who visits a page: the holder of the link's token if there is one, else the caller as in the
    API. Raises `Problem` 401 or 403. A link opens only its own page, whose address carries the token. A key
    that is restricted to workflows opens the pages of their executions, and those that restrict themselves
    (`restricts`)."""
    if token:
        return await _link_holder(request, token)
    caller = await caller_of(request)
    if caller.link is not None:
        detail = "a signed link opens only the page of its own suspension"
        raise Problem(403, detail, kind="forbidden", scope=scope)
    if not caller.may(scope):
        detail = f"this needs the scope “{scope}”, which your API key does not have"
        raise Problem(403, detail, kind="forbidden", scope=scope)
    await check_covered(request, caller, scope, restricts=restricts)
    return caller


async def _link_holder(request: Request, token: str) -> Caller:
    site = site_of(request)
    address = address_of(request)
    try:
        if site.links is None or not site.links.secrets:
            raise LinkError("this server can't check signed links: POLOS_SECRET is not set")
        now = await (await site.client.store()).clock.now()
        caller = of_link(site.links.read(token, at=now))
    except LinkError as error:
        if wait := await site.failures.take(address):
            raise problems.too_many(wait) from None
        title = "This link has expired" if error.expired_at else "This link does not work"
        raise Problem(403, str(error), kind="link", title=title) from None
    if wait := await site.rate.take(address):
        raise problems.too_many(wait)
    request.state.caller = caller
    return caller
