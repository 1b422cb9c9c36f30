"""Following an agent: its text as it arrives, once, whatever happens to the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import Agent, Event, ExecutionHandle, PolosClient
from polos_redis.agents import AgentStream, Restarted, tool
from polos_redis.agents.stream import TurnText
from polos_redis.testing.model import Call, ModelRequest, Reply, Say, ScriptedModel
from tests.harness.agent_workflows import ask_the_writer, writer
from tests.harness.agents import PROVIDERS, talking
from tests.harness.fleet import Fleet
from tests.harness.running import soon, until

TEXT = "The quick brown fox jumps over the lazy dog."
AGENTS = {"knows": "writer,note,ask_the_writer", "defined_in": "tests.harness.agent_workflows"}


@tool
def look() -> str:
    """Look."""
    return "seen"


teller = {name: Agent(id=f"teller-{name}", model="gpt-4o", provider=name, tools=[look]) for name in PROVIDERS}


async def collected(chunks: Any) -> list[str]:
    return [chunk async for chunk in chunks]


def shown(chunks: Iterable[str]) -> str:
    """The text a reader ends up with if each `Restarted` clears the current turn."""
    text = ""
    for chunk in chunks:
        text = "" if isinstance(chunk, Restarted) else text + chunk
    return text


async def stream_of(client: PolosClient, handle: ExecutionHandle[Any]) -> AgentStream[str]:
    return AgentStream(client, await handle)


# --- one worker ---------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_has_text_and_events(redis_url: str, namespace: str, provider: str) -> None:
    """Text arrives while the model is still writing; a late reader sees the same text."""
    agent = teller[provider]
    replies = [
        Say("Let me see. ", tool_calls=[Call("look", id="call_1")]),
        Say(TEXT, chunks=9, pause_seconds=0.08),
    ]
    async with talking(redis_url, namespace, replies, agent) as (server, at_work):
        stream = await agent.stream(at_work.client, "Tell")
        chunks: list[str] = []
        async for chunk in stream.text_chunks:
            if chunk.startswith("The"):
                assert server.log[1].outcome == "open", "it arrived before the answer was complete"
            chunks.append(chunk)
        assert (await soon(stream.result())).result == TEXT
        late = await soon(collected(stream.text_chunks))
        events: list[Event] = [event async for event in stream.events]
    assert "".join(chunks) == "".join(late) == "Let me see. " + TEXT
    assert len(chunks) > 3 and not any(isinstance(chunk, Restarted) for chunk in [*chunks, *late])
    kinds = [event.event_type for event in events]
    assert kinds.count("turn_start") == 2 and kinds[-1] == "workflow_finish"
    (call,) = [event.data for event in events if event.event_type == "tool_call"]
    assert (call["tool"], call["call_id"], call["turn"]) == ("look", "call_1", 1)
    (result,) = [event.data for event in events if event.event_type == "tool_result"]
    assert result == {"agent_id": agent.id, "call_id": "call_1", "tool": "look", "status": "ok"}
    deltas = [event.data for event in events if event.event_type == "text_delta" and event.data["turn"] == 2]
    assert [one["index"] for one in deltas] == list(range(len(deltas)))
    assert {one["agent_id"] for one in deltas} == {agent.id} and len({one["attempt"] for one in deltas}) == 1


async def test_an_attempt_that_repeats_itself_shows_nothing_twice(redis_url: str, namespace: str) -> None:
    replies = [Say(TEXT, chunks=8, pause_seconds=0.08, cut_after=5), Say(TEXT)]
    agent = teller["openai"]
    async with talking(redis_url, namespace, replies, agent) as (_, at_work):
        stream = await agent.stream(at_work.client, "Tell")
        chunks = await soon(collected(stream.text_chunks))
        kinds = [event.event_type async for event in stream.events]
    assert "".join(chunks) == TEXT and kinds.count("turn_start") == 2
    assert not any(isinstance(chunk, Restarted) for chunk in chunks)


@pytest.mark.parametrize(
    ("second", "calls"),
    [("The quiet fox.", ()), ("The quick", ()), ("", (Call("look"),))],
    ids=["other words", "less", "no words"],
)
async def test_an_attempt_that_differs_restarts_the_text(
    redis_url: str, namespace: str, second: str, calls: tuple[Call, ...]
) -> None:
    replies = [
        Say(TEXT, chunks=8, pause_seconds=0.08, cut_after=5),
        Say(second, tool_calls=calls),
        *([Say("")] if calls else []),
    ]
    agent = teller["openai"]
    async with talking(redis_url, namespace, replies, agent) as (_, at_work):
        stream = await agent.stream(at_work.client, "Tell")
        chunks = await soon(collected(stream.text_chunks))
    assert sum(isinstance(chunk, Restarted) for chunk in chunks) == 1
    assert shown(chunks) == second
    assert TEXT.startswith(chunks[0]) and chunks[0]


async def test_only_the_agents_own_text_is_followed(redis_url: str, namespace: str) -> None:
    """An agent used as a tool emits its text on the same stream, marked as its own."""
    inner = Agent(id="inner", model="gpt-4o")
    outer = Agent(id="outer", model="gpt-4o", tools=[inner])

    def reply(request: ModelRequest) -> Reply:
        if request.prompt == "inside":
            return Say("the inner text")
        return Say("outer") if request.round else Say(tool_calls=[Call("inner", {"input": "inside"})])

    async with talking(redis_url, namespace, reply, outer) as (_, at_work):
        stream = await outer.stream(at_work.client, "outside")
        chunks = await soon(collected(stream.text_chunks))
        texts = {e.data["agent_id"] async for e in stream.events if e.event_type == "text_delta"}
    assert "".join(chunks) == "outer" and texts == {"inner", "outer"}


# --- workers that die or are presumed dead ------------------------------------------------


async def test_a_worker_killed_while_the_model_writes_leaves_no_gap(
    fleet: Fleet, client: PolosClient
) -> None:
    """Another worker makes the call again; a reader sees the text once, without a break."""
    replies = [Say(TEXT, chunks=10, pause_seconds=0.06, hang_after=6), Say(TEXT, chunks=4)]
    async with ScriptedModel(replies) as server:
        victim = await fleet.start(**AGENTS)
        stream = await writer.stream(client, "Tell")
        chunks: list[str] = []
        following = asyncio.create_task(_follow(stream, chunks))
        await until(lambda: server.log and server.log[0].hanging and len("".join(chunks)) > 10)
        victim.kill()
        await fleet.start(**AGENTS)
        await soon(following)
        assert (await stream.result()).result == TEXT
        late = await soon(collected(stream.text_chunks))
    assert "".join(chunks) == "".join(late) == TEXT
    assert not any(isinstance(chunk, Restarted) for chunk in chunks)
    assert [request.outcome for request in server.log] == ["left", "finished"]


async def _follow(stream: AgentStream[Any], chunks: list[str]) -> None:
    async for chunk in stream.text_chunks:
        chunks.append(chunk)  # noqa: PERF401 - they are looked at as they come


async def test_text_from_a_worker_presumed_dead_is_not_emitted(fleet: Fleet, client: PolosClient) -> None:
    """It wakes after another worker has answered, gets the rest of its own text, and can emit none of it."""
    gate = asyncio.Event()
    first = Say("A first text, of which no more is ever told.", chunks=6, pause_seconds=0.06)

    async def reply(request: ModelRequest) -> Reply:
        if request.number == 0:
            return first
        await gate.wait()
        return Say(TEXT)

    async with ScriptedModel(reply) as server:
        frozen = await fleet.start(**AGENTS)
        stream = await writer.stream(client, "Tell")
        await until(lambda: server.log and server.log[0].chunks >= 2)
        frozen.pause()
        await fleet.start(**AGENTS)
        await until(lambda: len(server.log) == 2)
        frozen.resume()
        await frozen.said("dropped")
        gate.set()
        chunks = await soon(collected(stream.text_chunks))
        events = [event async for event in stream.events]
    assert shown(chunks) == TEXT
    starts = [number for number, event in enumerate(events) if event.event_type == "turn_start"]
    assert len(starts) == 2
    after = {event.data["attempt"] for event in events[starts[1] :] if event.event_type == "text_delta"}
    assert after == {events[starts[1]].data["attempt"]}


async def test_a_child_agent_is_followed_by_its_own_handle(redis_url: str, namespace: str) -> None:
    served = ask_the_writer, writer
    async with talking(redis_url, namespace, [Say(TEXT)], *served) as (_, at_work):
        handle = await ask_the_writer.invoke(at_work.client, "Tell")
        await at_work.result(handle)
        (child,) = (await at_work.client.get_execution(handle.id))["children"]
        stream = await stream_of(at_work.client, at_work.client.get_handle(child["id"]))
        assert "".join(await soon(collected(stream.text_chunks))) == TEXT


# --- assembling the text ------------------------------------------------------------------

texts = st.text(alphabet="ab ", max_size=8)
attempts = st.lists(st.lists(texts.filter(bool), max_size=5), min_size=1, max_size=4)


@given(st.lists(attempts, min_size=1, max_size=3), st.data())
def test_the_last_attempt_is_the_one_shown(turns: list[list[list[str]]], data: st.DataObject) -> None:
    """Each event may arrive twice; earlier attempts may stop anywhere."""
    text, whole = TurnText(), ""
    for number, tries in enumerate(turns, 1):
        chunks: list[str] = []
        for attempt, pieces in enumerate(tries):
            name = f"{number}-{attempt}"
            for _ in range(data.draw(st.integers(1, 2))):
                chunks += text.start(number, name)
            for index, piece in enumerate(pieces):
                for _ in range(data.draw(st.integers(1, 2))):
                    chunks += text.add(name, index, piece)
        if data.draw(st.booleans()):
            chunks += text.finish()  # otherwise the next turn does
            whole += shown(chunks)
            assert shown(chunks) == "".join(tries[-1])
            assert all(chunk for chunk in chunks if not isinstance(chunk, Restarted))
        else:
            before = len(chunks)
            chunks += text.start(number + 1, "next")
            assert shown(chunks) == "".join(tries[-1])
            assert len(chunks) - before <= 2
            text = TurnText()


def test_attempts_that_agree_are_never_restarted() -> None:
    text = TurnText()
    chunks = [*text.start(1, "a"), *text.add("a", 0, "Hello wo")]
    chunks += [*text.start(1, "b"), *text.add("b", 0, "Hel"), *text.add("b", 1, "lo world")]
    assert chunks + text.finish() == ["Hello wo", "rld"]
    assert text.add("a", 1, "an attempt of the past") == []
