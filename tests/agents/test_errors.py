"""Errors between an agent and its model's provider."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import Agent, ExecutionHandle
from polos_redis.agents.providers.openai import SHORTEST_SECRET, SURELY_SECRET, masked, retry_after
from polos_redis.state import keys
from polos_redis.testing.model import Fail, Hang, Reply, Say, ScriptedModel, When
from polos_redis.testing.model.server import API_KEY as KEY
from tests.harness.agents import PROVIDERS, error_of, talking
from tests.harness.running import Running, journal_of, until

agents = {
    name: Agent(id=f"troubled-{name}", model="gpt-4o", provider=name, provider_timeout=0.5)
    for name in PROVIDERS
}
impatient = Agent(id="impatient", model="gpt-4o", provider_timeout=0.2, max_retries=0)
both = pytest.mark.parametrize("provider", PROVIDERS)


async def arrived(server: ScriptedModel, count: int) -> None:
    """Waits until `count` requests have arrived."""
    await until(lambda: len(server.log) == count)


async def backing_off(at_work: Running, handle: ExecutionHandle[Any]) -> float:
    """Waits until the model's retry is a timer and no slot is held; returns the seconds until then."""
    await at_work.parked(handle)
    store = await at_work.client.store()
    timers = store.partitions.prefix(handle.id) + keys.TIMERS.encode()
    due = float(await store.wire.call("ZSCORE", timers, f"b{handle.id} model_1"))
    return due / 1000 - time.time()


@both
async def test_retry_after_is_waited_for_without_a_slot(
    redis_url: str, namespace: str, provider: str
) -> None:
    """The package itself would wait for 90 seconds, and retry at once when told to wait for two hours."""
    replies: list[Reply | When] = [
        Fail(429, "slow down", retry_after=90),
        Fail(503, "busy", retry_after=7200),
        Say("ok"),
    ]
    async with talking(redis_url, namespace, replies, agents[provider]) as (server, at_work):
        handle = await agents[provider].invoke(at_work.client, "Hi")
        for number, seconds in enumerate((90, 7200), 1):
            await arrived(server, number)
            assert seconds - 30 < await backing_off(at_work, handle) <= seconds
            assert len(server.log) == number
            await at_work.make_due(handle, "model_1", "b")
        assert (await at_work.result(handle)).result == "ok"
        (step,) = (await at_work.client.get_execution(handle.id))["steps"]
    assert step["attempts"] == 3


@both
@pytest.mark.parametrize(
    "trouble",
    [
        Fail(429, "slow down", retry_after=0.1),
        Fail(500),
        Say("a half", chunks=4, cut_after=2),
        Say("a half", chunks=4, fail_after=2),
        Say("a half", cut_after=0),
        Say("a half", chunks=4, hang_after=2),
        Hang(),
    ],
    ids=["429", "500", "cut", "failed", "cut at once", "hangs in the middle", "hangs"],
)
async def test_a_passing_error_is_retried(
    redis_url: str, namespace: str, provider: str, trouble: Reply
) -> None:
    async with talking(redis_url, namespace, [trouble, Say("ok")], agents[provider]) as (server, at_work):
        found = await agents[provider].run(at_work.client, "Hi", timeout=30)
    assert (found.result, found.usage.requests, len(server.log)) == ("ok", 1, 2)


async def test_a_lasting_error_fails_in_the_end(redis_url: str, namespace: str) -> None:
    agent = Agent(id="hopeless", model="gpt-4o", max_retries=1)
    async with talking(redis_url, namespace, lambda _: Fail(500, "on fire"), agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "Hi")
        kind, message = await error_of(at_work, handle)
    assert kind == "StepExecutionError"
    assert "(tried 2 times): ModelCallError: the model's provider answered 500: on fire" in message
    assert len(server.log) == 6, "each attempt is three of the package's own"


async def test_a_hanging_provider_is_abandoned(redis_url: str, namespace: str) -> None:
    async with talking(redis_url, namespace, lambda _: Hang(), impatient) as (server, at_work):
        _, message = await error_of(at_work, await impatient.invoke(at_work.client, "Hi"))
        await until(lambda: all(request.outcome == "left" for request in server.log))
    assert "ModelCallError: the model's provider did not answer in time" in message


async def test_an_unreachable_provider_is_an_error(redis_url: str, namespace: str) -> None:
    agent = Agent(id="lonely", model="m", provider_base_url="http://127.0.0.1:9/v1", max_retries=0)
    async with talking(redis_url, namespace, [], agent) as (_, at_work):
        _, message = await error_of(at_work, await agent.invoke(at_work.client, "Hi"))
    assert "ModelCallError: the connection to the model's provider failed: ConnectError" in message


@both
@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (Fail(400, "the model gpt-4o has no such parameter"), "400: the model gpt-4o has no such parameter"),
        (Fail(401, f"Incorrect API key provided: {KEY}"), "401: Incorrect API key provided: ***"),
        (Fail(404, "no model gpt-4o"), "404: no model gpt-4o"),
        (Fail(429, "You have no money left", code="insufficient_quota"), "429: You have no money left"),
    ],
)
async def test_a_permanent_error_fails_at_once(
    redis_url: str, namespace: str, provider: str, fail: Fail, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with talking(redis_url, namespace, lambda _: fail, agents[provider]) as (server, at_work):
        handle = await agents[provider].invoke(at_work.client, "Hi")
        kind, message = await error_of(at_work, handle)
        shown = repr(await at_work.client.get_execution(handle.id)) + repr(await at_work.events(handle))
        store = await at_work.client.store()
        stored = repr(await store.executions.read(handle.id)) + repr(await journal_of(store, handle.id))
    assert kind == "StepExecutionError"
    assert f"(tried once): NoRetryError: the model's provider answered {words}" in message
    assert len(server.log) == (3 if fail.code else 1), "the package retries a 429 itself"
    assert KEY not in shown + stored + caplog.text


async def test_a_missing_key_fails_with_a_hint(redis_url: str, namespace: str) -> None:
    async with talking(redis_url, namespace, [], agents["openai"]) as (_, at_work):
        del os.environ["OPENAI_API_KEY"]
        _, message = await error_of(at_work, await agents["openai"].invoke(at_work.client, "Hi"))
    assert message.endswith(
        "(tried once): NoRetryError: no API key for the model's provider: set OPENAI_API_KEY for the workers"
    )


async def test_an_unknown_parameter_fails_at_once(redis_url: str, namespace: str) -> None:
    agent = Agent(id="mistyped", model="gpt-4o", provider_options={"temprature": 1})
    async with talking(redis_url, namespace, [], agent) as (server, at_work):
        _, message = await error_of(at_work, await agent.invoke(at_work.client, "Hi"))
    assert "(tried once): NoRetryError: the model can't be called: TypeError: " in message
    assert "temprature" in message and not server.log


def test_a_missing_openai_package_fails_only_the_worker(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    """Agents can be defined and called without it; only the worker needs it."""
    program = """
        import asyncio, sys
        sys.modules["openai"] = None
        from polos_redis import Agent, Polos

        agent = Agent(id="packless", model="gpt-4o")

        async def main() -> None:
            async with Polos() as polos:
                await agent.run(polos, "Hi", timeout=30)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", dedent(program)]
    ours = {"POLOS_REDIS_URL": redis_url, "POLOS_NAMESPACE": namespace, "OPENAI_API_KEY": "key"}
    environment = {**os.environ, **ours}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "agents need the openai package in the workers: pip install 'polos-redis[agents]'" in done.stderr


def test_the_retry_delay_follows_the_headers() -> None:
    def of(**headers: str) -> float | None:
        return retry_after({name.replace("_", "-"): value for name, value in headers.items()})

    assert of() is None
    assert of(retry_after="7") == 7.0
    assert of(retry_after="0.5") == 0.5
    assert of(retry_after="-1") == 0.0
    assert of(retry_after_ms="1500", retry_after="7") == 1.5
    assert of(retry_after="soon") is None
    assert of(retry_after=format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)) == 0.0
    date = of(retry_after=format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert date is not None and 3500 < date <= 3600


TEXT = "the address an@example.com is not known; see https://example.com/x-1?key=x"


@given(st.text(min_size=1))
def test_a_placeholder_masks_nothing(key: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "OPENAI_API_KEY",
            key[: SHORTEST_SECRET - 1].replace("\0", "x").encode("utf-8", "replace").decode(),
        )
        assert masked(TEXT) == TEXT


@given(
    st.text("abcXYZ019_-", min_size=SHORTEST_SECRET, max_size=60),
    st.sampled_from(["", " ", "'", '"', "b'Bearer ", "key=", "x", "-"]),
    st.sampled_from(["", " ", "'", "&a=1", "\n", "x", "_"]),
)
def test_a_key_is_masked_wherever_it_can_be_told_from_the_text(key: str, before: str, after: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", key)
        part_of_a_word = before in ("x", "-") or after in ("x", "_")
        if len(key) >= SURELY_SECRET or not part_of_a_word:
            assert masked(f"{before}{key}{after}") == f"{before}***{after}"
        else:
            assert masked(f"{before}{key}{after}") == f"{before}{key}{after}"


@pytest.mark.threat(31)
async def test_a_key_that_is_no_header_is_not_repeated(redis_url: str, namespace: str) -> None:
    """A line break in the key: the HTTP package's error quotes the header."""
    async with talking(redis_url, namespace, [], impatient) as (server, at):
        os.environ["OPENAI_API_KEY"] = "sk-broken-0123456789\nsecond-line-of-it"
        handle = await impatient.invoke(at.client, "hello")
        _, text = await error_of(at, handle)
        assert "the connection to the model's provider failed" in text
        assert "sk-broken" not in text and "second-line" not in text, text
        assert not server.log
