"""What all pages share: templates, headers, refusals told to people, who looks at a page."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from polos_redis.errors import LinkError, PolosError
from polos_redis.server import problems
from polos_redis.server.callers import Caller
from polos_redis.server.pages import display, times, words
from polos_redis.server.pages.assets import address
from polos_redis.server.pages.sessions import sessions_of
from polos_redis.server.problems import Problem
from polos_redis.server.rates import neighbourhood
from polos_redis.server.security import caller_of, of_link
from polos_redis.server.site import site_of

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}


def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("polos_redis.server.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "label": lambda name: display.visible(words.label_of(name)),
        "ident": lambda name: "f-" + quote(name, safe="", errors="replace"),
        "when": times.when,
        "ago": times.ago,
        "left": times.left,
        "show": display.show,
        "span": words.span,
        "state": words.state,
        "approve_path": approve_path,
    }
    env.globals |= {"count": words.count, "asset": address, "took": times.took, "rest_of": _rest_of}
    return env


def _rest_of(answer: Any) -> Any:
    """What an answer says beside approving or not; None for nothing."""
    if not isinstance(answer, dict):
        return answer
    return {name: one for name, one in answer.items() if name != "approved"} or None


def approve_path(execution_id: str, step_key: str = "") -> str:
    """The address of a suspension's page, or of all of an execution's."""
    path = f"/approve/{quote(execution_id, safe='')}"
    return f"{path}/{quote(step_key, safe='', errors='replace')}" if step_key else path


def render(
    request: Request, template: str, context: Mapping[str, Any], *, status: int = 200, token: str = ""
) -> Response:
    """A page. `token` is the signed link's with which it was come to."""
    caller: Caller | None = getattr(request.state, "caller", None)
    sessions = sessions_of(request)
    html = ENVIRONMENT.get_template(template).render(
        {
            "caller": caller,
            "path": request.url.path,
            "form_token": sessions.form_token(request, token),
            "token": token,
            **context,
        }
    )
    response = Response(
        html.encode("utf-8", "replace"), status, headers=HEADERS, media_type="text/html; charset=utf-8"
    )
    sessions.keep_visitor(request, response)
    return response


def message_page(request: Request, status: int, title: str, detail: str, token: str = "") -> Response:
    """A page that says one thing."""
    return render(request, "message.html", {"title": title, "detail": detail}, status=status, token=token)


def go(path: str, **query: str) -> Response:
    """On to another page, with GET."""
    given = {name: value for name, value in query.items() if value}
    return RedirectResponse(f"{path}?{urlencode(given)}" if given else path, 303, headers=HEADERS)


async def visitor(request: Request, scope: str = "read", token: str = "") -> Caller:
    """Who looks at a page: by the link's token where there is one, else as everywhere; a link opens no page
    but its own, which takes the token from its address. `Problem` 401, 403."""
    if token:
        return await _by_link(request, token)
    caller = await caller_of(request)
    if caller.link is not None:
        detail = "a signed link opens the page of its own suspension only"
        raise Problem(403, detail, kind="forbidden", scope=scope)
    if not caller.may(scope):
        raise Problem(
            403,
            f"your API key does not have the scope “{scope}” that this needs",
            kind="forbidden",
            scope=scope,
        )
    return caller


async def _by_link(request: Request, token: str) -> Caller:
    site = site_of(request)
    address = neighbourhood(request.client.host if request.client else "")
    try:
        if site.links is None or not site.links.secrets:
            raise LinkError("this server knows no signed links: POLOS_SECRET is not set")
        caller = of_link(site.links.read(token))
    except LinkError as error:
        if wait := site.failures.take(address):
            raise problems.too_many(wait) from None
        title = "This link has expired" if error.expired_at else "This link does not work"
        raise Problem(403, str(error), kind="link", title=title) from None
    if wait := site.rate.take(address):
        raise problems.too_many(wait)
    request.state.caller = caller
    return caller


class PageRoute(APIRoute):
    """A route whose refusals are pages: who is not known is sent to log in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except PolosError as error:
                problem = problems.of(error)
            except Problem as error:
                problem = error
            except HTTPException as error:  # a form that can't be read
                problem = Problem(error.status_code, str(error.detail), headers=error.headers)
            if problem.status_code == 401:
                path = request.url.path
                return go("/login", next=path + (f"?{request.url.query}" if request.url.query else ""))
            title = "Not allowed" if problem.title == "Forbidden" else problem.title
            response = message_page(request, problem.status_code, title, str(problem.detail))
            response.headers.update(problem.headers or {})
            return response

        return told


ENVIRONMENT = _environment()
