"""The login page: logs in with an API key, and out."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from polos_redis.server import problems
from polos_redis.server.pages.page_route import PageRoute
from polos_redis.server.pages.posted import posted
from polos_redis.server.pages.rendering import redirect, render
from polos_redis.server.security import address_of, find_key, public
from polos_redis.server.sessions import sessions_of
from polos_redis.server.site import site_of

router = APIRouter(route_class=PageRoute)


@router.api_route("/login", methods=["GET", "HEAD"], dependencies=[Depends(public)])
async def show(request: Request, next: str = "/") -> Response:
    return render(request, "login.html", {"next": _local(next), "error": ""})


@router.post("/login")
async def log_in(request: Request) -> Response:
    site, address = site_of(request), address_of(request)
    if wait := await site.rate.take(address):
        raise problems.too_many(wait)
    sent = await posted(request)
    sessions = sessions_of(request)
    sessions.check_form(request, str(sent.get("form_token", "")))
    after = _local(str(sent.get("next", "/")))
    key = await find_key(site, str(sent.get("key", "")).strip(), address)
    if key is None:
        if wait := await site.failures.take(address):
            raise problems.too_many(wait)
        error = "Unknown, expired or revoked key."
        return render(request, "login.html", {"next": after, "error": error}, status=403)
    response = redirect(after)
    await sessions.start(request, response, key)
    return response


@router.post("/logout", dependencies=[Depends(public)])
async def log_out(request: Request) -> Response:
    sent = await posted(request)
    sessions = sessions_of(request)
    request.state.caller = await sessions.read(request)
    sessions.check_form(request, str(sent.get("form_token", "")))
    response = redirect("/login")
    await sessions.end(request, response)
    return response


def _local(path: str) -> str:
    """Returns the path if it is a page of this server, else "/"."""
    if (
        path.startswith("/")
        and not path.startswith(("//", "/\\", "/login", "/logout"))
        and path.isprintable()
    ):
        return path
    return "/"
