"""The approval page over HTTP, as a browser without scripts uses it."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, Literal
from urllib.parse import urljoin

import pytest
from pydantic import BaseModel, Field

from polos_redis import ExecutionHandle, PolosClient, Rejection, Workflow, WorkflowContext, apikeys
from polos_redis.links import Links
from polos_redis.server.pages.rendering import MAX_PAGE_BYTES
from tests.harness.running import Running, created_at, running, until
from tests.harness.serving import serving
from tests.harness.visiting import Page, Visitor, visiting

SECRET = "a secret of more than 32 characters, for tests"


class Decision(BaseModel):
    approved: bool
    amount: float = Field(le=100)
    pay_by: date
    way: Literal["mail", "phone"] = "mail"
    names: list[str] = []
    reason: str | None = None


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Refusal(BaseModel):
    approved: Literal[False]
    ground: Literal["price", "date"]
    note: str = Field(min_length=3)


async def asks(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    options = dict(input)
    key = options.pop("key", "ok")
    if options.pop("typed", False):
        options["schema"] = Decision
    if options.pop("nested", False):
        options["schema"] = Tree
    if options.pop("refusable", False):
        options["reject_schema"] = Refusal
    return await ctx.step.suspend(key, **options)


async def asks_twice(ctx: WorkflowContext, input: None) -> Any:
    return await asyncio.gather(ctx.step.suspend("first"), ctx.step.suspend("second"))


async def asks_below(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    return await ctx.step.invoke_and_wait("child", ASKS, input)


ASKS: Workflow[Any, Any] = Workflow(asks, "pages_asks")
TWICE: Workflow[Any, Any] = Workflow(asks_twice, "pages_asks_twice")
BELOW: Workflow[Any, Any] = Workflow(asks_below, "pages_asks_below")


@dataclass
class Desk:
    """A worker, a server, and a person with a browser."""

    run: Running
    links: Links
    base: str
    visitor: Visitor

    @property
    def client(self) -> PolosClient:
        return self.run.client

    async def asked(self, **options: Any) -> ExecutionHandle[Any]:
        handle = await self.client.invoke(ASKS, {"data": {"amount": 5}, **options}, user_id="starter")
        await self.run.parked(handle)
        return handle

    async def link(self, handle: ExecutionHandle[Any], key: str = "ok", run: int = 1, **options: Any) -> str:
        return self.links.url(handle.id, key, run, await created_at(self.client, handle.id), **options)

    async def token(self, handle: ExecutionHandle[Any], **options: Any) -> str:
        return (await self.link(handle, **options)).partition("?token=")[2]

    async def by_link(
        self, handle: ExecutionHandle[Any], key: str = "ok", run: int = 1, **options: Any
    ) -> Page:
        return await self.visitor.get(await self.link(handle, key, run, **options))

    async def decision(self, handle: ExecutionHandle[Any], key: str = "ok") -> dict[str, Any]:
        return await self.client.get_suspension(handle.id, key)

    async def key(self, name: str = "ann", *scopes: str, groups: tuple[str, ...] = ()) -> str:
        _, secret = await apikeys.create(self.client, name, scopes or ("read", "approve"), groups=groups)
        return secret


@pytest.fixture
async def desk(redis_url: str, namespace: str) -> AsyncIterator[Desk]:
    async with running(redis_url, namespace, ASKS, TWICE, BELOW) as run:
        links = Links([SECRET], namespace, "", 3600)
        async with serving(run.client, links=links) as base, visiting(base) as visitor:
            yield Desk(run, Links([SECRET], namespace, base, 3600), base, visitor)


@pytest.fixture
async def open_desk(redis_url: str, namespace: str) -> AsyncIterator[Desk]:
    """A desk that lets anybody in, for development."""
    async with (
        running(redis_url, namespace, ASKS, TWICE, BELOW) as run,
        serving(run.client, insecure_dev=True) as base,
        visiting(base) as visitor,
    ):
        yield Desk(run, Links([SECRET], namespace, base, 3600), base, visitor)


class TestDeciding:
    @pytest.mark.parametrize(("button", "approved"), [("Approve", True), ("Reject", False)])
    async def test_a_link_decides(self, desk: Desk, button: str, approved: bool) -> None:
        handle = await desk.asked()
        page = await desk.by_link(handle, name="ann@example.com")
        assert page.status == 200 and "Pages asks" in page.text and "Amount 5" in page.text
        done = await desk.visitor.send(page, page.form("/approve"), button, reason="as agreed")
        assert done.status == 200 and ("Approved" if approved else "Rejected") in done.text
        assert "by ann@example.com" in done.text and "as agreed" in done.text
        assert [form for form in done.forms if "approve" in form.action] == []
        answer = (await desk.run.result(handle))["data"]
        assert answer == {"approved": approved, "reason": "as agreed"}
        found = await desk.decision(handle)
        assert (found["resumed_by"], found["channel"]) == ("ann@example.com", "page")

    async def test_viewing_decides_nothing(self, desk: Desk) -> None:
        handle = await desk.asked()
        url = await desk.link(handle)
        for method in ("GET", "HEAD"):
            response = await desk.visitor.http.request(method, url)
            assert response.status_code == 200
        assert (await desk.decision(handle))["status"] == "open"

    async def test_a_session_decides(self, desk: Desk) -> None:
        handle = await desk.asked(approvers=["group:finance"])
        before = await desk.visitor.get(f"/approve/{handle.id}/ok")
        assert before.url.startswith(f"{desk.base}/login") and "Log in" in before.text
        assert before.form("/login").get("next") == f"/approve/{handle.id}/ok"
        key = await desk.key("bob", groups=("finance",))
        page = await desk.visitor.send(before, before.form("/login"), key=key)
        assert page.url == f"{desk.base}/approve/{handle.id}/ok" and "You are deciding as bob" in page.text
        await desk.visitor.send(page, page.form("/approve"), "Approve")
        assert (await desk.decision(handle))["resumed_by"] == "bob"

    async def test_in_development_the_page_asks_for_a_name(self, open_desk: Desk) -> None:
        handle = await open_desk.asked(approvers=["carol"])
        page = await open_desk.visitor.get(f"/approve/{handle.id}/ok")
        refused = await open_desk.visitor.send(page, page.form("/approve"), "Approve", resumed_by="dave")
        assert refused.status == 403 and "carol" in refused.text
        assert refused.form("/approve").get("resumed_by") == "dave"
        done = await open_desk.visitor.send(page, page.form("/approve"), "Approve", resumed_by="carol")
        assert "Approved by carol" in done.text

    async def test_a_repeated_submission_is_one_decision(self, desk: Desk) -> None:
        handle = await desk.asked()
        page = await desk.by_link(handle)
        form = page.form("/approve")
        both = await asyncio.gather(*(desk.visitor.send(page, form, "Approve") for _ in range(2)))
        assert [one.status for one in both] == [200, 200]
        assert all("Approved" in one.text for one in both)
        events = await desk.run.events(handle)
        assert [one.event_type for one in events].count("resume_ok") == 1

    async def test_a_conflicting_decision_is_refused_with_a_message(self, desk: Desk) -> None:
        handle = await desk.asked()
        page = await desk.by_link(handle, name="ann")
        await desk.run.client.resume(
            suspend_execution_id=handle.id, suspend_step_key="ok", data={"approved": True}, resumed_by="bob"
        )
        late = await desk.visitor.send(page, page.form("/approve"), "Reject")
        assert late.status == 409 and "already decided" in late.text and "Approved by bob" in late.text

    async def test_a_step_key_may_be_any_text(self, desk: Desk) -> None:
        for key in ("a/b c?d#e&f=g", "//", "ä ö 🙂", "100%", "two\nlines\n", "..a", "<b>", "a;b", "a+b", "/"):
            handle = await desk.asked(key=key)
            page = await desk.by_link(handle, key, name="ann")
            assert page.status == 200, key
            done = await desk.visitor.send(page, page.form("/approve"), "Approve")
            assert "Approved" in done.text, key

    async def test_a_descendants_suspension_opens_through_the_root(self, desk: Desk) -> None:
        handle = await desk.client.invoke(BELOW, {"data": {"amount": 7}})
        await desk.run.reached(handle, "waiting")
        await until(lambda: desk.client.list_suspensions())
        await desk.visitor.log_in(await desk.key())
        page = await desk.visitor.get(f"/approve/{handle.id}/ok")
        assert "Amount 7" in page.text
        done = await desk.visitor.send(page, page.form("/approve"), "Approve")
        assert "Approved" in done.text
        await desk.run.result(handle)


class TestForm:
    async def test_mistakes_are_named_beside_their_field_and_typed_text_is_kept(self, desk: Desk) -> None:
        handle = await desk.asked(typed=True)
        page = await desk.by_link(handle, name="ann")
        form = page.form("/approve")
        typed = {"amount": "much", "pay_by": "2026-02-30", "way": '"phone"', "reason": "<b>because</b>"}
        wrong = await desk.visitor.send(page, form, "Approve", **typed)
        assert wrong.status == 422
        retry = wrong.form("/approve")
        assert {name: retry.get(f"answer/{name}") for name in typed} == typed
        for name, words in (("amount", "Enter a number"), ("pay_by", "Enter a date")):
            control = retry.controls[f"answer/{name}"]
            assert control["aria-invalid"] == "true"
            wrongs = [
                attributes["id"] for tag, attributes in wrong.tags if attributes.get("class") == "wrong"
            ]
            assert control["aria-describedby"].split()[-1] in wrongs and words in wrong.text
        assert (await desk.decision(handle))["status"] == "open"

        # violations of the model's own rules are shown the same way
        wrong = await desk.visitor.send(wrong, retry, "Approve", amount="101", pay_by="2026-02-28")
        assert wrong.status == 422 and wrong.form("/approve").controls["answer/amount"]["aria-invalid"]
        assert "aria-invalid" not in wrong.form("/approve").controls["answer/pay_by"]
        done = await desk.visitor.send(wrong, wrong.form("/approve"), "Approve", amount="99.5")
        assert done.status == 200 and "Approved" in done.text
        result = await desk.run.result(handle)
        assert result == Decision(
            approved=True, amount=99.5, pay_by=date(2026, 2, 28), way="phone", reason="<b>because</b>"
        )

    async def test_rows_are_added_and_removed_without_deciding(self, desk: Desk) -> None:
        handle = await desk.asked(typed=True)
        page = await desk.by_link(handle)
        for _ in range(2):
            page = await desk.visitor.send(page, page.form("/approve"), "Add", amount="5", reason="kept")
            assert page.status == 200
        form = page.form("/approve")
        assert form.get("answer/amount") == "5" and form.get("answer/reason") == "kept"
        page = await desk.visitor.send(page, form, "Remove", **{"names/1": "zoe"})
        assert [name for name, _ in page.form("/approve").fields if name.startswith("answer/names/")] == [
            "answer/names/1"
        ]
        assert (await desk.decision(handle))["status"] == "open"
        await desk.visitor.send(page, page.form("/approve"), "Approve", pay_by="2026-01-01")
        assert (await desk.run.result(handle)).names == ["zoe"]

    async def test_a_declared_form_is_filled_in(self, desk: Desk) -> None:
        form = {
            "title": "Ship it?",
            "description": "All is green.",
            "context": {"branch": "main"},
            "fields": [
                {"name": "when", "type": "select", "options": ["now", "later"], "required": True},
                {"name": "percent", "type": "integer", "label": "Percent of users", "default": 10},
            ],
        }
        handle = await desk.asked(
            data={"version": "2.4", "_form": form, "_approval_url": "https://x.example"}
        )
        page = await desk.by_link(handle)
        assert "Ship it?" in page.text and "All is green." in page.text and "Branch main" in page.text
        assert "Version 2.4" in page.text and "Percent of users" in page.text
        done = await desk.visitor.send(page, page.form("/approve"), "Send", when='"later"', percent="25")
        assert "Answered" in done.text
        assert (await desk.run.result(handle))["data"] == {"when": "later", "percent": 25}

    async def test_nothing_of_a_form_is_cut_unsaid(self, desk: Desk) -> None:
        """What a page has no room for ends in "…"; the titles and descriptions are shown in full."""
        long = "x" * 2500 + " the end"
        fields: list[Any] = [{"name": "a", "label": long, "description": long}]
        fields += [{"name": "b", "type": "select", "options": [long, "y"]}]
        handle = await desk.asked(data={"_form": {"title": long, "description": long, "fields": fields}})
        text = (await desk.by_link(handle)).text.partition("Details")[0]
        assert text.count(" the end") == 2
        assert [*map(len, re.findall("(x+)…", text))] == [160, 299, 1999, 299]
        page = await desk.by_link(await desk.asked(form={"title": long, "description": long}))
        assert page.text.partition("Details")[0].count(" the end") == 2

    async def test_enter_decides_nothing(self, desk: Desk) -> None:
        page = await desk.by_link(await desk.asked())
        inside = [attributes for tag, attributes in page.tags if tag == "button"]
        assert "disabled" in inside[0]  # the form's default button

    async def test_every_control_has_an_accessible_name(self, desk: Desk) -> None:
        page = await desk.by_link(await desk.asked(typed=True))
        labelled = {attributes["for"] for tag, attributes in page.tags if tag == "label"}
        for tag, attributes in page.tags:
            if tag in ("input", "textarea", "select") and attributes.get("type") != "hidden":
                assert attributes["id"] in labelled
        identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(identities) == len(set(identities))


class TestApprovers:
    async def test_one_of_two_approvals_is_recorded_and_shown(self, desk: Desk) -> None:
        handle = await desk.asked(approvers=["ann", "bob", "carol"], required=2)
        page = await desk.by_link(handle, name="ann")
        assert "0 of 2 approvals" in page.text
        page = await desk.visitor.send(page, page.form("/approve"), "Approve", reason="fine by me")
        assert "1 of 2 approvals" in page.text and "ann approved" in page.text and "fine by me" in page.text
        assert "Your decision is recorded" in page.text
        assert [form for form in page.forms if "approve" in form.action] == []
        other = await desk.by_link(handle, name="bob")
        assert "1 of 2 approvals" in other.text
        done = await desk.visitor.send(other, other.form("/approve"), "Approve")
        assert "2 of 2 approvals" in done.text and "Approved" in done.text

    async def test_a_non_approver_is_refused_before_and_after(self, desk: Desk) -> None:
        handle = await desk.asked(approvers=["ann"])
        page = await desk.by_link(handle, name="ann")
        form = page.form("/approve")
        other = await desk.by_link(handle, name="bob")
        assert "You can't decide this" in other.text and "ann" in other.text
        assert [one for one in other.forms if "approve" in one.action] == []
        mine = {**desk.visitor.data(form, "Approve")}
        token = await desk.token(handle, name="bob")
        response = await desk.visitor.http.post(form.action, data={**mine, "token": [token]})
        assert response.status_code == 403  # the form belongs to ann
        assert (await desk.decision(handle))["status"] == "open"

    async def test_the_starter_may_not_decide(self, desk: Desk) -> None:
        handle = await desk.asked(allow_self=False)
        page = await desk.by_link(handle, name="starter")
        assert "You can't decide this" in page.text

    async def test_a_view_link_cannot_decide(self, desk: Desk) -> None:
        handle = await desk.asked()
        page = await desk.by_link(handle, scope="view")
        assert "allows viewing only" in page.text and "Amount 5" in page.text
        token = await desk.token(handle, scope="view")
        form = (await desk.by_link(handle)).form("/approve")
        response = await desk.visitor.http.post(
            form.action, data={**desk.visitor.data(form, "Approve"), "token": [token]}
        )
        assert response.status_code == 403
        assert (await desk.decision(handle))["status"] == "open"

    async def test_a_read_only_key_cannot_decide(self, desk: Desk) -> None:
        handle = await desk.asked()
        await desk.visitor.log_in(await desk.key("eve", "read"))
        page = await desk.visitor.get(f"/approve/{handle.id}/ok")
        assert "not to decide it" in page.text


class TestEnds:
    async def test_an_expired_suspension_takes_no_answer(self, desk: Desk) -> None:
        handle = await desk.asked(timeout=3600)
        page = await desk.by_link(handle)
        assert "expires in 59 min" in page.text
        await desk.run.make_due(handle, "ok", "s")
        await desk.run.reached(handle, "failed")
        late = await desk.visitor.send(page, page.form("/approve"), "Approve")
        assert (
            late.status == 410
            and "your answer was not recorded" in late.text
            and "Nobody answered" in late.text
        )
        assert "Expired" in (await desk.by_link(handle)).text

    async def test_a_cancelled_suspension_takes_no_answer(self, desk: Desk) -> None:
        handle = await desk.asked()
        page = await desk.by_link(handle)
        await desk.client.cancel(handle.id)
        late = await desk.visitor.send(page, page.form("/approve"), "Approve")
        assert late.status == 409 and "Closed" in late.text and "the workflow was cancelled" in late.text

    async def test_a_default_decision_is_shown(self, desk: Desk) -> None:
        handle = await desk.asked(timeout=3600, on_timeout={"approved": False, "reason": "too late"})
        assert "decided by default in 59 min" in (await desk.by_link(handle)).text
        await desk.run.make_due(handle, "ok", "s")
        await desk.run.result(handle)
        page = await desk.by_link(handle)
        assert page.status == 200 and "too late" in page.text
        assert [one for one in page.forms if "approve" in one.action] == []

    async def test_a_link_of_an_earlier_run_is_refused(self, desk: Desk) -> None:
        handle = await desk.asked(timeout=3600)
        await desk.run.make_due(handle, "ok", "s")
        await desk.run.reached(handle, "failed")
        await desk.client.retry(handle.id)
        await desk.run.parked(handle)
        page = await desk.by_link(handle)
        assert page.status == 403 and "was restarted" in page.text
        assert (await desk.by_link(handle, run=2)).status == 200

    async def test_an_unknown_suspension_is_not_found(self, desk: Desk) -> None:
        await desk.visitor.log_in(await desk.key())
        page = await desk.visitor.get("/approve/nothing/ok")
        assert page.status == 404 and "No such execution" in page.text
        handle = await desk.asked()
        assert (await desk.visitor.get(f"/approve/{handle.id}/other")).status == 404


class TestFinding:
    async def test_the_only_open_suspension_opens_directly(self, desk: Desk) -> None:
        handle = await desk.asked(key="a/b")
        await desk.visitor.log_in(await desk.key())
        page = await desk.visitor.get(f"/approve/{handle.id}")
        assert page.url.endswith(f"/approve/{handle.id}/a%2Fb")

    async def test_several_open_suspensions_are_listed_then_the_decided_ones(self, desk: Desk) -> None:
        handle = await desk.client.invoke(TWICE)
        await desk.run.opened(handle, "first")
        await desk.run.opened(handle, "second")
        await desk.visitor.log_in(await desk.key())
        page = await desk.visitor.get(f"/approve/{handle.id}")
        assert "2 decisions open" in page.text
        assert {f"/approve/{handle.id}/first", f"/approve/{handle.id}/second"} <= set(page.links)
        for key in ("first", "second"):
            await desk.run.answer(handle, key)
        await desk.run.result(handle)
        page = await desk.visitor.get(f"/approve/{handle.id}")
        assert "Nothing to decide: this workflow" in page.text and f"/approve/{handle.id}/first" in page.links

    async def test_a_link_opens_its_own_suspension(self, desk: Desk) -> None:
        handle = await desk.asked()
        token = await desk.token(handle)
        page = await desk.visitor.get(f"/approve/{handle.id}", token=token)
        assert page.url.startswith(f"{desk.base}/approve/{handle.id}/ok?token=")


class TestRejecting:
    async def test_reject_asks_for_no_field_but_the_reason(self, desk: Desk) -> None:
        handle = await desk.asked(typed=True)
        page = await desk.by_link(handle)
        (reject,) = [given for tag, given in page.tags if tag == "button" and given.get("value") == "false"]
        assert "formnovalidate" in reject
        done = await desk.visitor.send(
            page, page.form("/approve"), "Reject", amount="much", reason="no budget", json="{broken"
        )
        assert "Rejected" in done.text and "no budget" in done.text
        assert await desk.run.result(handle) == Rejection(reason="no budget")

    async def test_a_rejection_of_its_own_type_has_its_own_fields(self, desk: Desk) -> None:
        handle = await desk.asked(typed=True, refusable=True)
        page = await desk.by_link(handle)
        assert "If you reject" in page.text and "Ground" in page.text
        refused = await desk.visitor.send(page, page.form("/approve"), "Reject", **{"rejection/note": "x"})
        assert refused.status == 422 and "Fix 1 field" in refused.text  # the form's own check
        refused = await desk.visitor.send(
            refused, refused.form("/approve"), "Reject", **{"rejection/ground": '"price"'}
        )
        assert refused.status == 422 and "Note" in refused.text and "at least 3" in refused.text
        done = await desk.visitor.send(
            refused, refused.form("/approve"), "Reject", **{"rejection/note": "too dear"}
        )
        assert "Rejected" in done.text
        assert await desk.run.result(handle) == Refusal(approved=False, ground="price", note="too dear")


class TestAsJson:
    async def test_a_typed_answer_may_be_json(self, desk: Desk) -> None:
        handle = await desk.asked(typed=True)
        page = await desk.by_link(handle)
        answer = {"amount": 5, "pay_by": "2026-01-01", "names": ["", *("x" * 250)], "way": "phone"}
        for odd in ("1e999", "NaN", "[1_000]", '{"a": 1, "a": 2}', '{"approved": false}', "[" * 5000, "٣"):
            refused = await desk.visitor.send(page, page.form("/approve"), "Approve", json=odd)
            assert refused.status == 422 and "The whole answer as JSON" in refused.text, odd
            assert refused.form("/approve").get("json") == odd
        refused = await desk.visitor.send(
            page, page.form("/approve"), "Approve", json=json.dumps({**answer, "amount": 500})
        )
        assert refused.status == 422 and "amount: Input should be less than" in refused.text
        done = await desk.visitor.send(page, page.form("/approve"), "Approve", json=json.dumps(answer))
        assert "Approved" in done.text
        assert (await desk.run.result(handle)).names == answer["names"]

    async def test_an_odd_number_gets_an_error_at_its_field(self, desk: Desk) -> None:
        handle = await desk.asked(typed=True)
        page = await desk.by_link(handle)
        for odd in ("1e999", "-1e999", "NaN", "1_000", "٣", "1" * 5000, "1e5000", "0x1"):
            form = page.form("/approve")
            refused = await desk.visitor.send(page, form, "Approve", amount=odd, pay_by="2026-01-01")
            assert refused.status == 422 and refused.form("/approve").get("answer/amount") == odd
        assert (await desk.decision(handle))["status"] == "open"


@pytest.mark.failure(49)
@pytest.mark.threat(20)
class TestWhoSpeaks:
    """The page's own words and those of the data are told apart."""

    form: ClassVar[dict[str, Any]] = {
        "title": "Session expired",
        "description": "Log in at x.example",
        "fields": [
            {"name": "approved", "type": "checkbox", "label": "Refuse and report", "required": True},
            {"name": "note", "label": "Error: wrong password"},
        ],
    }

    async def test_a_form_in_the_data_speaks_as_data(self, desk: Desk) -> None:
        handle = await desk.asked(data={"amount": 5, "_form": self.form})
        page = await desk.by_link(handle)
        assert heading(page) == "Ok" and "<title>Ok" in page.response.text
        data = inside(page, "section", "of-data")
        assert "Data from the workflow" in data and "Session expired" in data and "Log in at" in data
        fields = inside(page, "fieldset", "of-data")
        assert "Fields from the data of the workflow" in fields and "Error: wrong password" in fields
        assert [words.strip() for _, _, words in page.form("/approve").buttons] == ["Approve", "Reject"]
        labels = re.findall("<label[^>]*>(.*?)</label>", page.response.text)
        assert not any("Refuse and report" in label for label in labels)
        await desk.visitor.send(page, page.form("/approve"), "Reject")
        assert (await desk.run.result(handle))["data"] == {"approved": False}

    async def test_a_declared_form_is_the_pages_and_one_in_the_data_is_data(self, desk: Desk) -> None:
        declared = {"title": "Pay this?", "description": "From the code.", "fields": [{"name": "limit"}]}
        handle = await desk.asked(data={"amount": 5, "_form": self.form}, form=declared)
        page = await desk.by_link(handle)
        assert heading(page) == "Pay this?" and "From the code." in page.text
        assert "Session expired" in inside(page, "section", "of-data")
        controls = page.form("/approve").controls
        assert "answer/limit" in controls and "answer/note" not in controls
        assert [words.strip() for _, _, words in page.form("/approve").buttons] == ["Send answer"]
        assert (await desk.decision(handle))["form"] == declared
        await desk.visitor.send(page, page.form("/approve"), "Send", limit="10")
        assert (await desk.run.result(handle))["data"] == {"limit": "10"}

    @pytest.mark.parametrize("declared", [{"form": {}}, {"typed": True}])
    async def test_a_form_in_the_data_does_not_count_beside_a_declared_one(
        self, desk: Desk, declared: dict[str, Any]
    ) -> None:
        handle = await desk.asked(data={"_form": self.form}, **declared)
        page = await desk.by_link(handle)
        assert "answer/note" not in page.form("/approve").controls
        buttons = [words.strip() for _, _, words in page.form("/approve").buttons]
        assert buttons[-2:] == ["Approve", "Reject"]

    async def test_a_step_key_that_is_a_sentence_is_quoted(self, desk: Desk) -> None:
        key = "Session expired: log in at x.example"
        page = await desk.by_link(await desk.asked(key=key), key)
        assert heading(page) == f"“{key}”"

    @pytest.mark.threat(21)
    async def test_invisible_characters_are_spelled_out(self, desk: Desk) -> None:
        field = {"name": "x\u200b", "type": "select", "label": "\u2066y", "options": ["\u3164"]}
        form = {"title": "a\u202eb", "fields": [field]}
        handle = await desk.asked(data={"k\u200b": "v\u202e", "_form": form})
        page = await desk.by_link(handle)
        for text in (r"a\u202eb", r"\u2066y", r"\u3164", r"k\u200b", r"v\u202e"):
            assert text in page.text.lower()
        done = await desk.visitor.send(page, page.form("/approve"), "Send", **{"x\u200b": '"\u3164"'})
        assert done.status == 200
        assert (await desk.run.result(handle))["data"] == {"x\u200b": "\u3164"}  # as it is

    @pytest.mark.threat(16)
    async def test_a_changed_form_is_another_thing_to_decide(self, desk: Desk) -> None:
        first = await desk.decision(await desk.asked(form={"title": "Keep it?"}))
        second = await desk.decision(await desk.asked(form={"title": "Delete it?"}))
        third = await desk.decision(await desk.asked())
        assert len({one["digest"] for one in (first, second, third)}) == 3


def heading(page: Page) -> str:
    return " ".join(inside(page, "h1", "").split())


def inside(page: Page, tag: str, cls: str) -> str:
    """The text of the first element with this class."""
    opening = rf'<{tag}[^>]*class="[^"]*{cls}[^"]*"[^>]*>' if cls else rf"<{tag}[^>]*>"
    found = re.search(rf"{opening}(.*?)</{tag}>", page.response.text, re.DOTALL)
    assert found is not None
    return html.unescape(re.sub(r"<[^>]+>", "", found[1]))


class TestSize:
    """However much is shown, a page is bounded, and says what it leaves out."""

    @pytest.mark.threat(22)
    @pytest.mark.parametrize(
        "data",
        [
            {f"k{number}": number for number in range(50_000)},
            {"rows": [{"a": number, "b": "<" * 10} for number in range(20_000)], "last": "here"},
            {"deep": [[[[["'" * 20] * 20] * 10] * 10] * 5]},
            {"text": "<\"&'>" * 100_000},
            {"hidden": "\u202e\u200b" * 100_000},
            {"a" * 100_000: "b"},
        ],
        ids=["flat", "table", "deep", "escaped", "invisible", "key"],
    )
    async def test_large_data_is_shown_in_part(self, desk: Desk, data: dict[str, Any]) -> None:
        data = {**data, "_form": {"fields": [{"name": "why", "required": True}]}}
        handle = await desk.asked(data=data)
        page = await desk.by_link(handle)
        assert page.status == 200 and len(page.response.content) < MAX_PAGE_BYTES
        (everything, *_) = [link for link in page.links if "format=json" in link]
        shown = await desk.visitor.http.get(everything)
        assert shown.json()["data"] == data
        done = await desk.visitor.send(page, page.form("/approve"), "Send", why="so")
        assert "Answered" in done.text

    @pytest.mark.threat(22)
    async def test_a_form_with_nested_rows_is_refused_before_it_is_built(self, desk: Desk) -> None:
        handle = await desk.asked(data={"rows": "nested"}, nested=True)
        page = await desk.by_link(handle)
        form = page.form("/approve")
        data = desk.visitor.data(form)
        data["answer/children#"] = [str(number) for number in range(200)]
        for number in range(200):
            data[f"answer/children/{number}/children#"] = [str(one) for one in range(15)]
        for pressed in ({"_add": ["answer/children"]}, {}):
            response = await desk.visitor.http.post(urljoin(page.url, form.action), data={**data, **pressed})
            assert response.status_code == 413 and "more rows than a page can show" in response.text
            assert len(response.content) < 10_000
        assert (await desk.decision(handle))["status"] == "open"

    async def test_a_long_text_with_an_error_elsewhere_is_not_shown_again(self, desk: Desk) -> None:
        handle = await desk.asked(typed=True)
        page = await desk.by_link(handle)
        long = "'" * 250_000
        refused = await desk.visitor.send(page, page.form("/approve"), "Approve", reason=long)
        assert refused.status == 422 and len(refused.response.content) < 100_000
        assert "Your answer was not recorded" in refused.text and "Amount: Fill in this field" in refused.text
        done = await desk.visitor.send(
            page, page.form("/approve"), "Approve", reason=long, amount="1", pay_by="2026-01-01"
        )
        assert "Approved" in done.text and (await desk.run.result(handle)).reason == long


class TestHostileData:
    @pytest.mark.threat(19)
    async def test_hostile_data_is_shown_and_does_nothing(self, desk: Desk) -> None:
        bad = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
        data = {
            bad: bad,
            "link": "javascript:alert(1)",
            "trick": "https://good.example@evil.example/",
            "turned": "\u202e001",
            "deep": [[[[[[[[[{"a": bad}]]]]]]]]],
            "long": "x" * 300_000,
            "many": list(range(5000)),
            "description": bad,
            "_form": {"title": bad, "description": bad, "fields": [{"name": bad, "label": bad, "type": bad}]},
        }
        handle = await desk.asked(key=bad, data=data)
        page = await desk.by_link(handle, bad, name=bad[:60])
        assert page.status == 200
        tags = [(tag, attributes) for tag, attributes in page.tags if tag in ("script", "img", "iframe")]
        assert [tag for tag, attributes in tags if not attributes.get("src", "").startswith("/static/")] == []
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert all(link.startswith(("/", "#")) for link in page.links)
        assert "\u202e" not in page.response.text
        assert len(page.response.content) < MAX_PAGE_BYTES
        policy = page.response.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy
        assert not any("style" in attributes for _, attributes in page.tags)


@pytest.mark.threat(16)
async def test_data_changed_since_it_was_shown_is_not_decided(desk: Desk) -> None:
    handle = await desk.asked()
    page = await desk.by_link(handle)
    form = page.form("/approve")
    form.fields = [(name, "0" * 64 if name == "shown_digest" else value) for name, value in form.fields]
    refused = await desk.visitor.send(page, form, "Approve", reason="typed")
    assert refused.status == 409 and "has changed since" in refused.text
    assert refused.form("/approve").get("answer/reason") == "typed"
    done = await desk.visitor.send(refused, refused.form("/approve"), "Approve")
    assert "Approved" in done.text
