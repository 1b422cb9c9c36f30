"""The inbox, the list of executions and an execution's page, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from polos_redis import PolosClient, Workflow, WorkflowContext, apikeys
from polos_redis.links import Links
from polos_redis.server.pages import shown_values
from polos_redis.server.pages.execution import MAX_NEWEST
from polos_redis.server.pages.inbox import ROW_NODES
from polos_redis.server.pages.rendering import MAX_PAGE_BYTES
from polos_redis.values import plain
from tests.harness.running import Running, created_at, running, until
from tests.harness.servers import ChaosServer
from tests.harness.serving import serving
from tests.harness.visiting import Visitor, visiting


async def asks(ctx: WorkflowContext, input: Any) -> Any:
    return await ctx.step.suspend("check it", data=input, timeout=3600)


async def child(ctx: WorkflowContext, input: int) -> int:
    return await ctx.step.run("double", lambda: input * 2)


async def works(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    await ctx.step.run("first step", asyncio.sleep, 0)
    doubled = await ctx.step.invoke_and_wait("below", CHILD, 21)
    answer = await ctx.step.suspend("look", data={"doubled": doubled})

    def last() -> dict[str, Any]:
        if not answer["data"]["approved"]:
            raise ValueError("<b>not approved</b>")
        return {"total_cost": 12345.5, "lines": [{"what": "pen", "price": 2}, {"what": "ink", "price": 3}]}

    return await ctx.step.run("last", last, max_retries=0)


async def walks(ctx: WorkflowContext, input: int) -> None:
    for number in range(input):
        await ctx.step.run(f"walk {number:04}", lambda: None)


async def heavy(ctx: WorkflowContext, input: int) -> Any:
    for number in range(input):
        value = {"text": "<" * 20_000, "rows": [{"a": one, "b": "\u202e"} for one in range(1000)]}
        await ctx.step.run(f"heavy {number}", lambda value=value: value)
    await ctx.step.suspend("look", data={f"k{one}": "x" * 20 for one in range(10_000)})
    return ["y" * 1000] * 500


async def continues(ctx: WorkflowContext, input: int) -> int:
    await ctx.step.run(f"page {input}", asyncio.sleep, 0)
    if input < 3:
        await ctx.continue_as_new(input + 1)
    return input


ASKS: Workflow[Any, Any] = Workflow(asks, "lists_asks")
CONTINUES: Workflow[Any, Any] = Workflow(continues, "lists_continues")
CHILD: Workflow[Any, Any] = Workflow(child, "lists_child")
HEAVY: Workflow[Any, Any] = Workflow(heavy, "lists_heavy")
WALKS: Workflow[Any, Any] = Workflow(walks, "lists_walks")
WORKS: Workflow[Any, Any] = Workflow(works, "lists_works")


@pytest.fixture
async def run(redis_url: str, namespace: str) -> AsyncIterator[Running]:
    async with running(redis_url, namespace, ASKS, CHILD, CONTINUES, HEAVY, WALKS, WORKS) as run:
        yield run


@pytest.fixture
async def visitor(run: Running) -> AsyncIterator[Visitor]:
    """A logged-in person who may do everything but administer."""
    _, secret = await apikeys.create(run.client, "ann", ["read", "invoke", "approve"])
    async with serving(run.client) as base, visiting(base) as visitor:
        await visitor.log_in(secret)
        yield visitor


async def asked(run: Running, *inputs: Any) -> list[str]:
    """Waiting executions, in this order."""
    found = []
    for value in inputs:
        handle = await run.client.invoke(ASKS, value)
        await run.parked(handle)
        found.append(handle.id)
    return found


class TestInbox:
    async def test_the_inbox_shows_open_suspensions_oldest_first(
        self, run: Running, visitor: Visitor
    ) -> None:
        assert "Nothing is waiting for a decision" in (await visitor.get("/")).text
        ids = await asked(run, {"amount": 1, "customer": "Ann"}, {"description": "<b>Second</b>"})
        page = await visitor.get("/")
        assert "2 decisions open" in page.text
        assert [link for link in page.links if "/approve/" in link] == [
            f"/approve/{one}/check%20it" for one in ids
        ]
        assert "Amount 1" in page.text and "Customer Ann" in page.text and "<b>Second</b>" in page.text
        await run.client.resume(suspend_execution_id=ids[0], suspend_step_key="check it", data=1)
        assert "1 decision open" in (await visitor.get("/")).text

    async def test_the_inbox_is_filtered(self, run: Running, visitor: Visitor) -> None:
        ids = await asked(run, {"who": "Zoë Müller", "amount": 5}, {"who": "Bob", "amount": 7})
        for query, expected in (
            ({"q": "zoë 5"}, ids[:1]),
            ({"q": "BOB"}, ids[1:]),
            ({"q": "check"}, ids),
            ({"q": ids[1]}, ids[1:]),
            ({"q": "zoë 7"}, []),
            ({"workflow": "lists_asks"}, ids),
            ({"workflow": "lists_asks", "q": "bob"}, ids[1:]),
            ({"workflow": "other"}, []),
        ):
            page = await visitor.get("/", **query)
            found = [link.split("/")[2] for link in page.links if "/approve/" in link]
            assert found == expected, query
            assert ("No open decision matches" in page.text) == (not expected)
            assert page.forms[1].get("q") == query.get("q", "")

    async def test_the_inbox_has_further_pages(self, run: Running, visitor: Visitor) -> None:
        await asked(run, *range(53))
        first = await visitor.get("/")
        assert "More than 50 decisions open" in first.text
        (after,) = [link for link in first.links if "cursor=" in link]
        second = await visitor.get(after)
        assert len([link for link in second.links if "/approve/" in link]) == 3
        page = await visitor.get("/", cursor="odd")
        assert page.status == 422 and "odd" in page.text

    @pytest.mark.failure(47)
    @pytest.mark.threat(22)
    async def test_large_data_is_neither_unpacked_nor_laid_out(
        self, run: Running, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = await asked(run, *({f"k{number}": f"v{number}" for number in range(60_000)} for _ in range(3)))
        shown = 0
        layout = shown_values._show

        def counted(*args: Any) -> Any:
            nonlocal shown
            shown += 1
            return layout(*args)

        def refused(data: bytes) -> Any:
            raise AssertionError(f"a value of {len(data)} bytes was decoded for a list")

        monkeypatch.setattr(shown_values, "_show", counted)
        monkeypatch.setattr(plain, "to_plain", refused)
        found, path = [], "/"
        while path:  # a page is short when its rows are large
            page = await visitor.get(path)
            assert page.status == 200 and len(page.response.content) < 50_000
            found += [link.split("/")[2] for link in page.links if "/approve/" in link]
            path = next((link for link in page.links if "cursor=" in link), "")
        assert found == ids and "K 0 v0" in page.text
        assert shown < 3 * 2 * ROW_NODES
        page = await visitor.get("/", q="v7 k8")  # what a preview has
        assert any(ids[0] in link for link in page.links)

    @pytest.mark.threat(14)
    async def test_a_token_in_the_data_is_shown_to_nobody(self, run: Running, visitor: Visitor) -> None:
        links = Links(["a secret of more than 32 characters, for tests"], "default", "https://a.example", 60)
        (other,) = await asked(run, {"amount": 1})
        url = links.url(other, "check it", 1, await created_at(run.client, other))
        token = url.partition("token=")[2]
        data = {"see": url, "nested": [{"deep": f"open {url} now"}], token: 1, "description": url}
        (waiting,) = await asked(run, data)
        pages = ["/", f"/executions/{waiting}", f"/approve/{waiting}/check it"]
        pages += [f"/executions/{waiting}?format=json", f"/approve/{waiting}/check%20it?format=json"]
        for path in pages:
            page = await visitor.get(path)
            assert page.status == 200 and "a.example" in page.response.text, path
            assert token not in page.response.text and token[:60] not in page.response.text, path


class TestExecutions:
    async def test_executions_are_listed_and_filtered(self, run: Running, visitor: Visitor) -> None:
        assert "No executions yet" in (await visitor.get("/executions")).text
        (waiting,) = await asked(run, 1)
        done = await run.client.invoke(CHILD, 1)
        await run.result(done)
        page = await visitor.get("/executions")
        assert [one for one in page.links if one.startswith("/executions/")] == [
            f"/executions/{done.id}",
            f"/executions/{waiting}",
        ]
        for query, expected in (
            ({"status": "waiting"}, waiting),
            ({"status": "completed"}, done.id),
            ({"workflow": "lists_child"}, done.id),
            ({"workflow": "lists_asks", "status": "waiting"}, waiting),
        ):
            page = await visitor.get("/executions", **query)
            assert [one for one in page.links if one.startswith("/executions/")] == [
                f"/executions/{expected}"
            ]
        assert "No matching executions" in (await visitor.get("/executions", status="failed")).text

    @pytest.mark.parametrize("query", [{"status": "odd"}, {"cursor": "odd"}])
    async def test_an_invalid_query_is_refused(self, visitor: Visitor, query: dict[str, str]) -> None:
        page = await visitor.get("/executions", **query)
        assert page.status == 422 and "odd" in page.text


class TestExecution:
    async def test_the_page_shows_everything(self, run: Running, visitor: Visitor) -> None:
        handle = await run.client.invoke(WORKS, {"day": "2026-03-01", "sources": ["crm"]}, user_id="carol")
        await run.opened(handle, "look")
        page = await visitor.get(f"/executions/{handle.id}")
        assert "Waiting for a decision: Look" in page.text and f"/approve/{handle.id}/look" in page.links
        await run.answer(handle, "look", {"approved": True})
        await run.result(handle)
        page = await visitor.get(f"/executions/{handle.id}")
        for text in (
            "Lists works Completed",
            "first step",
            "below lists_child, completed",
            "look approved",
            "Day 1 March 2026",
            "Total cost 12,345.5",
            "What Price pen 2 ink 3",
            "Started by carol",
            "Audit",
        ):
            assert text in page.text, text
        assert "not shown" not in page.text
        (below,) = {link for link in page.links if link.startswith(f"/executions/{handle.id}.")}
        child_page = await visitor.get(below)
        assert "Result 42" in child_page.text and f"/executions/{handle.id}" in child_page.links
        bars = [
            attributes for tag, attributes in page.tags if tag == "rect" and attributes["class"] != "track"
        ]
        assert [one["class"] for one in bars] == [
            "step ok",
            "child completed",
            "suspension answered",
            "step ok",
        ]
        starts = [float(one["x"].rstrip("%")) for one in bars]
        assert starts == sorted(starts)
        assert all(
            x >= 0 and x + float(one["width"].rstrip("%")) <= 100.01
            for x, one in zip(starts, bars, strict=True)
        )

    async def test_one_that_continued_as_new_says_so(self, run: Running, visitor: Visitor) -> None:
        handle = await run.client.invoke(CONTINUES, 1)
        assert await run.result(handle) == 3
        page = await visitor.get(f"/executions/{handle.id}")
        assert "Continued as new in run 3; this page has what happened since" in page.text
        assert "page 3" in page.text and "page 2" not in page.text

    async def test_a_long_journal_says_so(
        self, run: Running, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = await run.client.invoke(WORKS, {"day": "2026-03-01", "sources": ["crm"]})
        await run.opened(handle, "look")
        long = "Journal 4 records of at most 10: long"
        assert long not in (await visitor.get(f"/executions/{handle.id}")).text
        monkeypatch.setenv("POLOS_MAX_JOURNAL_RECORDS", "10")
        assert long in (await visitor.get(f"/executions/{handle.id}")).text
        await run.client.cancel(handle.id)
        assert long not in (await visitor.get(f"/executions/{handle.id}")).text

    async def test_an_execution_that_no_worker_serves_says_so(self, run: Running, visitor: Visitor) -> None:
        unknown = await run.client.invoke("lists_unknown")
        assert "No worker serves this workflow." in (await visitor.get(f"/executions/{unknown.id}")).text
        await run.client.cancel(unknown.id)
        for handle in (unknown, await run.client.invoke(ASKS, 1)):
            assert "No worker serves" not in (await visitor.get(f"/executions/{handle.id}")).text

    async def test_a_long_execution_shows_its_newest_steps(self, run: Running, visitor: Visitor) -> None:
        handle = await run.client.invoke(WALKS, MAX_NEWEST + 3)
        await run.result(handle)
        page = await visitor.get(f"/executions/{handle.id}")
        assert "3 earlier bars not shown" in page.text
        assert "3 earlier steps not shown" in page.text
        steps = [
            attributes["data-key"]
            for tag, attributes in page.tags
            if tag == "details" and "data-key" in attributes
        ]
        bars = [
            attributes["data-key"].strip()
            for tag, attributes in page.tags
            if tag == "li" and "data-key" in attributes
        ]
        assert len(set(steps)) == len(set(bars)) == MAX_NEWEST
        last = f"walk {MAX_NEWEST + 2:04}"
        assert last in steps and f"step {last}" in bars

    async def test_large_values_are_shown_in_part(self, run: Running, visitor: Visitor) -> None:
        handle = await run.client.invoke(HEAVY, 60)
        await run.opened(handle, "look")
        await run.answer(handle, "look", {"approved": True, "why": "'" * 100_000})
        await run.result(handle)
        page = await visitor.get(f"/executions/{handle.id}")
        assert page.status == 200 and "Too much" not in page.text
        assert 50_000 < len(page.response.content) < MAX_PAGE_BYTES
        assert "more not shown" in page.text and "look approved" in page.text
        assert page.text.count("heavy") >= 60
        response = await visitor.http.get(f"/executions/{handle.id}", params={"format": "json"})
        everything, known = response.json(), await run.client.get_execution(handle.id)
        assert everything == json.loads(json.dumps(known))
        assert len(response.content) > MAX_PAGE_BYTES

    async def test_a_failed_execution_is_retried(self, run: Running, visitor: Visitor) -> None:
        handle = await run.client.invoke(WORKS, {})
        await run.opened(handle, "look")
        await run.answer(handle, "look", {"approved": False})
        await run.reached(handle, "failed")
        page = await visitor.get(f"/executions/{handle.id}")
        assert "StepExecutionError" in page.text and "<b>not approved</b>" in page.text
        assert "<b>not" not in page.response.text
        own, whole = page.response.text.split("<summary>Traceback</summary>")[1].split("With all frames")[:2]
        assert ", in _run\n" not in own and ", in _run\n" in whole.split("</pre>")[0]
        retried = await visitor.send(page, page.form("/retry"))
        assert retried.url == f"{visitor.base}/executions/{handle.id}"
        await until(lambda: run.client.get_execution(handle.id))
        await run.reached(handle, "failed")
        assert (await run.client.get_execution(handle.id))["run"] == 2
        assert "run 2" in (await visitor.get(f"/executions/{handle.id}")).text

    async def test_a_waiting_execution_is_cancelled_once(self, run: Running, visitor: Visitor) -> None:
        waiting, other = await asked(run, 1, 2)
        page = await visitor.get(f"/executions/{waiting}")
        for _ in range(2):  # the response to the first may have been lost
            sent = await visitor.send(page, page.form("/cancel"))
            assert sent.status == 200 and "Cancelled" in sent.text and "Not cancelled" not in sent.text
        assert (await run.client.get_execution(waiting))["cancelled_by"] == "ann"
        page = await visitor.get(f"/executions/{other}")
        await run.client.cancel(other, cancelled_by="bob")
        late = await visitor.send(page, page.form("/cancel"))
        assert late.status == 409 and "Not cancelled: this execution already ended" in late.text
        assert not [one for one in late.forms if "cancel" in one.action]

    async def test_a_reader_has_no_buttons(self, run: Running) -> None:
        (waiting,) = await asked(run, 1)
        _, secret = await apikeys.create(run.client, "eve", ["read"])
        async with serving(run.client) as base, visiting(base) as eve:
            await eve.log_in(secret)
            page = await eve.get(f"/executions/{waiting}")
            assert [one.action for one in page.forms] == ["/logout"]
            token = page.form("/logout").get("form_token")
            response = await eve.http.post(f"/executions/{waiting}/cancel", data={"form_token": token})
            assert response.status_code == 403 and "invoke" in response.text
        assert (await run.client.get_execution(waiting))["status"] == "waiting"

    async def test_a_person_who_may_not_read_sees_nothing(self, run: Running) -> None:
        (waiting,) = await asked(run, {"secret": "xyzzy"})
        _, secret = await apikeys.create(run.client, "eve", ["invoke"])
        async with serving(run.client) as base, visiting(base) as eve:
            await eve.log_in(secret)
            for path in ("/", "/executions", f"/executions/{waiting}", f"/approve/{waiting}"):
                page = await eve.get(path)
                assert page.status == 403 and "xyzzy" not in page.response.text

    async def test_an_unknown_execution_is_not_found(self, visitor: Visitor) -> None:
        page = await visitor.get("/executions/nothing")
        assert page.status == 404 and "No such execution" in page.text


async def test_without_redis_the_page_says_so(chaos_server: ChaosServer, namespace: str) -> None:
    async with (
        PolosClient(chaos_server.url, namespace, patience_seconds=0.2) as client,
        serving(client, insecure_dev=True) as base,
        visiting(base) as visitor,
    ):
        assert (await visitor.get("/")).status == 200
        chaos_server.kill()
        page = await visitor.get("/")
        assert page.status == 503 and "Redis" in page.text and page.response.headers["retry-after"]
        chaos_server.start()
        await until(lambda: _works(visitor))


async def _works(visitor: Visitor) -> bool:
    return (await visitor.get("/")).status == 200
