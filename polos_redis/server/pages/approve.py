"""The approval page: what is asked, by whom, until when; a form; and what has become of it.

Looking never decides (mail scanners follow links): only the form's POST does, and the script has the last
word on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from polos_redis.decisions import answers
from polos_redis.decisions.answer_policy import AnswerPolicy, verdict
from polos_redis.errors import (
    AlreadyResumedError,
    ExecutionFinishedError,
    InvalidAnswerError,
    NotApproverError,
    ResumeError,
    ShownChangedError,
    SuspensionExpiredError,
)
from polos_redis.executions.queries import read_suspension
from polos_redis.server import paths  # noqa: F401 - `anything` in the routes
from polos_redis.server.callers import Caller
from polos_redis.server.pages import display, forms
from polos_redis.server.pages.layout import PageRoute, approve_path, go, render, visitor
from polos_redis.server.pages.sessions import sessions_of
from polos_redis.server.pages.sheets import Sheet
from polos_redis.server.problems import Problem
from polos_redis.server.security import check_address, check_link
from polos_redis.server.site import site_of

MOST_FIELDS = 4000  # of one sent form
OURS = ("form_token", "token", "shown_digest", "resumed_by")  # what a form carries beside the answer


router = APIRouter(route_class=PageRoute)


@router.api_route("/approve/{execution_id}", methods=["GET", "HEAD"])
async def find(request: Request, execution_id: str, token: str = "") -> Response:
    """The only suspension that is open, else all to choose from."""
    caller = await visitor(request, token=token)
    if caller.link is not None:
        return go(approve_path(caller.link.execution_id, caller.link.step_key), token=token)
    execution = await site_of(request).client.get_execution(execution_id)
    waiting = [*execution["open_suspensions"], *execution["open_suspensions_below"]]
    if len(waiting) == 1:
        return go(approve_path(waiting[0]["execution_id"], waiting[0]["step_key"]))
    decided = [one for one in execution["suspensions"] if one["status"] != "open"]
    return render(request, "choose.html", {"execution": execution, "waiting": waiting, "decided": decided})


@router.api_route("/approve/{execution_id}/{step_key:anything}", methods=["GET", "HEAD"])
async def look(request: Request, execution_id: str, step_key: str, token: str = "") -> Response:
    caller = await visitor(request, token=token)
    check_address(caller, execution_id, step_key)
    suspension = await site_of(request).client.get_suspension(execution_id, step_key)
    check_link(caller, suspension)
    form = forms.of_suspension(suspension)
    return _page(request, caller, suspension, form, form.blank(), token)


@router.post("/approve/{execution_id}/{step_key:anything}")
async def decide(request: Request, execution_id: str, step_key: str) -> Response:
    sent = await request.form(max_files=0, max_fields=MOST_FIELDS, max_part_size=1 << 24)
    given = {name: str(sent.get(name, "")) for name in OURS}
    token = given["token"]
    caller = await visitor(request, token=token)
    sessions_of(request).check_form(request, given["form_token"], token)
    check_address(caller, execution_id, step_key)
    client = site_of(request).client
    stored, suspension = await read_suspension(client, execution_id, step_key)
    check_link(caller, suspension)
    if not caller.may("approve"):
        raise Problem(403, "you may look at this, but not decide it", kind="forbidden", scope="approve")
    form = forms.of_suspension(suspension)
    sheet = Sheet((name, text) for name, text in sent.multi_items() if isinstance(text, str))

    def again(status: int, notice: str = "") -> Response:
        return _page(request, caller, suspension, form, sheet, token, status=status, notice=notice)

    if form.change_rows(sheet):
        return again(200)
    answer = form.read(sheet)
    if sheet.complaints:
        return again(422)
    name = caller.name or (given["resumed_by"].strip() if caller.source == "dev" else "") or None
    try:
        digest = given["shown_digest"] or None
        await answers.decide_stored(
            client, stored, answer, by=name, groups=caller.groups, digest=digest, channel="page"
        )
    except InvalidAnswerError as error:
        form.blame(sheet, error.errors)
        return again(422)
    except NotApproverError as error:
        return again(403, f"Nothing was sent: {error.reason}.")
    except ResumeError as error:
        suspension = await client.get_suspension(suspension["execution_id"], suspension["step_key"])
        form = forms.of_suspension(suspension)
        status, notice = _refusal(error)
        return again(status, notice)
    return go(approve_path(suspension["execution_id"], suspension["step_key"]), token=token)


def _refusal(error: ResumeError) -> tuple[int, str]:
    if isinstance(error, ShownChangedError):
        return (
            409,
            "What is asked has changed since you opened this page. Nothing was sent: please look again.",
        )
    if isinstance(error, AlreadyResumedError):
        return 409, "This was already decided, otherwise than you did now. Your answer was not taken."
    if isinstance(error, SuspensionExpiredError):
        return 410, "The time for this had run out. Your answer was not taken."
    if isinstance(error, ExecutionFinishedError):
        return 409, "Nothing waits for this any more. Your answer was not taken."
    return 409, f"Your answer was not taken: {error}."


def _page(
    request: Request,
    caller: Caller,
    suspension: Mapping[str, Any],
    form: forms.Form,
    sheet: Sheet,
    token: str,
    *,
    status: int = 200,
    notice: str = "",
) -> Response:
    decisions = suspension["decisions"]
    return render(
        request,
        "approve.html",
        {
            "suspension": suspension,
            "asked": display.summary(suspension["step_key"], suspension["data"]),
            "json": display.as_json(suspension["data"]),
            "outcome": display.outcome(suspension),
            "form": form,
            "sheet": sheet,
            "complaints": form.complaints(sheet),
            "notice": notice,
            "hindrance": _hindrance(caller, suspension),
            "approvals": sum(verdict(one["data"]) is True for one in decisions),
            "asks_name": caller.source == "dev" and caller.name is None,
            "resumed_by": sheet.get("resumed_by"),
            "verdict": verdict,
        },
        status=status,
        token=token,
    )


def _hindrance(caller: Caller, suspension: Mapping[str, Any]) -> str:
    """Why this visitor can't decide; empty if they can."""
    if not caller.may("approve"):
        if caller.link is not None:
            return "This link is for looking only."
        return "Your API key lets you look at this, but not decide it."
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
            {one for one in (suspension["user_id"], suspension["started_by"]) if one},
        )
    except NotApproverError as error:
        return f"This is not yours to decide: {error.reason}."
    return ""
