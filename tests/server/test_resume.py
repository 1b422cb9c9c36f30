"""Answering over HTTP: every outcome has its status, and all refusals one shape."""

from __future__ import annotations

import asyncio
from typing import Any, Literal
from urllib.parse import quote

import httpx2
import pytest
from pydantic import BaseModel

from polos_redis import BatchWorkflowInput, PolosClient, WorkflowContext, apikeys, workflow
from tests.harness.running import Running, running, until, working
from tests.harness.serving import calling, key, problem, serving


class Verdict(BaseModel):
    approved: bool
    amount: int = 0
    level: Literal["low", "high"] = "low"


@workflow(id="api-approval")
async def approval(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    rules: dict[str, Any] = {"timeout": input.get("timeout"), **input.get("rules", {})}
    if input.get("typed"):
        rules["schema"] = Verdict
    decided = await ctx.step.suspend("approve/it", data={"charge": 5}, **rules)
    if input.get("again"):
        await ctx.step.suspend("second")
    return decided.model_dump() if isinstance(decided, Verdict) else decided["data"]


@workflow(id="api-parent")
async def parent(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    children = [BatchWorkflowInput(approval, {}) for _ in range(input["children"])]
    return [child.result for child in await ctx.step.batch_invoke_and_wait("children", children)]


class Desk:
    """An API with a worker behind it, and waiting executions."""

    def __init__(self, api: httpx2.AsyncClient, run: Running) -> None:
        self.api = api
        self.run = run

    async def waiting(self, **input: Any) -> str:
        """An execution that waits for an answer to "approve/it"."""
        options = input.pop("options", {})
        handle = await self.run.client.invoke(approval, input, **options)
        await self.run.opened(handle, "approve/it")
        return handle.id

    async def resume(self, execution_id: str, data: Any = None, **more: Any) -> httpx2.Response:
        headers = more.pop("headers", None)
        body = {"step_key": "approve/it", "data": {"approved": True} if data is None else data, **more}
        return await self.api.post(f"/api/v1/executions/{execution_id}/resume", json=body, headers=headers)

    async def result(self, execution_id: str) -> Any:
        return await self.run.result(self.run.client.get_handle(execution_id))


@pytest.fixture
async def desk(redis_url: str, namespace: str) -> Any:
    async with (
        running(redis_url, namespace, approval, parent) as run,
        calling(run.client) as api,
    ):
        yield Desk(api, run)


@pytest.mark.also_on_cluster
async def test_an_answer_and_its_repetition_are_accepted(desk: Desk) -> None:
    execution_id = await desk.waiting()
    first = await desk.resume(execution_id, resumed_by="ann")
    assert first.status_code == 200
    outcome = first.json()
    assert outcome == {
        "outcome": "accepted",
        "execution_id": execution_id,
        "step_key": "approve/it",
        "resumed_by": "ann",
        "resumed_at": outcome["resumed_at"],
        "approvals": 1,
        "required": 1,
    }
    assert await desk.result(execution_id) == {"approved": True}
    repeated = await desk.resume(execution_id, resumed_by="ann")
    assert (repeated.status_code, repeated.json()) == (200, {**outcome, "outcome": "same"})


async def test_a_different_answer_learns_who_decided_and_when(desk: Desk) -> None:
    execution_id = await desk.waiting()
    first = (await desk.resume(execution_id, resumed_by="ann")).json()
    refused = problem(await desk.resume(execution_id, {"approved": False}), 409, "already-resumed")
    assert (refused["resumed_by"], refused["resumed_at"]) == ("ann", first["resumed_at"])
    assert await desk.result(execution_id) == {"approved": True}


async def test_of_many_concurrent_answers_one_is_accepted(desk: Desk) -> None:
    execution_id = await desk.waiting()
    answers = await asyncio.gather(*(desk.resume(execution_id, {"n": n}) for n in range(20)))
    (accepted,) = [n for n, answer in enumerate(answers) if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 409}
    assert await desk.result(execution_id) == {"n": accepted}


async def test_an_unknown_target_is_not_found(desk: Desk) -> None:
    problem(await desk.resume("0" * 32), 404, "execution-not-found")
    execution_id = await desk.waiting()
    refused = problem(await desk.resume(execution_id, step_key="else"), 404, "suspension-not-found")
    assert refused["open_steps"] == ["approve/it"]
    missing = await desk.api.get(f"/api/v1/executions/{execution_id}/suspensions/else")
    problem(missing, 404, "suspension-not-found")
    await desk.resume(execution_id)


async def test_a_late_answer_is_gone(desk: Desk) -> None:
    execution_id = await desk.waiting(timeout=3600)
    await desk.run.make_due(desk.run.client.get_handle(execution_id), "approve/it", "s")
    await desk.run.reached(desk.run.client.get_handle(execution_id), "failed")
    refused = problem(await desk.resume(execution_id), 410, "suspension-expired")
    assert refused["expired_at"] < "9999"


async def test_a_finished_execution_is_a_conflict(desk: Desk) -> None:
    execution_id = await desk.waiting()
    await desk.run.client.cancel(execution_id)
    refused = problem(await desk.resume(execution_id), 409, "execution-finished")
    assert refused["execution_status"] == "cancelled"


async def test_ambiguous_suspensions_are_named(desk: Desk) -> None:
    handle = await desk.run.client.invoke(parent, {"children": 2})
    await desk.run.reached(handle, "waiting")

    async def both() -> list[dict[str, Any]]:
        found = (await desk.api.get(f"/api/v1/executions/{handle.id}")).json()["open_suspensions_below"]
        return found if len(found) == 2 else []

    open_ones = await until(both)
    refused = problem(await desk.resume(handle.id), 409, "ambiguous-suspension")
    assert len(refused["candidates"]) == 2
    for one in open_ones:
        assert (await desk.resume(one["execution_id"])).status_code == 200
    await desk.run.result(handle)


@pytest.mark.also_on_cluster
async def test_a_descendants_suspension_is_found_through_the_root(desk: Desk) -> None:
    handle = await desk.run.client.invoke(parent, {"children": 1})
    path = f"/api/v1/executions/{handle.id}/suspensions/approve/it"

    async def opened() -> httpx2.Response | None:
        answer = await desk.api.get(path)
        return answer if answer.status_code == 200 else None

    found = await until(opened)
    outcome = (await desk.resume(handle.id)).json()
    assert outcome["execution_id"] == found.json()["execution_id"] != handle.id
    await desk.run.result(handle)


async def test_an_answer_of_another_type_learns_its_wrong_fields(desk: Desk) -> None:
    execution_id = await desk.waiting(typed=True)
    wrong = {"approved": True, "amount": "much", "level": "none"}
    refused = problem(await desk.resume(execution_id, wrong), 422, "invalid-answer")
    assert {one["field"] for one in refused["errors"]} == {"amount", "level"}
    assert all(one["message"] for one in refused["errors"])
    found = (await desk.api.get(f"/api/v1/executions/{execution_id}")).json()
    assert [one["step_key"] for one in found["open_suspensions"]] == ["approve/it"]  # nothing was woken
    assert found["open_suspensions"][0]["schema"]["properties"]["amount"]["type"] == "integer"
    await desk.resume(execution_id, {"approved": False, "amount": 3})
    assert await desk.result(execution_id) == {"approved": False, "amount": 3, "level": "low"}


async def test_one_of_two_approvals_is_recorded(desk: Desk) -> None:
    execution_id = await desk.waiting(rules={"required": 2})
    first = (await desk.resume(execution_id, resumed_by="ann")).json()
    assert (first["outcome"], first["approvals"], first["required"]) == ("recorded", 1, 2)
    shown = (await desk.api.get(f"/api/v1/executions/{execution_id}/suspensions/approve/it")).json()
    assert [(one["by"], one["channel"]) for one in shown["decisions"]] == [("ann", "api")]
    second = (await desk.resume(execution_id, resumed_by="bob")).json()
    assert (second["outcome"], second["approvals"], second["required"]) == ("accepted", 2, 2)
    assert (await desk.result(execution_id))["approved"] is True


async def test_an_answer_can_require_the_data_shown(desk: Desk) -> None:
    execution_id = await desk.waiting()
    shown = (await desk.api.get(f"/api/v1/executions/{execution_id}/suspensions/approve/it")).json()
    assert shown["data"] == {"charge": 5}
    problem(await desk.resume(execution_id, shown_digest="0" * 64), 409, "shown-changed")
    assert (await desk.resume(execution_id, shown_digest=shown["digest"])).status_code == 200


async def test_an_early_answer_is_stored(desk: Desk) -> None:
    execution_id = await desk.waiting(again=True)
    stored = await desk.resume(execution_id, "soon", step_key="second", early=True)
    assert (stored.status_code, stored.json()["outcome"]) == (202, "early")
    await desk.resume(execution_id)
    assert await desk.result(execution_id) == {"approved": True}


@pytest.mark.threat(11)
@pytest.mark.parametrize("rules", [{}, {"approvers": ["ann"]}], ids=["anybody", "approvers"])
@pytest.mark.parametrize("end", ["kept", "revoked", "expired", "an admin's, revoked"])
async def test_an_early_answer_counts_only_with_a_valid_key(
    end: str, rules: dict[str, Any], client: PolosClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It is given before the workflow asks; what counts is whether its key is valid when it asks."""
    by = {"resumed_by": "ann"} if end.startswith("an admin") else {}
    scopes = ["admin"] if by else ["approve"]
    lifetime = 3.0 if end == "expired" else None
    created, secret = await apikeys.create(client, "boss" if by else "ann", scopes, expires_in=lifetime)
    async with calling(client) as api:
        handle = await client.invoke(approval, {"rules": rules})
        run_desk = Desk(api, None)  # type: ignore[arg-type] # no worker yet, so nothing is asked
        stored = await run_desk.resume(
            handle.id, early=True, headers={"Authorization": f"Bearer {secret}"}, **by
        )
        assert (stored.status_code, stored.json()["outcome"]) == (202, "early")
        if end.endswith("revoked"):
            await apikeys.revoke(client, created.id)
        await until(lambda: end != "expired" or not created.holds)
        async with working(client, approval) as worker:
            at = Running(client, worker)
            if end == "kept":
                assert await at.result(handle) == {"approved": True}
                (entry,) = await client.audit(handle.id)
                assert (entry["by"], entry["channel"]) == ("ann", "api")
                return
            store = await client.store()

            async def is_dropped() -> bool:
                return await store.suspensions.early_answer(handle.id, "approve/it") is None

            await until(is_dropped)
            (why,) = {vars(one)["why"] for one in caplog.records if "early answer" in one.message}
            assert "the API key it was given with is no longer valid" in why
            assert (await client.get_suspension(handle.id, "approve/it"))["status"] == "open"
            (unused,) = await client.audit(handle.id)
            assert (unused["status"], unused["by"]) == ("unused", "ann")
            own = await key(client, "approve", name="ann")
            decided = await run_desk.resume(handle.id, {"approved": False}, headers=own)
            assert decided.json()["outcome"] == "accepted"
            assert await at.result(handle) == {"approved": False}


@pytest.mark.threat(11)
@pytest.mark.parametrize("data", [{"approved": True}, {"approved": False}], ids=["the same", "another"])
@pytest.mark.parametrize("by_key", [True, False], ids=["key", "client"])
async def test_an_early_answer_of_a_revoked_key_stands_in_nobodys_way(
    data: Any, by_key: bool, client: PolosClient
) -> None:
    created, secret = await apikeys.create(client, "mallory", ["approve"])
    async with calling(client) as api:
        handle = await client.invoke(approval, {"rules": {}})
        run_desk = Desk(api, None)  # type: ignore[arg-type] # no worker yet, so nothing is asked
        headers = {"Authorization": f"Bearer {secret}"}
        first = await run_desk.resume(handle.id, {"approved": True}, early=True, headers=headers)
        assert first.status_code == 202
        own = await key(client, "approve", name="ann")
        other = await run_desk.resume(handle.id, {"approved": False}, early=True, headers=own)
        problem(other, 409, "already-resumed")  # it stands while its key is valid
        await apikeys.revoke(client, created.id)
        if by_key:
            stored = (await run_desk.resume(handle.id, data, early=True, headers=own)).json()
            assert (stored["outcome"], stored["resumed_by"]) == ("early", "ann")
        else:
            kept = await client.resume(
                suspend_execution_id=handle.id,
                suspend_step_key="approve/it",
                data=data,
                resumed_by="ann",
                early=True,
            )
            assert (kept.outcome, kept.resumed_by) == ("early", "ann")
        async with working(client, approval) as worker:
            assert await Running(client, worker).result(handle) == data
        (entry,) = await client.audit(handle.id)
        assert entry["by"] == "ann"


async def test_the_audit_says_who_decided(desk: Desk) -> None:
    execution_id = await desk.waiting()
    await desk.resume(execution_id, resumed_by="ann")
    await desk.result(execution_id)
    (entry,) = (await desk.api.get(f"/api/v1/executions/{execution_id}/audit")).json()["audit"]
    assert (entry["status"], entry["by"], entry["channel"]) == ("answered", "ann", "api")
    assert entry["data"] == {"approved": True}
    problem(await desk.api.get("/api/v1/executions/nothing/audit"), 404, "execution-not-found")


async def test_the_key_says_who_answers(client: PolosClient) -> None:
    rules = {"approvers": ["ann", "group:finance"], "allow_self": False}
    async with (
        serving(client) as url,
        working(client, approval) as worker,
        httpx2.AsyncClient(timeout=60, base_url=url) as api,
    ):
        desk = Desk(api, Running(client, worker))

        async def asked(user_id: str) -> str:
            return await desk.waiting(rules=rules, options={"user_id": user_id})

        execution_id = await asked("carl")
        bob = await key(client, "approve", name="bob")
        refused = problem(await desk.resume(execution_id, headers=bob), 403, "not-approver")
        assert "ann" in refused["reason"]
        problem(await desk.resume(execution_id, headers=bob, resumed_by="ann"), 403, "forbidden")
        ann = await key(client, "approve", name="ann")
        outcome = (await desk.resume(execution_id, headers=ann)).json()
        assert (outcome["outcome"], outcome["resumed_by"]) == ("accepted", "ann")

        execution_id = await asked("dora")
        dora = await key(client, "approve", name="dora", groups=("finance",))
        problem(await desk.resume(execution_id, headers=dora), 403, "not-approver")  # it is her own request
        eve = await key(client, "approve", name="eve", groups=("finance",))
        assert (await desk.resume(execution_id, headers=eve)).json()["resumed_by"] == "eve"

        execution_id = await asked("carl")
        admin = await key(client, "admin", name="root")
        assert (await desk.resume(execution_id, headers=admin, resumed_by="ann")).status_code == 200
        (audit,) = (await api.get(f"/api/v1/executions/{execution_id}/audit", headers=admin)).json()["audit"]
        assert (audit["by"], audit["channel"]) == ("ann", "api, on behalf: root")


@workflow(id="api-odd-key")
async def odd_key(ctx: WorkflowContext, input: str) -> Any:
    return (await ctx.step.suspend(input))["data"]


@pytest.mark.parametrize("step_key", ["a/b/../c", "two\nlines", "ünï 🙂", "?&#%2F", " "])
async def test_a_step_key_may_be_any_text(client: PolosClient, step_key: str) -> None:
    async with working(client, odd_key), calling(client) as api:
        handle = await odd_key.invoke(client, step_key)

        async def asked() -> bool:
            return bool((await client.get_execution(handle.id))["open_suspensions"])

        await until(asked)
        path = f"/api/v1/executions/{handle.id}"
        found = await api.get(f"{path}/suspensions/{quote(step_key, safe='')}")
        assert found.json()["step_key"] == step_key
        answered = await api.post(f"{path}/resume", json={"step_key": step_key, "data": 7})
        assert answered.status_code == 200
        assert await handle.result() == 7
