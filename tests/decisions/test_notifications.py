"""Notifications: retried while a suspension is open, and never in the way of executions."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from polos_redis import ConfigurationError, PolosClient, Worker, WorkflowContext, workflow
from polos_redis.links import Links
from polos_redis.notifications import Channel, Notification, WebhookChannel, outbox
from polos_redis.state import keys
from polos_redis.state.outbox import ClaimedNotification
from tests import ROOT
from tests.harness.command import POLOS, Command
from tests.harness.receiver import HANG, Receiver, free_port
from tests.harness.running import running, soon, until, working

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OLD_SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
LINK_SECRET = "not known to anybody else but us here"


@workflow(id="notify-approval")
async def approval(ctx: WorkflowContext, amount: int) -> Any:
    resume = await ctx.step.suspend(
        "approval/1", data={"amount": amount, "secret word": "swordfish"}, timeout=3600
    )
    return resume["data"]


@workflow(id="notify-named")
async def named(ctx: WorkflowContext) -> Any:
    approvers = ["alice@example.com", "group:finance", "bob"]
    return await ctx.step.suspend("approval", approvers=approvers)


@workflow(id="notify-plain")
async def plain(ctx: WorkflowContext, value: int) -> int:
    return await ctx.step.run("double", lambda: 2 * value)


@dataclass
class Pager:
    """A channel under a test's control."""

    name: str = "pager"
    fails: BaseException | None = None
    hangs: bool = False
    tried: list[Notification] = field(default_factory=list)
    sent: list[Notification] = field(default_factory=list)

    async def send(self, notification: Notification) -> None:
        self.tried.append(notification)
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            await asyncio.Event().wait()
        self.sent.append(notification)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the outbox poll and retry at once."""
    monkeypatch.setattr(outbox, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(outbox, "MIN_RETRY_MS", 10)
    monkeypatch.setattr(outbox, "MAX_RETRY_MS", 10)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a stopping worker give up hanging sends at once."""
    monkeypatch.setattr(outbox, "STOP_SECONDS", 0.01)


async def waiting(client: PolosClient, channel: str = "webhook") -> dict[str, float]:
    """The entries of a channel's outbox, each with its due time."""
    store = await client.store()
    found: dict[str, float] = {}
    for prefix in store.prefixes:
        key = prefix + keys.OUTBOX.encode() + channel.encode()
        flat = await store.wire.call("ZRANGE", key, 0, -1, "WITHSCORES")
        found |= {name.decode(): float(due) for name, due in zip(flat[::2], flat[1::2], strict=True)}
    return found


async def nothing_waits(client: PolosClient, channel: str = "webhook") -> None:
    async def is_empty() -> bool:
        return not await waiting(client, channel)

    await until(is_empty, "an empty outbox")


async def make_due(client: PolosClient, execution_id: str, step_key: str, channel: str = "webhook") -> None:
    store = await client.store()
    key = store.partitions.prefix(execution_id) + keys.OUTBOX.encode() + channel.encode()
    assert await store.wire.call("ZADD", key, "XX", "CH", 1, f"{execution_id} {step_key}") == 1


# --- the webhook ------------------------------------------------------------------------


def the_check_of_the_page() -> Callable[[str, dict[str, str], bytes], bool]:
    """The function in docs/guides/notifications.md that lets a receiver verify a request."""
    page = (ROOT / "docs/guides/notifications.md").read_text()
    (block,) = re.findall(r"```python\n(import base64\n.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    exec(block, found)
    check: Callable[[str, dict[str, str], bytes], bool] = found["is_ours"]
    return check


def test_a_signature_matches_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test vector of the specification's own libraries."""
    monkeypatch.setattr("polos_redis.notifications.webhook.time.time", lambda: 1614265330.7)
    channel = WebhookChannel("https://example.com", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert channel._signature("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}') == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.also_on_cluster
@pytest.mark.usefixtures("quick")
async def test_a_suspension_is_sent_to_the_webhook(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Receiver() as receiver:
        monkeypatch.setenv("POLOS_PUBLIC_URL", "https://polos.example.com")
        monkeypatch.setenv("POLOS_SECRET", LINK_SECRET)
        monkeypatch.setenv("POLOS_WEBHOOK_URL", receiver.url)
        monkeypatch.setenv("POLOS_WEBHOOK_SECRET", f"{SECRET},{OLD_SECRET}")
        async with running(redis_url, namespace, approval) as run:
            handle = await approval.invoke(run.client, 5000)
            await until(lambda: receiver.requests)
            await nothing_waits(run.client)
            (request,) = receiver.requests
            shown = await run.client.get_suspension(handle.id, "approval/1")
            await run.answer(handle, "approval/1")

    assert request.line == "POST /hook?key=hidden HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    wrong = "whsec_" + base64.b64encode(bytes(32)).decode()
    assert request.is_signed_with(SECRET) and request.is_signed_with(OLD_SECRET)
    assert not request.is_signed_with(wrong)
    is_ours = the_check_of_the_page()
    assert is_ours(SECRET, request.headers, request.body)
    assert not is_ours(SECRET, request.headers, request.body + b" ")
    assert not is_ours(wrong, request.headers, request.body)
    assert not is_ours(SECRET, {**request.headers, "webhook-timestamp": "1614265330"}, request.body)
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 300, (
        "within the receivers' tolerance"
    )
    payload = request.json
    assert (payload["type"], payload["timestamp"]) == ("suspension.opened", shown["opened_at"])
    data = payload["data"]
    link = data.pop("approval_url")
    assert data == {
        "id": request.headers["webhook-id"],
        "execution_id": handle.id,
        "workflow_id": "notify-approval",
        "step_key": "approval/1",
        "run": 1,
        "execution_created_at": shown["execution_created_at"],
        "data": {"amount": 5000, "secret word": "swordfish"},
        "digest": shown["digest"],
        "opened_at": shown["opened_at"],
        "expires_at": shown["expires_at"],
        "approvers": [],
        "approver_urls": {},
    }
    assert link.startswith(f"https://polos.example.com/approve/{handle.id}/approval%2F1?token=")


@pytest.mark.usefixtures("quick")
@pytest.mark.promise("notification")
async def test_a_notification_is_resent_until_it_is_accepted(redis_url: str, namespace: str) -> None:
    """Refused connections, errors, redirects and silence: the same notification is resent until a 2xx."""
    port = free_port()
    channel = WebhookChannel(f"http://127.0.0.1:{port}/", SECRET, timeout=0.2)
    async with running(redis_url, namespace, approval, plain, channels=[channel]) as run:
        handle = await approval.invoke(run.client, 1)
        await run.parked(handle)

        async def was_tried() -> bool:
            opened = (await run.client.get_suspension(handle.id, "approval/1"))["opened_at"]
            (due,) = (await waiting(run.client)).values()
            return due > datetime.fromisoformat(opened).timestamp() * 1000

        await until(was_tried)  # and refused
        async with Receiver([500, 429, 302, 410, HANG, 202], port) as receiver:
            await nothing_waits(run.client)
            assert len(receiver.requests) == 6
            assert {request.line for request in receiver.requests} == {"POST / HTTP/1.1"}
            assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
            assert len({request.body for request in receiver.requests}) == 1
            assert all(request.is_signed_with(SECRET) for request in receiver.requests)
        assert await run.result(await plain.invoke(run.client, 2)) == 4
        await run.answer(handle, "approval/1", "fine")
        assert await run.result(handle) == "fine"


@pytest.mark.promise("notification")
async def test_another_worker_sends_what_a_killed_one_was_sending(
    redis_url: str, namespace: str, tmp_path: Path, client: PolosClient
) -> None:
    (tmp_path / "flows.py").write_text(
        "from polos_redis import workflow\n"
        "@workflow(id='asks')\n"
        "async def asks(ctx, name: str):\n"
        "    return (await ctx.step.suspend('approval', data={'name': name}))['data']\n"
    )
    polos = Command(redis_url, namespace, tmp_path)
    async with Receiver([HANG, 200]) as receiver:
        polos.environment |= {"POLOS_WEBHOOK_URL": receiver.url, "POLOS_WEBHOOK_SECRET": SECRET}
        polos.environment["POLOS_LEASE_SECONDS"] = "2"
        with polos.start(POLOS, "worker", "flows.py") as worker:
            handle = await client.invoke("asks", "Ada")
            await until(lambda: receiver.requests)
            worker.process.kill()
            await worker.ended()
        assert list(await waiting(client)) == [f"{handle.id} approval"]
        await make_due(client, handle.id, "approval")  # as if 45 seconds had passed
        with polos.start(POLOS, "worker", "flows.py") as worker:
            await nothing_waits(client)
            first, second = receiver.requests
            assert first.headers["webhook-id"] == second.headers["webhook-id"]
            assert second.json["data"]["data"] == {"name": "Ada"}
            await client.resume(suspend_execution_id=handle.id, suspend_step_key="approval", data="yes")
            assert await soon(handle.result()) == "yes"
        assert "Ada" not in worker.err and SECRET not in worker.err


@pytest.mark.usefixtures("quick")
async def test_a_notification_is_dropped_when_nobody_waits_any_more(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "polos")
    async with Receiver([500]) as receiver:
        channel = WebhookChannel(receiver.url, SECRET)
        async with running(redis_url, namespace, approval, channels=[channel]) as run:
            answered, cancelled = [await approval.invoke(run.client, n) for n in range(2)]
            await until(lambda: len(receiver.requests) > 3)
            await run.answer(answered, "approval/1")
            await run.client.cancel(cancelled.id)
            await run.result(answered)
            await nothing_waits(run.client)
    given_up = {one.execution for one in caplog.records if "was dropped" in one.message}  # type: ignore[attr-defined]
    assert given_up == {answered.id, cancelled.id}


@pytest.mark.usefixtures("quick")
async def test_neither_secrets_nor_shown_data_are_logged(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PUBLIC_URL", "https://polos.example.com")
    monkeypatch.setenv("POLOS_SECRET", LINK_SECRET)
    caplog.set_level(logging.DEBUG, "polos")
    caplog.set_level(logging.INFO)  # like a service whose root logger logs all libraries
    pager = Pager(fails=ValueError("the token tok_12345 is wrong"))
    async with Receiver([500, 200]) as receiver:
        channels: list[Channel] = [WebhookChannel(receiver.url, SECRET), pager]
        async with running(redis_url, namespace, approval, channels=channels) as run:
            handle = await approval.invoke(run.client, 1)
            await nothing_waits(run.client)
            await until(lambda: pager.tried)
            pager.fails = None
            await nothing_waits(run.client, "pager")
            await run.answer(handle, "approval/1")
    failures = [one for one in caplog.records if "was not sent" in one.message]
    errors = {(one.channel, one.error) for one in failures}  # type: ignore[attr-defined]
    assert errors == {("webhook", "the receiver answered 500"), ("pager", "ValueError")}
    logged = "\n".join(str(vars(record)) for record in caplog.records)
    for hidden in ("swordfish", SECRET, LINK_SECRET, "tok_12345", "key=hidden", "token="):
        assert hidden not in logged, hidden


# --- channels ---------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
async def test_each_approver_gets_their_own_link(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PUBLIC_URL", "https://polos.example.com/")
    monkeypatch.setenv("POLOS_SECRET", LINK_SECRET)
    pager = Pager()
    async with running(redis_url, namespace, named, channels=[pager]) as run:
        handle = await named.invoke(run.client)
        await until(lambda: pager.sent)
    (notification,) = pager.sent
    assert notification.approvers == ("alice@example.com", "group:finance", "bob")
    assert notification.opened_at.tzinfo is UTC and notification.expires_at is None
    assert set(notification.approver_urls) == {"alice@example.com", "bob"}
    links = Links.from_settings(namespace)
    assert links is not None
    for name, url in (*notification.approver_urls.items(), (None, notification.approval_url)):
        assert url is not None
        page, _, token = url.partition("?token=")
        link = links.read(token)
        assert page == f"https://polos.example.com/approve/{handle.id}/approval"
        assert (link.execution_id, link.step_key, link.run) == (handle.id, "approval", 1)
        assert (link.name, link.groups, link.scope) == (name, (), "decide")


@pytest.mark.usefixtures("quick")
async def test_without_a_secret_nobody_gets_a_personal_link(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pager = Pager()
    async with running(redis_url, namespace, named, channels=[pager]) as run:
        await named.invoke(run.client)
        await until(lambda: pager.sent)
    monkeypatch.setenv("POLOS_PUBLIC_URL", "http://10.0.0.5:8000")
    async with running(redis_url, namespace, named, channels=[pager]) as run:
        handle = await named.invoke(run.client)
        await until(lambda: len(pager.sent) == 2)
    first, second = pager.sent
    assert first.approval_url is None and first.approver_urls == {}
    assert second.approval_url == f"http://10.0.0.5:8000/approve/{handle.id}/approval"
    assert second.approver_urls == {}


@pytest.mark.usefixtures("quick")
async def test_a_worker_without_the_channel_leaves_it_to_others(redis_url: str, namespace: str) -> None:
    failing, sending = Pager(fails=RuntimeError("no")), Pager()
    async with running(redis_url, namespace, approval, channels=[failing]) as run:
        handle = await approval.invoke(run.client, 1)
        await until(lambda: failing.tried)
    async with running(redis_url, namespace, plain, channels=[Pager("mail")]) as run:
        assert await run.result(await plain.invoke(run.client, 1)) == 2
        assert list(await waiting(run.client, "pager")) == [f"{handle.id} approval/1"]
        await make_due(run.client, handle.id, "approval/1", "pager")
        async with working(run.client, plain, channels=[sending]):
            await nothing_waits(run.client, "pager")
    assert [one.id for one in sending.sent] == [failing.tried[0].id]


@pytest.mark.usefixtures("quick", "hasty")
@pytest.mark.parametrize(
    "raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
)
async def test_a_channel_may_raise_anything(redis_url: str, namespace: str, raised: BaseException) -> None:
    failing = Pager(fails=raised)
    async with running(redis_url, namespace, approval, channels=[failing]) as run:
        handle = await approval.invoke(run.client, 5)
        await until(lambda: failing.tried)
        failing.fails = None
        await until(lambda: failing.sent)
        assert failing.sent[0].execution_id == handle.id


@pytest.mark.usefixtures("quick", "hasty")
async def test_a_hanging_channel_blocks_nothing(redis_url: str, namespace: str) -> None:
    """More sends hang than run at once; other channels, executions and their errands continue."""
    stuck, mail = Pager("stuck", hangs=True), Pager("mail")
    async with running(redis_url, namespace, approval, plain, channels=[stuck, mail]) as run:
        limit = outbox.CONCURRENCY * run.client.partitions
        handles = [await approval.invoke(run.client, n) for n in range(2 * limit)]
        await until(lambda: len(mail.sent) == len(handles))
        await until(lambda: stuck.tried)
        assert await run.result(await plain.invoke(run.client, 2)) == 4
        for handle in handles:
            await run.answer(handle, "approval/1")
        for handle in handles:
            await run.result(handle)
        assert len(stuck.tried) <= limit
    assert not stuck.sent


@pytest.mark.usefixtures("quick")
async def test_a_send_that_takes_too_long_is_cancelled(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SEND_SECONDS", 0.05)
    pager = Pager(hangs=True)
    async with running(redis_url, namespace, approval, channels=[pager]) as run:
        await approval.invoke(run.client, 1)
        await until(lambda: len(pager.tried) > 1)
        pager.hangs = False
        await until(lambda: pager.sent)


@pytest.mark.usefixtures("quick")
async def test_a_new_run_sends_another_notification(redis_url: str, namespace: str) -> None:
    pager = Pager()
    async with running(redis_url, namespace, approval, channels=[pager]) as run:
        handle = await approval.invoke(run.client, 1)
        await until(lambda: pager.sent)
        await nothing_waits(run.client, "pager")
        await run.make_due(handle, "approval/1", "s")
        await run.reached(handle, "failed")
        await run.client.retry(handle.id)
        await until(lambda: len(pager.sent) == 2)
        await run.answer(handle, "approval/1")
    first, second = pager.sent
    assert (first.run, second.run) == (1, 2)
    assert (first.execution_id, first.step_key) == (second.execution_id, second.step_key)
    assert first.id != second.id


@pytest.mark.parametrize(
    ("age_ms", "pause"), [(0, 1000), (999, 1000), (5000, 5000), (10**6, 10**6), (10**9, 3_600_000)]
)
def test_the_delay_before_a_resend_is_the_suspensions_age(age_ms: int, pause: int) -> None:
    opened = datetime(2024, 5, 1, tzinfo=UTC)
    notification = Notification("i", "e", "w", "k", 1, opened, {}, "", opened, None, (), None, {})
    due = int(opened.timestamp() * 1000) + age_ms + outbox.HOLD_MS
    assert outbox._backoff_ms(notification, ClaimedNotification("e", "k", due)) == pause


# --- the outbox in the store ------------------------------------------------------------


async def test_a_claimed_notification_is_due_again_unless_it_is_sent(redis_url: str, namespace: str) -> None:
    pager = Pager(fails=RuntimeError("no"))
    async with running(redis_url, namespace, approval, channels=[pager]) as run:
        handle = await approval.invoke(run.client, 1)
        await until(lambda: pager.tried)
    async with PolosClient(redis_url, namespace) as client:
        store = await client.store()
        prefix = store.partitions.prefix(handle.id)
        assert await store.outbox.claim(prefix, "pager", 10, 60_000) == [], "it is postponed"
        await make_due(client, handle.id, "approval/1", "pager")
        (claimed,) = await store.outbox.claim(prefix, "pager", 10, 60_000)
        assert (claimed.execution_id, claimed.step_key) == (handle.id, "approval/1")
        assert await waiting(client, "pager") == {f"{handle.id} approval/1": claimed.due}
        assert await store.outbox.claim(prefix, "pager", 10, 60_000) == [], "it is claimed"

        late = ClaimedNotification(claimed.execution_id, claimed.step_key, claimed.due - 1)
        await store.outbox.sent(prefix, "pager", late, None)
        assert await waiting(client, "pager"), "a presumed-dead worker changes nothing"
        await store.outbox.sent(prefix, "pager", claimed, 5)
        (due,) = (await waiting(client, "pager")).values()
        assert due < claimed.due
        key = prefix + keys.OUTBOX.encode() + b"pager"
        assert 0 < await store.wire.call("PTTL", key) <= 604_800_000
        reclaimed: list[ClaimedNotification] = []
        while not reclaimed:
            reclaimed = await store.outbox.claim(prefix, "pager", 10, 60_000)
        await store.outbox.sent(prefix, "pager", reclaimed[0], None)
        assert not await waiting(client, "pager")


# --- invalid channels -------------------------------------------------------------------


@pytest.fixture
def idle() -> PolosClient:
    return PolosClient()


class Nameless:
    async def send(self, notification: Notification) -> None: ...


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ([Nameless()], "needs a name and an async send"),
        ([Pager], "needs a name and an async send"),
        (["webhook"], "needs a name and an async send"),
        ([Pager("Pager")], "not 'Pager'"),
        ([Pager("a b")], "not 'a b'"),
        ([Pager("")], "not ''"),
        ([Pager(), Pager()], "need different names, not pager, pager"),
    ],
)
def test_an_invalid_channel_is_refused(idle: PolosClient, channels: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Worker(idle, [approval], channels=channels)


def test_a_webhook_without_a_secret_is_refused(idle: PolosClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLOS_WEBHOOK_URL", "https://example.com/hook")
    with pytest.raises(ConfigurationError, match="needs POLOS_WEBHOOK_SECRET"):
        Worker(idle, [approval])
    assert Worker(idle, [approval], channels=[]).channels == []


@pytest.mark.parametrize("secret", ["whsec_short", "whsec_!!!", "x", base64.b64encode(bytes(23)).decode()])
def test_an_invalid_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(
        ConfigurationError, match="webhook_secret= must be one or more secrets like whsec_"
    ) as caught:
        WebhookChannel("https://example.com", secret)
    assert secret not in str(caught.value) or secret == "x"


def test_an_invalid_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="webhook_url= must be a URL") as caught:
        WebhookChannel("example.com/hidden", SECRET)
    assert "hidden" not in str(caught.value)


def test_a_webhooks_repr_has_no_secrets() -> None:
    assert repr(WebhookChannel("https://example.com/hidden", SECRET)) == "WebhookChannel(name='webhook')"


async def test_a_worker_without_httpx_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polos_redis.notifications.webhook.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'polos-redis\[webhook\]'"):
        WebhookChannel("https://example.com", SECRET)
