"""An agent's answer: the schema sent to the model, and what happens to an answer that does not fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from polos_redis import Agent
from polos_redis.agents.output import schema_of
from polos_redis.testing.model import ModelRequest, Reply, Say
from tests.harness.agents import PROVIDERS, error_of, talking


class Level(StrEnum):
    LOW = "low"
    HIGH = "high"


class Size(Enum):
    SMALL = 1
    NONE = "none"


class Card(BaseModel):
    kind: Literal["card"]
    number: str = Field(min_length=4, pattern=r"^\d+$")


class Cash(BaseModel):
    kind: Literal["cash"]
    currency: Literal["EUR", "USD"] = "EUR"


@dataclass
class Line:
    what: str
    count: int = 1
    tags: list[str] = field(default_factory=list)


class Everything(BaseModel):
    """Everything strict mode can express."""

    level: Level = Field(description="How much it matters")
    size: Size | None = None
    paid: Annotated[Card | Cash, Field(discriminator="kind")]
    either: int | Line = 5
    lines: list[Line] = []
    price: Decimal = Field(gt=0)
    at: datetime
    day: date | None = Field(default=None, description="When it is due")
    id: UUID
    web: str | None = Field(default=None, json_schema_extra={"format": "uri"})
    several: set[int] = set()
    rate: float = Field(default=0.5, ge=0, le=1, examples=[0.1])


EVERYTHING = {
    "level": "high",
    "size": 1,
    "paid": {"kind": "card", "number": "1234"},
    "either": {"what": "pen", "count": 2, "tags": ["blue"]},
    "lines": [{"what": "ink", "count": 1, "tags": []}],
    "price": "12.50",
    "at": "2026-03-01T10:00:00Z",
    "day": None,
    "id": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
    "web": "https://example.com/",
    "several": [1, 2],
    "rate": 0.25,
}


class Tree(BaseModel):
    name: str
    parent: Tree | None = None
    children: list[Tree] = []


@dataclass
class Nothing:
    pass


class Loose(BaseModel):
    """Strict mode can express none of these, so the answer is only checked here."""

    amounts: dict[str, int]
    pair: tuple[int, str] = (1, "")
    whatever: Any = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Range(BaseModel):
    low: int
    high: int

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


@dataclass
class Point:
    x: float
    y: float = 0.0


GOOD: dict[str, tuple[type[Any], Any, Any]] = {
    "everything": (
        Everything,
        EVERYTHING,
        Everything(
            level=Level.HIGH,
            size=Size.SMALL,
            paid=Card(kind="card", number="1234"),
            either=Line("pen", 2, ["blue"]),
            lines=[Line("ink")],
            price=Decimal("12.50"),
            at=datetime(2026, 3, 1, 10, tzinfo=UTC),
            id=UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff"),
            web="https://example.com/",
            several={1, 2},
            rate=0.25,
        ),
    ),
    "recursive": (
        Tree,
        {"name": "a", "parent": None, "children": [{"name": "b", "parent": None, "children": []}]},
        Tree(name="a", children=[Tree(name="b")]),
    ),
    "a dataclass": (Point, {"x": 1, "y": 2.5}, Point(1.0, 2.5)),
    "no fields": (Nothing, {}, Nothing()),
    "not strict": (Loose, {"amounts": {"a": 1}}, Loose(amounts={"a": 1})),
    "open": (Open, {"name": "a", "more": 1}, Open(name="a", more=1)),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("name", GOOD)
async def test_an_answer_becomes_its_type(redis_url: str, namespace: str, name: str) -> None:
    """With both APIs; the server refuses what strict mode refuses."""
    schema, said, expected = GOOD[name]
    agents = [
        Agent(id=f"typed-{name}-{provider}", model="gpt-4o", provider=provider, output_schema=schema)
        for provider in PROVIDERS
    ]
    async with talking(redis_url, namespace, [Say(said)] * 2, *agents) as (server, at_work):
        for agent in agents:
            found = (await agent.run(at_work.client, "Answer")).result
            assert found == expected and type(found) is schema
    for request in server.log:
        assert request.response_format is not None
        assert request.response_format["strict"] is (name not in ("not strict", "open"))


def _inside(schema: Any) -> Sequence[dict[str, Any]]:
    """A schema and all its subschemas, without property names."""
    if isinstance(schema, list):
        return [found for one in schema for found in _inside(one)]
    below: list[Any] = []
    for name, value in schema.items():
        if name in ("properties", "$defs"):
            below += value.values()
        elif name in ("anyOf", "items"):
            below += value if isinstance(value, list) else [value]
    return [schema, *(found for one in below for found in _inside(one))]


def test_a_strict_schema_has_only_allowed_keywords() -> None:
    schema = schema_of(Everything, "Everything", "the test").schema
    formats = {part.get("format") for part in _inside(schema)} - {None}
    assert formats == {"date-time", "date", "uuid"}
    assert {word for part in _inside(schema) for word in part}.isdisjoint(
        {"default", "oneOf", "discriminator", "uniqueItems", "minLength", "examples", "allOf"}
    )
    fields = schema["properties"]
    assert fields["level"] == {"anyOf": [{"$ref": "#/$defs/Level"}], "description": "How much it matters"}
    assert fields["rate"]["maximum"] == 1 and fields["price"]["anyOf"][0] == {
        "exclusiveMinimum": 0.0,
        "type": "number",
    }
    assert schema["$defs"]["Card"]["properties"]["number"]["pattern"] == r"^\d+$"
    assert schema["required"] == list(fields)
    assert schema["$defs"]["Line"]["required"] == ["what", "count", "tags"]
    assert all(part["additionalProperties"] is False for part in _inside(schema) if "properties" in part)


def test_a_field_may_be_named_like_a_schema_keyword() -> None:
    class Tricky(BaseModel):
        default: int
        format: str = "x"
        oneOf: list[str] = []

    found = schema_of(Tricky, "Tricky", "the test")
    assert found.strict and list(found.schema["properties"]) == ["default", "format", "oneOf"]


def test_a_name_the_api_would_refuse_is_changed() -> None:
    assert schema_of(Point, "Box[int]", "the test").name == "Box_int_"


# --- invalid answers ----------------------------------------------------------------------


def mending(request: ModelRequest) -> Reply:
    """A model that gets it right at the fourth attempt."""
    answers: list[Any] = ["a range", {"low": 1}, {"low": 5, "high": 1}, {"low": 1, "high": 5}]
    return Say(answers[request.round])


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_invalid_answer_is_sent_back_with_its_errors(
    redis_url: str, namespace: str, provider: str
) -> None:
    agent = Agent(
        id=f"mends-{provider}", model="gpt-4o", provider=provider, output_schema=Range, max_output_retries=3
    )
    async with talking(redis_url, namespace, mending, agent) as (server, at_work):
        found = await agent.run(at_work.client, "A range")
    assert found.result == Range(low=1, high=5)
    assert (found.total_steps, found.usage.requests) == (4, 4)
    prompts = [request.prompt for request in server.log]
    assert prompts[0] == "A range"
    assert "Invalid JSON" in prompts[1]
    assert prompts[2] == "Your answer does not match the schema: high: Field required. Answer again."
    assert "schema: Value error, low is above high" in prompts[3]
    said = [m["content"] for m in server.log[-1].messages if m["role"] == "assistant"]
    assert said[0] == "a range" and len(said) == 3


async def test_a_run_fails_after_max_output_retries(redis_url: str, namespace: str) -> None:
    agent = Agent(id="never-right", model="gpt-4o", output_schema=Range, max_output_retries=1)
    async with talking(redis_url, namespace, [Say(""), Say({"low": 1})], agent) as (server, at_work):
        handle = await agent.invoke(at_work.client, "A range")
        kind, message = await error_of(at_work, handle)
        usage = (await at_work.client.get_execution(handle.id))["usage"]
    assert kind == "InvalidOutputError"
    assert "of agent 'never-right' does not match its output_schema, after 2 attempts: high: Fiel" in message
    assert usage["requests"] == len(server.log) == 2, "the usage is reported all the same"
    assert server.log[1].messages[1]["content"] == "", "the API rejects an assistant message without content"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refusal_has_its_own_error(redis_url: str, namespace: str, provider: str) -> None:
    agent = Agent(id=f"refuses-{provider}", model="gpt-4o", provider=provider, output_schema=Range)
    async with talking(redis_url, namespace, [Say(refusal="I can't do that.")], agent) as (server, at_work):
        kind, message = await error_of(at_work, await agent.invoke(at_work.client, "Do it"))
    assert kind == "ModelRefusalError"
    assert message == f"the model of agent 'refuses-{provider}' refused: I can't do that."
    assert len(server.log) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_content_filter_raises_a_refusal(redis_url: str, namespace: str, provider: str) -> None:
    agent = Agent(id=f"filtered-{provider}", model="gpt-4o", provider=provider)
    replies = [Say("Once upon", finish_reason="content_filter")]
    async with talking(redis_url, namespace, replies, agent) as (server, at_work):
        kind, message = await error_of(at_work, await agent.invoke(at_work.client, "A story"))
    assert kind == "ModelRefusalError" and "the provider's content filter blocked the answer of" in message
    assert len(server.log) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_truncated_answer_depends_on_its_type(redis_url: str, namespace: str, provider: str) -> None:
    """A truncated text is returned and says so; a truncated value is asked for again."""
    text = Agent(id=f"cut-text-{provider}", model="gpt-4o", provider=provider, max_output_tokens=5)
    value = Agent(id=f"cut-{provider}", model="gpt-4o", provider=provider, output_schema=Range)
    replies = [
        Say("Once upon", finish_reason="length"),
        Say('{"low": 1, "hi', finish_reason="length"),
        Say({"low": 1, "high": 2}),
    ]
    async with talking(redis_url, namespace, replies, text, value) as (server, at_work):
        found = await text.run(at_work.client, "A story")
        assert (found.result, found.stopped_by) == ("Once upon", "max_output_tokens")
        assert (await value.run(at_work.client, "A range")).result == Range(low=1, high=2)
    assert "(cut off by max_output_tokens)" in server.log[2].prompt
