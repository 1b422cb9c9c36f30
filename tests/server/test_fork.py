"""Forks over HTTP: who may fork what, and what is copied."""

from __future__ import annotations

from typing import Any

from polos_redis import Workflow, WorkflowContext, apikeys
from tests.harness.running import Running, running
from tests.harness.serving import calling, key, problem

PATH = "/api/v1/executions"


async def _work(ctx: WorkflowContext) -> list[Any]:
    answer = await ctx.step.suspend("ask", data={})
    kid = await ctx.step.invoke_and_wait("kid", kid_flow)
    return [answer["data"], kid, await ctx.step.uuid("number")]


async def _kid(ctx: WorkflowContext) -> str:
    return str(await ctx.step.uuid("kid"))


kid_flow: Workflow[Any, Any] = Workflow(_kid, "kid")
flow: Workflow[Any, Any] = Workflow(_work, "work")


async def done(at: Running) -> tuple[str, list[Any]]:
    """An execution that has ended, and its result."""
    handle = await at.client.invoke(flow)
    await at.opened(handle, "ask")
    await at.answer(handle, "ask", "yes")
    return handle.id, await at.result(handle)


async def test_it_is_forked(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, flow, kid_flow) as at, calling(at.client) as api:
        execution_id, (_, kid, _) = await done(at)
        path = f"{PATH}/{execution_id}/fork"
        caller = await key(at.client, "read", "invoke", name="bob")
        answer = await api.post(path, json={"from_step": "number"}, headers=caller)
        assert answer.status_code == 201
        fork = answer.json()
        assert fork == {"id": fork["id"], "workflow_id": "work", "forked_from": execution_id}
        assert answer.headers["location"] == f"{PATH}/{fork['id']}"
        handle = at.client.get_handle(fork["id"])
        await at.opened(handle, "ask")
        await at.answer(handle, "ask", "no")
        assert (await at.result(handle))[:2] == ["no", kid]
        found = (await api.get(f"{PATH}/{fork['id']}")).json()
        assert (found["forked_from"], found["forked_by"]) == (execution_id, ["bob"])

        body = {"from_step": "number", "results": {"number": "42"}, "keep_decisions": True}
        refused = problem(await api.post(path, json=body, headers=caller), 403, "forbidden")
        assert refused["detail"] == "the scope 'admin' is required to copy decisions"
        admin = await key(at.client, "admin", name="eve")
        copy = at.client.get_handle((await api.post(path, json=body, headers=admin)).json()["id"])
        assert await at.result(copy) == ["yes", kid, "42"]
        (entry,) = (await api.get(f"{PATH}/{copy.id}/audit")).json()["audit"]
        assert (entry["status"], entry["by"], entry["data"]) == ("copied", "eve", "yes")

        wrong = {"from_step": "number", "results": {"ask": "no"}}
        refused = problem(await api.post(path, json=wrong, headers=admin), 409, "step-not-forkable")
        assert refused["step_key"] == "ask"
        problem(await api.post(path, json={}, headers=admin), 422, "invalid-request")
        problem(
            await api.post(f"{PATH}/{'0' * 32}/fork", json=wrong, headers=admin), 404, "execution-not-found"
        )


async def test_who_may_fork(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, flow, kid_flow) as at, calling(at.client) as api:
        execution_id, _ = await done(at)
        (child,) = (await at.client.get_execution(execution_id)).children
        invoker = await key(at.client, "invoke")
        body = {"from_step": "number"}
        refused = problem(
            await api.post(f"{PATH}/{execution_id}/fork", json=body, headers=invoker), 403, "forbidden"
        )
        assert refused["detail"] == "the scope 'read' is required to copy an execution"

        async def restricted(*workflows: str) -> dict[str, str]:
            _, secret = await apikeys.create(at.client, "bob", ["read", "invoke"], workflows=list(workflows))
            return {"Authorization": f"Bearer {secret}"}

        parents, both, kids = (
            await restricted("work"),
            await restricted("work", "kid"),
            await restricted("kid"),
        )
        path, body = f"{PATH}/{child.id}/fork", {"from_step": "kid"}
        refused = problem(await api.post(path, json=body, headers=parents), 403, "forbidden")
        assert "it can't start 'kid'" in refused["detail"]
        problem(await api.post(path, json=body, headers=kids), 404, "execution-not-found")
        fork = (await api.post(path, json=body, headers=both)).json()
        assert (await api.get(f"{PATH}/{fork['id']}", headers=kids)).json()["root_workflow_id"] == "kid"
