"""Internal workflows: only another workflow can start them, whatever way into the system is tried."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

from polos_redis import (
    Agent,
    BatchWorkflowInput,
    ConfigurationError,
    ExecutionFailedError,
    PolosClient,
    StepExecutionError,
    Workflow,
    WorkflowContext,
    apikeys,
    schedules,
    tool,
    workflow,
)
from polos_redis.errors import InternalWorkflowError
from polos_redis.state.origin import Origin
from tests.harness.command import Command
from tests.harness.running import Running, running, until, working
from tests.harness.serving import key, problem, serving
from tests.harness.visiting import visiting

PAID: list[Any] = []
BANK = {"open": False}


class Transfer(BaseModel):
    to: str
    amount: float


def _send(to: str) -> None:
    if to == "closed" and not BANK["open"]:
        raise ConnectionError("the bank is closed")
    PAID.append(to)


@tool(approval="always", approvers=["cfo"])
async def internal_transfer(ctx: WorkflowContext, transfer: Transfer) -> str:
    """Send money."""
    await ctx.step.run("send", _send, transfer.to, max_retries=0)
    return f"sent to {transfer.to}"


TRANSFER = internal_transfer.workflow
assert TRANSFER is not None
MALLORY = {"to": "mallory", "amount": 1e6}


async def _pays(ctx: WorkflowContext, input: list[str]) -> Any:
    """A child of every kind."""
    assert TRANSFER is not None
    if input[0] == "one":
        return await ctx.step.invoke_and_wait("pay", TRANSFER, Transfer(to="child", amount=1))
    if input[0] == "started":
        handle = await ctx.step.invoke("pay", TRANSFER.id, {"to": "child", "amount": 1})
        return handle.id
    batch = [BatchWorkflowInput(TRANSFER.id, {"to": f"child {n}", "amount": 1}) for n in range(2)]
    return [one.result for one in await ctx.step.batch_invoke_and_wait("pay", batch)]


pays: Workflow[Any, Any] = Workflow(_pays, "internal-pays")


@pytest.fixture(autouse=True)
def nothing_paid() -> None:
    PAID.clear()
    BANK["open"] = False


async def failed(at: Running, execution_id: str) -> None:
    """Assert that an execution failed before its code ran."""
    with pytest.raises(ExecutionFailedError, match="'internal_transfer' is internal") as caught:
        await at.client.get_handle(execution_id).result(timeout=60)
    assert caught.value.error_type == "InternalWorkflowError"
    found = await at.client.get_execution(execution_id)
    assert PAID == [] and found["steps"] == []


@pytest.mark.failure(50)
@pytest.mark.threat(7)
async def test_every_entry_refuses_an_internal_workflow(
    redis_url: str, namespace: str, tmp_path: Any
) -> None:
    assert TRANSFER is not None
    async with (
        running(redis_url, namespace, TRANSFER) as at,
        serving(at.client) as url,
        httpx2.AsyncClient(base_url=url, timeout=60) as api,
    ):
        for way in (TRANSFER, TRANSFER.id):
            with pytest.raises(InternalWorkflowError, match="start the workflow or agent that calls it"):
                await at.client.invoke(way, MALLORY, idempotency_key="k")
            with pytest.raises(InternalWorkflowError):
                await schedules.create(at.client, way, "* * * * *")
        admin = await key(at.client, "admin")
        answer = await api.post(
            "/api/v1/executions", json={"workflow_id": TRANSFER.id, "input": MALLORY}, headers=admin
        )
        assert problem(answer, 403, "internal-workflow")["workflow_id"] == TRANSFER.id
        polos = Command(redis_url, namespace, tmp_path)
        done = await polos("invoke", TRANSFER.id, "--input", '{"to": "mallory", "amount": 5}')
        assert done.code == 1 and "is internal" in done.err
        assert list(await at.client.list_executions()) == [] and PAID == []


@pytest.mark.failure(50)
@pytest.mark.threat(7)
async def test_a_start_before_the_workflow_is_known_fails_before_its_code(client: PolosClient) -> None:
    """Nothing is published yet, so the start is accepted; the worker knows."""
    assert TRANSFER is not None
    mallory = await key(client, "invoke", name="mallory")
    async with serving(client) as url, httpx2.AsyncClient(base_url=url, timeout=60) as api:
        body: dict[str, Any] = {"workflow_id": TRANSFER.id, "input": MALLORY}
        forged = {"parent_execution_id": "0" * 32, "root_workflow_id": "bank", "parent": "0" * 32}
        for more in (forged, {"origin": forged}):  # no request can name a parent
            problem(
                await api.post("/api/v1/executions", json={**body, **more}, headers=mallory),
                422,
                "invalid-request",
            )
        bodies = [
            body,
            {**body, "initial_state": forged},
            {**body, "user_id": "parent_execution_id", "session_id": "0" * 32},
            {**body, "start_delay": 0.01},
        ]
        started = [await api.post("/api/v1/executions", json=one, headers=mallory) for one in bodies]
        assert [one.status_code for one in started] == [201] * len(bodies)
        ids = [one.json()["id"] for one in started]
        async with working(client, TRANSFER) as worker:
            at = Running(client, worker)
            for execution_id in ids:
                await failed(at, execution_id)
            retried = await api.post(f"/api/v1/executions/{ids[0]}/retry", headers=mallory)
            problem(retried, 403, "internal-workflow")
            await failed(at, ids[0])


@pytest.mark.failure(50)
@pytest.mark.threat(7, 24)
async def test_a_call_that_was_approved_once_is_not_repeated_by_a_retry_of_its_child(
    redis_url: str, namespace: str, tmp_path: Any
) -> None:
    """The approved call fails. A retry of the child alone would make it again, and nobody would be asked."""
    assert TRANSFER is not None

    async def asks(ctx: WorkflowContext, input: None) -> str:
        await ctx.step.suspend("approval", data=MALLORY, schema=bool)
        try:
            return str(await ctx.step.invoke_and_wait("pay", TRANSFER, Transfer(to="closed", amount=1)))
        except StepExecutionError:
            return "failed"

    asking: Workflow[Any, Any] = Workflow(asks, "internal-asks")
    async with (
        running(redis_url, namespace, asking, TRANSFER) as at,
        serving(at.client) as url,
        visiting(url) as visitor,
        httpx2.AsyncClient(base_url=url, timeout=60) as api,
    ):
        handle = await asking.invoke(at.client, None)
        await at.opened(handle, "approval")
        await at.client.resume(suspend_execution_id=handle.id, suspend_step_key="approval", data=True)
        assert await at.result(handle) == "failed"
        (child,) = (await at.client.get_execution(handle.id))["children"]
        assert (child["status"], PAID) == ("failed", [])
        BANK["open"] = True
        with pytest.raises(InternalWorkflowError, match="retry the workflow or agent that calls it"):
            await at.client.retry(child["id"])
        _, secret = await apikeys.create(at.client, "mallory", ["invoke", "read"])
        path, headers = f"/executions/{child['id']}", {"Authorization": f"Bearer {secret}"}
        refused = await api.post(f"/api/v1{path}/retry", headers=headers)
        assert problem(refused, 403, "internal-workflow")["workflow_id"] == TRANSFER.id
        done = await Command(redis_url, namespace, tmp_path)("retry", child["id"])
        assert done.code == 1 and "retry the workflow or agent that calls it" in done.err
        await visitor.log_in(secret)
        page = await visitor.get(path)
        cancels_or_retries = [one.action for one in page.forms if path in one.action]
        assert page.status == 200 and cancels_or_retries == []
        assert (await at.client.get_execution(child["id"]))["status"] == "failed" and PAID == []


@pytest.mark.threat(7)
@pytest.mark.parametrize("parent", [None, "0" * 32])
async def test_a_parent_is_only_what_the_store_says(parent: str | None, client: PolosClient) -> None:
    """What a client may choose of an origin never becomes its parent."""
    options: dict[str, Any] = {"parent": (Origin("x", parent), parent), "root_workflow_id": "x"}
    for name, value in options.items():
        with pytest.raises(TypeError, match="unexpected option"):
            await client.invoke("internal_transfer", MALLORY, **{name: value})


@pytest.mark.parametrize("kind", ["one", "started", "batch"])
async def test_workflows_may_start_it_as_a_child(kind: str, redis_url: str, namespace: str) -> None:
    assert TRANSFER is not None
    async with running(redis_url, namespace, pays, TRANSFER) as at:
        handle = await pays.invoke(at.client, [kind])
        found = await at.result(handle)
        if kind == "started":
            found = await at.client.get_handle(found).result(timeout=60)
        assert found == (["sent to child 0", "sent to child 1"] if kind == "batch" else "sent to child")
        assert len(PAID) == (2 if kind == "batch" else 1)


async def _open(ctx: WorkflowContext, input: Transfer) -> str:
    return f"done for {input.to}"


@pytest.mark.threat(24)
def test_a_workflow_becomes_internal_by_an_approval_unless_it_says_otherwise() -> None:
    def made(**options: Any) -> Workflow[Any, Any]:
        return Workflow(_open, "internal-wrapped", **options)

    approval: Any
    for approval, options, internal in (
        ("never", {}, False),
        ("always", {}, True),
        (lambda _: False, {}, True),
        ("always", {"internal": False}, False),
        ("never", {"internal": True}, True),
    ):
        wrapped = made(**options)
        tool(approval=approval)(wrapped)
        assert wrapped.internal is internal and wrapped.plain is not internal
    agent = Agent(id="internal-agent", model="m", provider_base_url="http://127.0.0.1:9")
    assert not agent.internal
    tool(approval="always")(agent)
    assert agent.internal
    assert Agent(id="internal-own", model="m", internal=True).internal


@pytest.mark.parametrize("option", ["schedule", "trigger_on_event"])
def test_an_internal_workflow_has_no_trigger_of_its_own(option: str) -> None:
    async def ticks(ctx: WorkflowContext, input: Transfer) -> None: ...

    started: dict[str, Any] = {option: "* * * * *"}
    with pytest.raises(ConfigurationError, match=f"has {option}, which starts it from outside"):
        workflow(id="internal-ticks", internal=True, **started)(ticks)
    wrapped: Workflow[Any, Any] = Workflow(ticks, "internal-ticks", **started)
    with pytest.raises(ConfigurationError, match=f"remove {option}, or pass internal=False"):
        tool(approval="always")(wrapped)
    tool(approval="always")(Workflow(ticks, "internal-ticks", internal=False, **started))


@pytest.mark.threat(7)
async def test_a_schedule_from_before_starts_nothing(redis_url: str, namespace: str) -> None:
    """A workflow was scheduled, then became internal: its ticks fail, visibly."""
    assert TRANSFER is not None
    async with PolosClient(redis_url, namespace) as client:
        await schedules.create(client, TRANSFER.id, "* * * * * *")  # nobody serves it yet
        async with running(redis_url, namespace, TRANSFER) as at:

            async def ticked() -> list[Any]:
                return list(await at.client.list_executions(status="failed"))

            (first, *_) = await until(ticked)
            found = await at.client.get_execution(first["id"])
            assert found["error"]["type"] == "InternalWorkflowError" and PAID == []
