"""Renders pages: the template environment, security headers, redirects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from polos_redis.server.callers import Caller
from polos_redis.server.pages import labels, shown_values, times
from polos_redis.server.pages.assets import address
from polos_redis.server.pages.sessions import sessions_of

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("polos_redis.server.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "label": lambda name: shown_values.visible(labels.label_of(name)),
        "ident": lambda name: "f-" + quote(name, safe="", errors="replace"),
        "when": times.when,
        "ago": times.ago,
        "left": times.left,
        "show": shown_values.show,
        "duration": times.duration,
        "status_label": labels.status_label,
        "approve_path": approve_path,
    }
    environment.globals |= {
        "count": labels.count,
        "asset": address,
        "took": times.execution_duration,
        "other_fields": _other_fields,
    }
    return environment


def _other_fields(answer: Any) -> Any:
    """Returns an answer without `approved`; None if nothing is left."""
    if not isinstance(answer, dict):
        return answer
    return {name: value for name, value in answer.items() if name != "approved"} or None


def approve_path(execution_id: str, step_key: str = "") -> str:
    """Returns the address of a suspension's page, or of the page that lists an execution's suspensions."""
    path = f"/approve/{quote(execution_id, safe='')}"
    return f"{path}/{quote(step_key, safe='', errors='replace')}" if step_key else path


def render(
    request: Request, template: str, context: Mapping[str, Any], *, status: int = 200, token: str = ""
) -> Response:
    """Renders a page. `token` is that of the signed link which led here."""
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
    sessions.set_visitor_cookie(request, response)
    return response


def message_page(request: Request, status: int, title: str, detail: str, token: str = "") -> Response:
    """Renders a page with a title and one sentence."""
    return render(request, "message.html", {"title": title, "detail": detail}, status=status, token=token)


def redirect(path: str, **query: str) -> Response:
    """Redirects to another page with GET; omits empty query parameters."""
    query = {name: value for name, value in query.items() if value}
    return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303, headers=HEADERS)


ENVIRONMENT = _environment()
