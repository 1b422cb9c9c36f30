"""The approval page: shows a suspension, takes the answer from a form, and shows the outcome.

A GET never decides, because mail scanners follow links: only the form's POST does, and the script has the
final say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from polos_redis.decisions import answers
from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.decisions.answer_types import verdict
from polos_redis.errors import (
    AlreadyResumedError,
    ExecutionFinishedError,
    InvalidAnswerError,
    NotApproverError,
    ResumeError,
    ShownChangedError,
    SuspensionExpiredError,
)
from polos_redis.executions.queries import get_execution, read_suspension
from polos_redis.server import paths  # noqa: F401 - `anything` in the routes
from polos_redis.server.callers import Caller
from polos_redis.server.pages import forms
from polos_redis.server.pages.draft import Draft
from polos_redis.server.pages.page_route import PageRoute
from polos_redis.server.pages.posted import posted
from polos_redis.server.pages.previews import page_budget, suspension_preview
from polos_redis.server.pages.rendering import approve_path, redirect, render
from polos_redis.server.pages.shown_values import as_json
from polos_redis.server.pages.suspension_summary import outcome, summary
from polos_redis.server.pages.visitors import visitor
from polos_redis.server.problems import Problem
from polos_redis.server.security import check_address, check_link
from polos_redis.server.sessions import sessions_of
from polos_redis.server.site import site_of
from polos_redis.server.stored_json import StoredJson
from polos_redis.values.preview import Stored

MAX_CONTROLS = 4000  # of one submitted form
MAX_LISTED = 100  # suspensions, or errors

router = APIRouter(route_class=PageRoute)


@router.api_route("/approve/{execution_id}", methods=["GET", "HEAD"])
async def find(request: Request, execution_id: str, token: str = "") -> Response:
    """Redirects to the only open suspension, or lists them all."""
    caller = await visitor(request, token=token)
    if caller.link is not None:
        return redirect(approve_path(caller.link.execution_id, caller.link.step_key), token=token)
    execution = await get_execution(site_of(request).client, execution_id, Stored)
    waiting = [*execution["open_suspensions"], *execution["open_suspensions_below"]]
    if len(waiting) == 1:
        return redirect(approve_path(waiting[0]["execution_id"], waiting[0]["step_key"]))
    decided = [one for one in execution["suspensions"] if one["status"] != "open"]
    return render(
        request,
        "choose.html",
        {
            "execution": execution,
            "waiting": waiting[:MAX_LISTED],
            "decided": decided[-MAX_LISTED:],
            "hidden": {"waiting": len(waiting) - MAX_LISTED, "decided": len(decided) - MAX_LISTED},
        },
    )


@router.api_route("/approve/{execution_id}/{step_key:anything}", methods=["GET", "HEAD"])
async def show(
    request: Request, execution_id: str, step_key: str, token: str = "", format: str = ""
) -> Response:
    caller = await visitor(request, token=token)
    check_address(caller, execution_id, step_key)
    _, suspension = await read_suspension(site_of(request).client, execution_id, step_key, Stored)
    check_link(caller, suspension)
    if format == "json":
        return StoredJson(suspension)
    shown = suspension_preview(suspension, page_budget())
    form = forms.of_suspension(shown)
    return _page(request, caller, shown, form, form.blank(), token)


@router.post("/approve/{execution_id}/{step_key:anything}")
async def decide(request: Request, execution_id: str, step_key: str) -> Response:
    sent = await posted(request, controls=MAX_CONTROLS, large=True)
    token = _text(sent, "token")
    caller = await visitor(request, token=token)
    sessions_of(request).check_form(request, _text(sent, "form_token"), token)
    check_address(caller, execution_id, step_key)
    client = site_of(request).client
    stored, found = await read_suspension(client, execution_id, step_key, Stored)
    check_link(caller, found)
    if not caller.may("approve"):
        raise Problem(403, "you may view this, but not decide it", kind="forbidden", scope="approve")
    suspension = suspension_preview(found, page_budget())
    form = forms.of_suspension(suspension)
    draft = Draft((name, text) for name, text in sent.multi_items() if isinstance(text, str))
    if form.is_too_large(draft, texts=False):
        detail = "the form has more rows than a page can show; your answer was not recorded"
        raise Problem(413, detail, kind="too-large", title="Too many rows")

    def page(status: int, notice: str = "") -> Response:
        return _page(request, caller, suspension, form, draft, token, status=status, notice=notice)

    if _text(sent, "execution_created_at") not in ("", suspension["execution_created_at"]):
        again = "This workflow was started again since you opened this page"
        return page(409, f"{again}; your answer was not recorded.")
    if form.change_rows(draft):
        return page(200)
    answer = form.read(draft)
    if draft.errors:
        return page(422)
    typed_name = _text(sent, "resumed_by").strip() if caller.source == "dev" else ""
    try:
        await answers.decide_stored(
            client,
            stored,
            answer,
            by=caller.name or typed_name or None,
            groups=caller.groups,
            digest=_text(sent, "shown_digest") or None,
            channel="page",
        )
    except InvalidAnswerError as error:
        form.add_errors(draft, error.errors)
        return page(422)
    except NotApproverError as error:
        return page(403, f"Your answer was not recorded: {error.reason}.")
    except ResumeError as error:
        _, now = await read_suspension(client, suspension["execution_id"], suspension["step_key"], Stored)
        suspension = suspension_preview(now, page_budget())
        form = forms.of_suspension(suspension)
        return page(*_refusal(error))
    return redirect(approve_path(suspension["execution_id"], suspension["step_key"]), token=token)


def _text(sent: FormData, name: str) -> str:
    return str(sent.get(name, ""))


def _refusal(error: ResumeError) -> tuple[int, str]:
    """Returns the HTTP status and the notice for an answer that was refused."""
    if isinstance(error, ShownChangedError):
        return 409, "The data has changed since you opened this page; your answer was not recorded."
    if isinstance(error, AlreadyResumedError):
        return 409, "Someone already decided differently; your answer was not recorded."
    if isinstance(error, SuspensionExpiredError):
        return 410, "The deadline has passed; your answer was not recorded."
    if isinstance(error, ExecutionFinishedError):
        return 409, "The workflow no longer waits for this; your answer was not recorded."
    return 409, f"Your answer was not recorded: {error}."


def _page(
    request: Request,
    caller: Caller,
    suspension: Mapping[str, Any],
    form: forms.Form,
    draft: Draft,
    token: str,
    *,
    status: int = 200,
    notice: str = "",
) -> Response:
    decisions = suspension["decisions"]
    errors = form.errors(draft)
    if form.is_too_large(draft):  # what was typed can't be shown again
        texts = [f"{field.label}: {message}" if field else message for field, message in errors[:MAX_LISTED]]
        detail = notice or "What you entered is too long to be shown again. Go back to change it."
        context = {"title": "Your answer was not recorded", "detail": detail, "errors": texts}
        return render(request, "message.html", context, status=status if errors else 413, token=token)
    return render(
        request,
        "approve.html",
        {
            "suspension": suspension,
            "summary": summary(suspension),
            "json": as_json(suspension["data"]),
            "outcome": outcome(suspension),
            "form": form,
            "draft": draft,
            "errors": errors,
            "notice": notice,
            "obstacle": _obstacle(caller, suspension),
            "approvals": sum(verdict(one["data"]) is True for one in decisions),
            "asks_name": caller.source == "dev" and caller.name is None,
            "resumed_by": draft.get("resumed_by"),
            "verdict": verdict,
        },
        status=status,
        token=token,
    )


def _obstacle(caller: Caller, suspension: Mapping[str, Any]) -> str:
    """Returns why this visitor can't decide; empty if they can."""
    if not caller.may("approve"):
        if caller.link is not None:
            return "This link allows viewing only."
        return "Your API key allows you to view this, but not to decide it."
    if caller.name and any(one["by"] == caller.name for one in suspension["decisions"]):
        return "Your decision is recorded. Others still have to decide."
    if caller.source == "dev":
        return ""
    policy = AnswerPolicy(
        approvers=tuple(suspension["approvers"]),
        required=suspension["required"],
        rejections=suspension["rejections"],
        allow_self=suspension["allow_self"],
    )
    try:
        policy.check_person(
            suspension["execution_id"],
            suspension["step_key"],
            caller.name,
            caller.groups,
            {
                one
                for one in (suspension["user_id"], suspension["started_by"], *suspension["forked_by"])
                if one
            },
        )
    except NotApproverError as error:
        return f"You can't decide this: {error.reason}."
    return ""
