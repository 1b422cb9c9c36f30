"""The scripted model, called by the real OpenAI client."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from polos_redis.testing.model import (
    Call,
    Fail,
    Hang,
    ModelRequest,
    Reply,
    Say,
    ScriptedModel,
    When,
    read_log,
    repeated,
)
from tests import DATA
from tests.harness.command import wait_until
from tests.harness.model_process import model_process
from tests.harness.running import soon, until

SCRIPT = DATA / "llm_weather.json"
ASKED: Any = [{"role": "user", "content": "What is the weather?"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CHAT_TOOLS: Any = [{"type": "function", "function": WEATHER}]
RESPONSES_TOOLS: Any = [{"type": "function", **WEATHER}]
CALLS = [
    Call("weather", {"city": "Riga"}, id="call_riga"),
    Call("weather", {"city": "Tallinn"}, id="call_tallinn"),
    Call("weather", '{"city": ', id="call_broken"),
]
ARGUMENTS = ['{"city": "Riga"}', '{"city": "Tallinn"}', '{"city": ']


class Place(BaseModel):
    name: str
    country: str


class Trip(BaseModel):
    title: str
    places: list[Place]
    budget: int | None


TRIP = Trip(title="Baltic", places=[Place(name="Riga", country="Latvia")], budget=None)


class Asker:
    """One interface to both APIs, for what they have in common."""

    def __init__(self, server: ScriptedModel, api: str, **options: Any) -> None:
        self.api = api
        self.client = AsyncOpenAI(
            base_url=server.base_url, **{"api_key": "test", "max_retries": 0, **options}
        )

    async def ask(self, **options: Any) -> Any:
        if self.api == "chat":
            options = {"messages": ASKED, "model": "small", **options}
            return await self.client.chat.completions.create(**options)
        return await self.client.responses.create(**{"input": ASKED, "model": "small", **options})

    async def text(self) -> str:
        """Asks, and returns the whole answer's text."""
        answer = await self.ask()
        found = answer.choices[0].message.content if self.api == "chat" else answer.output_text
        assert isinstance(found, str)
        return found

    async def deltas(self) -> AsyncGenerator[str, None]:
        """Asks for a stream, and yields its pieces of text."""
        async with await self.ask(stream=True) as events:
            async for event in events:
                if self.api == "responses":
                    if event.type == "response.output_text.delta":
                        yield event.delta
                elif event.choices and event.choices[0].delta.content:
                    yield event.choices[0].delta.content

    async def read(self, received: list[str] | None = None) -> None:
        """Asks for a stream, and reads it to its end."""
        async for piece in self.deltas():
            if received is not None:
                received.append(piece)


@pytest.fixture(params=["chat", "responses"])
def api(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# ---- Answers ----


async def test_chat_completions_return_text_and_usage() -> None:
    async with ScriptedModel([Say("Rain.", usage=(7, 3))]) as server, Asker(server, "chat").client as client:
        answer = await client.chat.completions.create(model="small", messages=ASKED)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.refusal, choice.finish_reason) == ("Rain.", None, "stop")
    assert choice.message.tool_calls is None
    assert answer.model == "small"
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        7,
        3,
        10,
    )
    (request,) = server.log
    assert answer._request_id == f"req_{request.id}"
    assert (request.path, request.outcome, request.status) == ("/v1/chat/completions", "finished", 200)
    assert request.headers["authorization"] == "Bearer test"
    assert request.body == {"model": "small", "messages": ASKED}


async def test_responses_return_text_and_usage() -> None:
    async with (
        ScriptedModel([Say("Rain.", usage=(7, 3))]) as server,
        Asker(server, "responses").client as client,
    ):
        answer = await client.responses.create(model="small", input="What?", instructions="Be short.")
    assert (answer.output_text, answer.status, answer.error) == ("Rain.", "completed", None)
    assert answer.usage
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (7, 3, 10)
    (request,) = server.log
    assert (request.path, request.outcome) == ("/v1/responses", "finished")
    assert request.messages == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What?"},
    ]
    assert (request.prompt, request.round) == ("What?", 0)


async def test_text_is_streamed(api: str) -> None:
    async with (
        ScriptedModel([Say("It is raining.", chunks=4)]) as server,
        (asker := Asker(server, api)).client,
    ):
        pieces = [piece async for piece in asker.deltas()]
    assert len(pieces) == 4
    assert "".join(pieces) == "It is raining."
    assert (server.log[0].chunks, server.log[0].streamed, server.log[0].outcome) == (4, True, "finished")


async def test_the_last_chunk_has_the_usage_on_request() -> None:
    async with (
        ScriptedModel([Say("Rain.", usage=(7, 3))] * 2) as server,
        (asker := Asker(server, "chat")).client,
    ):
        plain = [chunk async for chunk in await asker.ask(stream=True)]
        counted = [
            chunk async for chunk in await asker.ask(stream=True, stream_options={"include_usage": True})
        ]
    assert all("usage" not in chunk.model_fields_set for chunk in plain)
    assert [chunk.usage for chunk in counted[:-1]] == [None] * len(plain)
    assert counted[-1].choices == []
    assert counted[-1].usage.total_tokens == 10
    assert plain[-1].choices[0].finish_reason == "stop"


async def test_responses_stream_their_events_in_order() -> None:
    """Types and order match the real API's; its client also assembles them."""
    reply = Say("Rain.", tool_calls=CALLS[:1], usage=(7, 3), chunks=2)
    async with ScriptedModel([reply] * 2) as server, (asker := Asker(server, "responses")).client as client:
        events = [event async for event in await asker.ask(stream=True)]
        async with client.responses.stream(model="small", input=ASKED) as stream:
            final = await stream.get_final_response()
    text, call = "response.output_text", "response.function_call_arguments"
    assert [event.type for event in events] == [
        *("response.created", "response.in_progress"),
        *("response.output_item.added", "response.content_part.added", f"{text}.delta", f"{text}.delta"),
        *(f"{text}.done", "response.content_part.done", "response.output_item.done"),
        *("response.output_item.added", f"{call}.delta", f"{call}.delta", f"{call}.done"),
        *("response.output_item.done", "response.completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    completed = events[-1].response
    assert (completed.output_text, completed.usage.total_tokens) == ("Rain.", 10)
    assert (final.output_text, final.output[1].type) == ("Rain.", "function_call")


async def test_tool_calls_are_returned() -> None:
    async with ScriptedModel([Say(tool_calls=CALLS)] * 2) as server:
        async with (chat := Asker(server, "chat")).client:
            answer = await chat.ask(tools=CHAT_TOOLS)
        async with (responses := Asker(server, "responses")).client:
            response = await responses.ask(tools=RESPONSES_TOOLS)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert [call.id for call in choice.message.tool_calls] == [call.id for call in CALLS]
    assert [call.function.arguments for call in choice.message.tool_calls] == ARGUMENTS
    assert [(call.call_id, call.arguments) for call in response.output] == [
        (call.id, arguments) for call, arguments in zip(CALLS, ARGUMENTS, strict=True)
    ]
    assert [request.tools for request in server.log] == [[WEATHER], [{"type": "function", **WEATHER}]]


async def test_chat_completions_stream_parallel_tool_calls_in_fragments() -> None:
    reply = Say("Let me see.", tool_calls=CALLS)
    async with ScriptedModel([reply]) as server, (asker := Asker(server, "chat")).client:
        choices = [chunk.choices[0] async for chunk in await asker.ask(stream=True, tools=CHAT_TOOLS)]
    assert "".join(choice.delta.content or "" for choice in choices) == reply.text
    assert choices[-1].finish_reason == "tool_calls"
    streamed = [call for choice in choices for call in choice.delta.tool_calls or ()]
    for index, (call, arguments) in enumerate(zip(CALLS, ARGUMENTS, strict=True)):
        named, *fragments = [one for one in streamed if one.index == index]
        assert (named.id, named.type, named.function.name) == (call.id, "function", "weather")
        assert all((one.id, one.function.name) == (None, None) for one in fragments)
        assert (named.function.arguments, len(fragments)) == ("", 3)
        assert "".join(one.function.arguments for one in fragments) == arguments


async def test_the_client_assembles_a_chat_completions_stream() -> None:
    reply = Say("Let me see.", tool_calls=CALLS[:2], usage=(7, 3))
    async with (
        ScriptedModel([reply]) as server,
        Asker(server, "chat").client as client,
        client.chat.completions.stream(
            model="small", messages=ASKED, tools=CHAT_TOOLS, stream_options={"include_usage": True}
        ) as stream,
    ):
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert (message.content, final.usage and final.usage.total_tokens) == ("Let me see.", 10)
    assert [call.function.parsed_arguments for call in message.tool_calls or ()] == [
        {"city": "Riga"},
        {"city": "Tallinn"},
    ]


async def test_responses_stream_parallel_tool_calls_in_fragments() -> None:
    async with ScriptedModel([Say(tool_calls=CALLS)]) as server, (asker := Asker(server, "responses")).client:
        events = [event async for event in await asker.ask(stream=True, tools=RESPONSES_TOOLS)]
    for index, arguments in enumerate(ARGUMENTS):
        pieces = [
            event.delta
            for event in events
            if event.type == "response.function_call_arguments.delta" and event.output_index == index
        ]
        assert (len(pieces), "".join(pieces)) == (3, arguments)
    assert [call.arguments for call in events[-1].response.output] == ARGUMENTS


async def test_new_calls_have_unique_ids() -> None:
    reply = Say(tool_calls=[Call("weather"), Call("weather")])
    async with ScriptedModel([reply] * 2) as server, (asker := Asker(server, "responses")).client:
        found = [call.call_id for _ in range(2) for call in (await asker.ask()).output]
    assert len(set(found)) == 4


async def test_a_round_of_tools_works_in_either_api(api: str) -> None:
    """One reply function serves both APIs, deciding by what the request says."""

    async def reply(request: ModelRequest) -> Reply:
        if request.round == 0:
            return Say(tool_calls=CALLS[:2])
        assert request.round == 1
        return Say(f"{request.prompt} {request.results['call_riga']}, {request.results['call_tallinn']}.")

    async with ScriptedModel(reply) as server, (asker := Asker(server, api)).client:
        first = await asker.ask()
        said: Any = [*ASKED]
        if api == "chat":
            said.append(first.choices[0].message.model_dump(exclude_none=True))
            said += [
                {"role": "tool", "tool_call_id": "call_tallinn", "content": "sun"},
                {"role": "tool", "tool_call_id": "call_riga", "content": [{"type": "text", "text": "rain"}]},
            ]
            answer = (await asker.ask(messages=said)).choices[0].message.content
        else:
            said += [item.model_dump(exclude_none=True) for item in first.output]
            said += [
                {"type": "function_call_output", "call_id": "call_riga", "output": "rain"},
                {"type": "function_call_output", "call_id": "call_tallinn", "output": "sun"},
            ]
            answer = (await asker.ask(input=said)).output_text
    assert answer == "What is the weather? rain, sun."


async def test_a_conversation_continues_by_the_id_of_its_last_response() -> None:
    replies = [Say(tool_calls=CALLS[:1]), Say("Rain.")]
    async with ScriptedModel(replies) as server, (asker := Asker(server, "responses")).client:
        first = await asker.ask()
        output: Any = [{"type": "function_call_output", "call_id": "call_riga", "output": "rain"}]
        second = await asker.ask(input=output, previous_response_id=first.id, store=False)
        with pytest.raises(openai.BadRequestError, match="no response") as unknown:
            await asker.ask(previous_response_id=second.id)
    assert unknown.value.code == "previous_response_not_found"
    assert second.output_text == "Rain."
    assert [message["role"] for message in server.log[1].messages] == ["user", "assistant", "tool"]


async def test_a_refusal_is_returned(api: str) -> None:
    async with (
        ScriptedModel([Say(refusal="I won't.", chunks=2)] * 2) as server,
        (asker := Asker(server, api)).client,
    ):
        whole = await asker.ask()
        events = [event async for event in await asker.ask(stream=True)]
    if api == "chat":
        message = whole.choices[0].message
        assert (message.refusal, message.content, whole.choices[0].finish_reason) == (
            "I won't.",
            None,
            "stop",
        )
        pieces = [event.choices[0].delta.refusal for event in events]
        assert "".join(filter(None, pieces)) == "I won't."
    else:
        assert whole.output_text == ""
        assert whole.output[0].content[0].refusal == "I won't."
        pieces = [event.delta for event in events if event.type == "response.refusal.delta"]
        assert "".join(pieces) == "I won't."
        assert events[-1].response.output[0].content[0].refusal == "I won't."
    assert len(list(filter(None, pieces))) == 2


async def test_structured_output_is_returned(api: str) -> None:
    reply = Say(TRIP.model_dump())
    async with ScriptedModel([reply]) as server, Asker(server, api).client as client:
        if api == "chat":
            chat = await client.chat.completions.parse(model="small", messages=ASKED, response_format=Trip)
            parsed = chat.choices[0].message.parsed
        else:
            response = await client.responses.parse(model="small", input=ASKED, text_format=Trip)
            parsed = response.output_parsed
    assert parsed == TRIP
    response_format = server.log[0].response_format
    assert response_format and response_format["name"] == "Trip" and response_format["strict"] is True


async def test_a_truncated_answer_says_so(api: str) -> None:
    reply = Say("It is rain", finish_reason="length")
    async with ScriptedModel([reply] * 2) as server, (asker := Asker(server, api)).client:
        whole = await asker.ask()
        events = [event async for event in await asker.ask(stream=True)]
    if api == "chat":
        assert whole.choices[0].finish_reason == events[-1].choices[0].finish_reason == "length"
    else:
        assert events[-1].type == "response.incomplete"
        for response in (whole, events[-1].response):
            assert (response.status, response.incomplete_details.reason) == (
                "incomplete",
                "max_output_tokens",
            )


# ---- Failures ----


async def test_too_many_requests_has_its_headers(api: str) -> None:
    reply = Fail(429, "slow down", retry_after=0.5, code="rate_limit_exceeded")
    async with ScriptedModel([reply]) as server, (asker := Asker(server, api)).client:
        with pytest.raises(openai.RateLimitError, match="slow down") as error:
            await asker.ask()
    assert error.value.response.headers["retry-after"] == "0.5"
    assert (error.value.code, error.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert (server.log[0].outcome, server.log[0].status) == ("failed", 429)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_retries(api: str, stream: bool) -> None:
    replies: list[Reply] = [Fail(429, retry_after=0.01), Fail(500, retry_after=0.01), Say("Rain.")]
    async with ScriptedModel(replies) as server, (asker := Asker(server, api, max_retries=2)).client:
        await asker.ask(stream=stream)
    assert [request.outcome for request in server.log[:2]] == ["failed", "failed"]
    assert [request.headers["x-stainless-retry-count"] for request in server.log] == ["0", "1", "2"]


async def test_a_server_error_is_returned(api: str) -> None:
    async with ScriptedModel([Fail(500, "out of order")]) as server, (asker := Asker(server, api)).client:
        with pytest.raises(openai.InternalServerError, match="out of order"):
            await asker.ask(stream=True)
    assert server.log[0].status == 500


@pytest.mark.parametrize("pieces", [0, 2, 3])
async def test_a_stream_can_be_cut(api: str, pieces: int) -> None:
    reply = Say("It is raining.", chunks=3, cut_after=pieces)
    received: list[str] = []
    async with ScriptedModel([reply, Say("Sun.")]) as server, (asker := Asker(server, api)).client:
        with pytest.raises(openai.APIConnectionError):
            await asker.read(received)
        assert await asker.text() == "Sun."
    assert len(received) == pieces
    assert [request.outcome for request in server.log] == ["cut", "finished"]


async def test_an_answer_can_be_cut(api: str) -> None:
    async with (
        ScriptedModel([Say("It is raining.", cut_after=1)]) as server,
        (asker := Asker(server, api)).client,
    ):
        with pytest.raises(openai.APIConnectionError):
            await asker.ask()
    assert (server.log[0].outcome, server.log[0].status) == ("cut", 200)


async def test_a_stream_can_end_with_an_error(api: str) -> None:
    async with (
        ScriptedModel([Say("It is raining.", fail_after=1)]) as server,
        (asker := Asker(server, api)).client,
    ):
        if api == "chat":
            with pytest.raises(openai.APIError, match="in the middle"):
                await asker.read()
        else:
            *_, last = [event async for event in await asker.ask(stream=True)]
            assert (last.type, last.response.error.code) == ("response.failed", "server_error")
    assert (server.log[0].outcome, server.log[0].chunks) == ("failed", 1)


async def test_the_server_can_hang(api: str) -> None:
    async with (
        ScriptedModel([Hang()]) as server,
        (asker := Asker(server, api, timeout=openai.Timeout(60, read=0.1))).client,
    ):
        with pytest.raises(openai.APITimeoutError):
            await asker.ask()
        await until(lambda: server.log[0].outcome == "left")
    assert server.log[0].hanging


async def test_a_stream_can_hang_in_the_middle(api: str) -> None:
    reply = Say("It is raining.", chunks=3, hang_after=2)
    received: list[str] = []
    async with (
        ScriptedModel([reply]) as server,
        (asker := Asker(server, api, timeout=openai.Timeout(60, read=1))).client,
    ):
        with pytest.raises(openai.APITimeoutError):
            await asker.read(received)
        await until(lambda: server.log[0].outcome == "left")
    assert (len(received), server.log[0].chunks) == (2, 2)


async def test_a_slow_stream_arrives_piece_by_piece(api: str) -> None:
    """The first piece arrives long before the others: the pause is longer than any test."""
    reply = Say("It is raining.", pause_seconds=3600)
    async with ScriptedModel([reply]) as server, (asker := Asker(server, api)).client:
        async with aclosing(asker.deltas()) as pieces:
            assert await soon(anext(pieces)) == "It i"
            assert (server.log[0].outcome, server.log[0].chunks) == ("open", 1)
        await until(lambda: server.log[0].outcome == "left")


async def test_the_server_stops_while_clients_wait(api: str) -> None:
    async with ScriptedModel([Hang(), Say("Rain.", hang_after=1)]) as server:
        asker = Asker(server, api)
        tasks = [asyncio.create_task(asker.read()) for _ in range(2)]
        await until(lambda: [request.hanging for request in server.log] == [True, True])
    ends = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert [type(end) for end in ends] == [openai.APIConnectionError] * 2
    assert [request.outcome for request in server.log] == ["cut", "cut"]
    await asker.client.close()


# ---- Choosing a reply ----


async def test_concurrent_requests_get_their_own_answers(api: str) -> None:
    """None is answered before all have arrived, and each gets its own answer."""
    count = 20
    all_here = asyncio.Event()

    async def reply(request: ModelRequest) -> Reply:
        if len(server.log) == count:
            all_here.set()
        await all_here.wait()
        return Say(f"You asked {request.prompt}")

    async with ScriptedModel(reply) as server, (asker := Asker(server, api)).client:
        questions = [[{"role": "user", "content": f"question {n}"}] for n in range(count)]
        name = "messages" if api == "chat" else "input"
        answers = await soon(asyncio.gather(*[asker.ask(**{name: asked}) for asked in questions]))
    texts = [one.choices[0].message.content if api == "chat" else one.output_text for one in answers]
    assert texts == [f"You asked question {n}" for n in range(count)]


async def test_a_script_may_have_conditions() -> None:
    script: list[Reply | When] = [
        When(Say("second"), round=1),
        When(Say("sun"), prompt="Tallinn"),
        Say("any"),
    ]
    async with ScriptedModel(script) as server, (asker := Asker(server, "chat")).client:
        assert await asker.text() == "any"
        tallinn: Any = [{"role": "user", "content": "And in Tallinn?"}]
        answer = await asker.ask(messages=tallinn)
        assert answer.choices[0].message.content == "sun"
        said: Any = [*ASKED, {"role": "assistant", "content": "any"}, *ASKED]
        assert (await asker.ask(messages=said)).choices[0].message.content == "second"


async def test_an_exhausted_script_is_an_error() -> None:
    server = ScriptedModel([Say("Rain.")])

    async def ask_twice() -> None:
        async with server, (asker := Asker(server, "chat", max_retries=5)).client:
            await asker.ask()
            await asker.ask()

    with pytest.raises(AssertionError, match="no reply is left in the script for request 1: round 0"):
        await ask_twice()
    assert [request.status for request in server.log] == [200, 400]


async def test_a_failing_reply_function_is_an_error() -> None:
    def reply(request: ModelRequest) -> Reply:
        raise RuntimeError("not this one")

    server = ScriptedModel(reply)

    async def ask() -> None:
        async with server, (asker := Asker(server, "chat")).client:
            with pytest.raises(openai.BadRequestError, match="not this one"):
                await asker.ask()

    with pytest.raises(RuntimeError, match="not this one"):
        await ask()


# ---- Refusals ----


def chat_call(call_id: str, **function: Any) -> Any:
    call = {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": "{}", **function}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def strict(schema: Any, **others: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True, **others}}


def closed(**properties: Any) -> Any:
    """A schema of an object in the form that strict mode requires."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


OPEN: Any = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOL_ANSWER = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
SCHEMA = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("body", "param", "why"),
    [
        ({"model": ""}, "model", "missing"),
        ({"messages": []}, "messages", "empty"),
        ({"tools": []}, "tools", "empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.[0].role", "is not a role"),
        ({"messages": [*ASKED, TOOL_ANSWER]}, "messages.[1].tool_call_id", "call_1"),
        ({"messages": [chat_call("call_1")]}, "messages", "call_1"),
        ({"messages": [chat_call("call_1"), *ASKED, TOOL_ANSWER]}, "messages.[1].role", "call_1"),
        (
            {"messages": [chat_call("call_1"), TOOL_ANSWER, TOOL_ANSWER]},
            "messages.[2].tool_call_id",
            "answered",
        ),
        (
            {"messages": [chat_call("call_1", arguments={}), TOOL_ANSWER]},
            "messages.[0].tool_calls[0].function.arguments",
            "dict",
        ),
        (
            {"messages": [chat_call("call_1"), {**TOOL_ANSWER, "content": {}}]},
            "messages.[1].content",
            "dict",
        ),
        ({"messages": [{"content": "x"}]}, None, "role"),
        (
            {"tools": [{"type": "function", "function": {**WEATHER, "name": "a.b"}}]},
            "tools[0].function.name",
            "a.b",
        ),
        (
            {"tools": [{"type": "function", "function": {**WEATHER, "parameters": OPEN}}]},
            "tools[0].function.parameters",
            "additionalProperties",
        ),
        (
            {"response_format": strict(closed(), name="a b")},
            "response_format.json_schema.name",
            "a b",
        ),
        ({"response_format": strict(OPEN)}, SCHEMA, "additionalProperties"),
        ({"response_format": strict(closed(b=OPEN))}, SCHEMA, "'properties', 'b'"),
        (
            {"response_format": strict(closed(b={"type": "array", "items": OPEN}))},
            SCHEMA,
            "'items'",
        ),
        (
            {"response_format": strict(closed(b={"anyOf": [{"type": "null"}, OPEN]}))},
            SCHEMA,
            "'anyOf', '1'",
        ),
        ({"response_format": strict({**closed(), "$defs": {"B": OPEN}})}, SCHEMA, "'B'"),
        ({"response_format": strict({**closed(b={"type": "null"}), "required": []})}, SCHEMA, "required"),
        ({"response_format": strict(closed(b={"oneOf": []}))}, SCHEMA, "oneOf"),
        ({"response_format": strict(closed(b={"type": "null", "default": None}))}, SCHEMA, "default"),
        ({"response_format": strict(closed(b={"$ref": "#", "title": "B"}))}, SCHEMA, "beside"),
        ({"response_format": strict(closed(b={}))}, SCHEMA, "a type is missing"),
        ({"response_format": strict({"anyOf": [closed()]})}, SCHEMA, "root"),
    ],
)
async def test_chat_completions_refuses_invalid_requests(body: Any, param: str | None, why: str) -> None:
    async with ScriptedModel([]) as server, (asker := Asker(server, "chat")).client:
        with pytest.raises(openai.BadRequestError) as refused:
            await asker.ask(**body)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
    assert why in refused.value.message
    assert server.log[0].outcome == "failed"


@pytest.mark.parametrize(
    ("body", "param", "why"),
    [
        ({"model": ""}, "model", "missing"),
        (
            {"input": [{"type": "function_call_output", "call_id": "call_1", "output": "x"}]},
            "input",
            "call_1",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "call_1", "name": "x", "arguments": "{}"}]},
            "input",
            "call_1",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "call_1", "name": "x", "arguments": {}}]},
            "input[0].arguments",
            "dict",
        ),
        ({"tools": [{"type": "function", **WEATHER, "name": "a.b"}]}, "tools[0].name", "a.b"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": OPEN, "strict": True}}},
            "text.format.schema",
            "additionalProperties",
        ),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "resp_1"),
    ],
)
async def test_responses_refuses_invalid_requests(body: Any, param: str, why: str) -> None:
    async with ScriptedModel([]) as server, (asker := Asker(server, "responses")).client:
        with pytest.raises(openai.BadRequestError) as refused:
            await asker.ask(**body)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
    assert why in refused.value.message


# ---- Replies that are left ----


async def test_replies_that_no_request_has_got_fail_the_test() -> None:
    replies: list[Reply | When] = [
        Say("one"),
        When(Say("two"), prompt="never"),
        Fail(429),
        Hang(),
        Say("five"),
    ]
    with pytest.raises(AssertionError) as raised:
        async with ScriptedModel(replies) as server, (asker := Asker(server, "chat")).client:
            await asker.ask()
    said = str(raised.value)
    assert said.startswith("the script has replies that no request has got: Say(text='two'")
    assert "Fail(status=429" in said and "Hang()" in said and "five" not in said
    assert said.endswith(" and 1 more; remove them, or pass allow_unused=True")


async def test_replies_may_be_left_if_that_is_meant() -> None:
    async with ScriptedModel([Say("one")], allow_unused=True):
        pass
    async with ScriptedModel(lambda request: Say("one")):
        pass


async def test_an_error_of_the_block_comes_first() -> None:
    with pytest.raises(LookupError):
        async with ScriptedModel([Say("one")]):
            raise LookupError


async def test_a_non_strict_schema_may_be_open() -> None:
    async with ScriptedModel([Say({"a": "b"})]) as server, (asker := Asker(server, "chat")).client:
        answer = await asker.ask(response_format=strict(OPEN, strict=False))
    assert json.loads(answer.choices[0].message.content) == {"a": "b"}


@pytest.mark.parametrize("authorization", [None, "Bearer", "Basic test"])
async def test_a_missing_key_is_refused(authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with (
        ScriptedModel([]) as server,
        httpx2.AsyncClient(timeout=60, base_url=server.base_url, headers=headers) as client,
    ):
        answer = await client.post("/responses", json={"model": "small", "input": "x"})
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", None)


async def test_an_unknown_path_or_a_non_object_body_is_refused() -> None:
    headers = {"Authorization": "Bearer test"}
    async with (
        ScriptedModel([]) as server,
        httpx2.AsyncClient(timeout=60, base_url=server.base_url, headers=headers) as client,
    ):
        assert (await client.post("/completions", json={})).status_code == 404
        for content in (b"[]", b"{"):
            assert (await client.post("/responses", content=content)).status_code == 400


# ---- In a separate process ----

# Makes a worker's calls: one for a tool call, then a stream that hangs in the middle.
WORKER = """
import sys
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="test", max_retries=0)
said = [{"role": "user", "content": "What is the weather?"}]
call = client.chat.completions.create(model="small", messages=said).choices[0].message.tool_calls[0]
said.append({"role": "assistant", "tool_calls": [call.model_dump()]})
said.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
for _ in client.chat.completions.create(model="small", messages=said, stream=True):
    pass
"""


def test_a_process_log_survives_a_killed_client(tmp_path: Path) -> None:
    log = tmp_path / "llm.log"
    with model_process(SCRIPT, log) as url:
        with subprocess.Popen([sys.executable, "-c", WORKER, url]) as worker:
            wait_until(lambda: len(read_log(log)) == 2 and read_log(log)[1].hanging, "it never hung")
            assert [request.outcome for request in read_log(log)] == ["finished", "open"]
            worker.send_signal(signal.SIGKILL)
        wait_until(lambda: read_log(log)[1].outcome == "left", "the server did not see it go")
        first, second = read_log(log)
        assert (first.round, first.status, second.round, second.chunks) == (0, 200, 1, 2)
        assert second.results == {"call_riga": "rain"}
        assert repeated([first, second]) == []

        with openai.OpenAI(base_url=url, api_key="test", max_retries=0) as client:
            messages: Any = second.messages
            *_, last = client.chat.completions.create(model="small", messages=messages, stream=True)
            assert last.choices[0].finish_reason == "stop"
            busy: Any = [{"role": "user", "content": "busy?"}]
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(model="small", messages=busy)
    requests = read_log(log)
    assert [request.outcome for request in requests] == ["finished", "left", "finished", "failed"]
    assert [request.number for request in requests] == [0, 1, 2, 3]
    assert requests[2].body == second.body
    assert repeated(requests) == []
    assert repeated([*requests, second]) == [second]
