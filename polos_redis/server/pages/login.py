"""Logging in with an API key, and out."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from polos_redis import apikeys
from polos_redis.server import problems
from polos_redis.server.pages.layout import PageRoute, go, render
from polos_redis.server.pages.sessions import sessions_of
from polos_redis.server.rates import neighbourhood
from polos_redis.server.site import site_of

router = APIRouter(route_class=PageRoute)


@router.api_route("/login", methods=["GET", "HEAD"])
async def show(request: Request, next: str = "/") -> Response:
    return render(request, "login.html", {"next": _local(next), "complaint": ""})


@router.post("/login")
async def log_in(request: Request) -> Response:
    sent = await request.form(max_files=0, max_fields=10)
    sessions = sessions_of(request)
    sessions.check_form(request, str(sent.get("form_token", "")))
    after = _local(str(sent.get("next", "/")))
    site = site_of(request)
    key = await apikeys.find(site.client, str(sent.get("key", "")).strip())
    if key is None:
        address = neighbourhood(request.client.host if request.client else "")
        if wait := site.failures.take(address):
            raise problems.too_many(wait)
        complaint = "This key is not known here, or it has expired or was revoked."
        return render(request, "login.html", {"next": after, "complaint": complaint}, status=403)
    response = go(after)
    sessions.start(request, response, key)
    return response


@router.post("/logout")
async def log_out(request: Request) -> Response:
    sent = await request.form(max_files=0, max_fields=10)
    sessions = sessions_of(request)
    request.state.caller = await sessions.read(request)
    sessions.check_form(request, str(sent.get("form_token", "")))
    response = go("/login")
    sessions.end(response)
    return response


def _local(path: str) -> str:
    """Only a page of ours is gone to after logging in."""
    if (
        path.startswith("/")
        and not path.startswith(("//", "/\\", "/login", "/logout"))
        and path.isprintable()
    ):
        return path
    return "/"
