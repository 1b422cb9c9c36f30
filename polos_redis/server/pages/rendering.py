"""Renders pages: the template environment, security headers, redirects.

Every text that a template prints is escaped: for HTML, and so that nothing in it is invisible; link tokens
and secrets are removed. `as_typed` prints a text as it is, for what a browser sends back: addresses, form
values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from polos_redis.executions.statuses import details
from polos_redis.redaction import redact_text
from polos_redis.server.callers import Caller
from polos_redis.server.pages import labels, shown_values, times
from polos_redis.server.pages.assets import address
from polos_redis.server.sessions import sessions_of
from polos_redis.values.text import visible

MAX_PAGE_BYTES = 1_000_000
MAX_TITLE = 200  # characters of a text from elsewhere where the page has a heading or a name
MAX_MESSAGE = 2_000  # characters of an error
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
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "as_typed": lambda text: Markup(escape(text)),
        "without_secrets": lambda text: Markup(escape(redact_text(text))),
        "heading": _heading,
        "label": labels.label_of,
        "short": _short,
        "cut": _cut,
        "tail": _tail,
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
        "details": details,
        "asset": address,
        "took": times.execution_duration,
        "other_fields": _other_fields,
    }
    return environment


def _printed(value: Any) -> Any:
    """Returns what a template prints of a value."""
    return visible(redact_text(value), multiline=True) if type(value) is str else value


def _short(text: str) -> str:
    """Returns a text cut to the length of a name."""
    return text if len(text) <= MAX_TITLE else text[:MAX_TITLE] + "…"


def _cut(text: str, longest: int = MAX_MESSAGE) -> str:
    """Returns a message cut to what a page has room for."""
    return text if len(text) <= longest else text[:longest] + "… (the rest is not shown)"


def _tail(text: str, longest: int = MAX_MESSAGE) -> str:
    """Returns the end of a traceback, which says most."""
    return text if len(text) <= longest else "(the beginning is not shown) …" + text[-longest:]


def _heading(name: str) -> str:
    """Returns an identifier as a label, and any other name in quotation marks: it is not the page that
    speaks."""
    label = _short(labels.label_of(name))
    return label if labels.is_identifier(name) else f"“{label}”"


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
    values = {
        "caller": caller,
        "path": request.url.path,
        "form_token": sessions.form_token(request, token),
        "token": token,
        "complete": _complete(request, token),
        **context,
    }
    html = _rendered(template, values)
    if html is None:
        html = _rendered(
            "message.html",
            {**values, "title": "Too much for one page", "detail": TOO_LARGE, "too_large": True},
        )
    response = Response(html, status, headers=HEADERS, media_type="text/html; charset=utf-8")
    sessions.set_visitor_cookie(request, response)
    return response


TOO_LARGE = "This would take more than a megabyte; it can only be read as JSON"


def _complete(request: Request, token: str) -> str:
    """Returns the address of all that this page shows a part of, as JSON."""
    query = {"format": "json", **({"token": token} if token else {})}
    return f"{quote(request.scope['path'], errors='replace')}?{urlencode(query)}"


def _rendered(template: str, values: Mapping[str, Any]) -> bytes | None:
    """Returns a page as HTML; None if it is larger than `MAX_PAGE_BYTES`, which is noticed while it is
    made."""
    parts, size = [], 0
    for part in ENVIRONMENT.get_template(template).generate(values):
        parts.append(part.encode("utf-8", "replace"))
        size += len(parts[-1])
        if size > MAX_PAGE_BYTES:
            return None
    return b"".join(parts)


def message_page(request: Request, status: int, title: str, detail: str, token: str = "") -> Response:
    """Renders a page with a title and one sentence."""
    return render(request, "message.html", {"title": title, "detail": detail}, status=status, token=token)


def redirect(path: str, **query: str) -> Response:
    """Redirects to another page with GET; omits empty query parameters."""
    query = {name: value for name, value in query.items() if value}
    return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303, headers=HEADERS)


ENVIRONMENT = _environment()
