"""`ctx.step.suspend(schema=...)`: every entry point refuses an answer that does not match the schema."""

from __future__ import annotations

import socket
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

from polos_redis import (
    AlreadyResumedError,
    ExecutionFailedError,
    ExecutionHandle,
    InvalidAnswerError,
    PolosClient,
    SuspensionNotFoundError,
    UnreadableValueError,
    ValueTooLargeError,
    Workflow,
    WorkflowContext,
    events,
)
from polos_redis.decisions.answer_policy import AnswerPolicy
from polos_redis.decisions.answer_types import AnswerTypes
from polos_redis.decisions.changed_types import read_answer
from polos_redis.values import codec
from polos_redis.values.bounded_type import MAX_ERRORS
from polos_redis.values.bounds import MAX_LEVELS, at_once
from tests.harness.command import Command
from tests.harness.running import Running, running, until

pytestmark = pytest.mark.also_on_cluster

SEEN: defaultdict[str, list[Any]] = defaultdict(
    list
)  # by execution: the answers its code received, activation by activation


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: str
    weight: Decimal = Field(gt=0)


class Decision(BaseModel):
    approved: bool
    limit: int | None = Field(default=None, ge=0)
    parts: list[Part] = []


class Facts(BaseModel):
    at: datetime
    on: date
    id: UUID
    price: Decimal
    took: timedelta
    colour: Colour


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Card(BaseModel):
    kind: Literal["card"]
    number: str = Field(pattern=r"^\d{4}$")


class Bank(BaseModel):
    kind: Literal["bank"]
    iban: str


class Payment(BaseModel):
    by: Annotated[Card | Bank, Field(discriminator="kind")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    approved: bool


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def is_even(cls, number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number


class Broken(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def fails(cls, name: str) -> str:
        raise LookupError("no such directory")


class Mail(BaseModel):
    to: str = Field(json_schema_extra={"format": "email"})


@dataclass
class Note:
    text: str
    stars: int = 3


FACTS = {
    "at": "2026-03-04T05:06:07Z",
    "on": "2026-03-04",
    "id": "12345678-1234-5678-1234-567812345678",
    "price": "12.30",
    "took": "PT90S",
    "colour": "blue",
}

# name -> the type, a valid answer, its typed value, and invalid answers, each with the offending field
# ("a|b": by the type it is called a, by the schema b)
TYPES: dict[str, tuple[Any, Any, Any, list[tuple[Any, str]]]] = {
    "model": (
        Decision,
        {"approved": True, "parts": [{"name": "lid", "weight": "1.5"}]},
        Decision(approved=True, parts=[Part(name="lid", weight=Decimal("1.5"))]),
        [
            ({}, "approved"),
            ([], ""),
            (None, ""),
            ("yes", ""),
            ({"approved": "perhaps"}, "approved"),
            ({"approved": True, "limit": -1}, "limit"),
            ({"approved": True, "parts": {}}, "parts"),
            ({"approved": True, "parts": [{"name": "a", "weight": 1}, {"name": "b"}]}, "parts.1.weight"),
            ({"approved": True, "parts": [{"name": "a", "weight": 0}]}, "parts.0.weight"),
        ],
    ),
    "facts": (
        Facts,
        FACTS,
        Facts(
            at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
            on=date(2026, 3, 4),
            id=UUID("12345678-1234-5678-1234-567812345678"),
            price=Decimal("12.30"),
            took=timedelta(seconds=90),
            colour=Colour.BLUE,
        ),
        [
            ({**FACTS, "at": "tomorrow"}, "at"),
            ({**FACTS, "on": "2026-02-30"}, "on"),
            ({**FACTS, "id": "12"}, "id"),
            ({**FACTS, "price": "much"}, "price"),
            ({**FACTS, "took": "long"}, "took"),
            ({**FACTS, "colour": "green"}, "colour"),
            ({**FACTS, "colour": None}, "colour"),
        ],
    ),
    "recursive": (
        Tree,
        {"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}]},
        Tree(value=1, children=[Tree(value=2, children=[Tree(value=3)])]),
        [({"value": 1, "children": [{"value": 2, "children": [{}]}]}, "children.0.children.0.value")],
    ),
    "tagged union": (
        Payment,
        {"by": {"kind": "card", "number": "1234"}},
        Payment(by=Card(kind="card", number="1234")),
        [
            ({"by": {"kind": "card", "number": "12"}}, "by.card.number|by.number"),
            ({"by": {"kind": "cash"}}, "by"),
            ({"by": {"kind": "bank"}}, "by.bank.iban|by.iban"),
        ],
    ),
    "no more fields": (
        Strict,
        {"approved": False},
        Strict(approved=False),
        [({"approved": True, "__proto__": {}}, "__proto__")],
    ),
    "dataclass": (Note, {"text": "hi"}, Note("hi"), [({"text": 5}, "text"), ({"stars": 1}, "text")]),
    "list": (
        list[Part],
        [{"name": "a", "weight": 2}],
        [Part(name="a", weight=Decimal(2))],
        [([{}], "0.name"), ([{}], "0.weight"), ({}, "")],
    ),
    "literal": (Literal["yes", "no"], "yes", "yes", [("maybe", ""), (True, "")]),
    "enum": (Colour, "red", Colour.RED, [("green", ""), (1, "")]),
    "union": (int | str, 5, 5, [([], ""), ({}, "")]),
    "optional": (int | None, None, None, [("x", "")]),
    "bool": (bool, True, True, [(None, ""), ("perhaps", ""), ({"approved": True}, "")]),
    "dict": (dict[str, int], {"a": 1}, {"a": 1}, [({"a": "x"}, "a"), ([], "")]),
}  # fmt: skip
OWN = ("model", "facts", "recursive", "tagged union", "no more fields", "dataclass")  # found by their names


async def _asks(ctx: WorkflowContext, input: Any) -> None:
    SEEN[ctx.execution_id].append(await ctx.step.suspend("ask", {"q": 1}, schema=TYPES[input][0]))
    await ctx.step.suspend("more")


asks: Workflow[Any, Any] = Workflow(_asks, "typed-asks")


def waits_for(schema: Any, name: str) -> Workflow[Any, Any]:
    """A workflow that records the answer it receives and returns it."""

    async def body(ctx: WorkflowContext) -> Any:
        answer = await ctx.step.suspend("ask", schema=schema)
        SEEN[ctx.execution_id].append(answer)
        return answer.model_dump(mode="json")

    return Workflow(body, name)


asks_for_a_model = waits_for(Decision, "typed-asks-for-a-model")


def forget(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes this process look like one that has not imported the type."""
    monkeypatch.delattr(f"{__name__}.{name}", raising=True)


async def asked(at: Running, workflow: Workflow[Any, Any], input: Any = None) -> ExecutionHandle[Any]:
    handle = await workflow.invoke(at.client, input)
    await at.opened(handle, "ask")
    return handle


def fields(caught: pytest.ExceptionInfo[InvalidAnswerError]) -> list[str]:
    assert all(one["message"] for one in caught.value.errors)
    return [one["field"] for one in caught.value.errors]


@pytest.mark.failure(28)
@pytest.mark.parametrize(
    ("name", "imported"),
    [(name, False) for name in TYPES] + [(name, True) for name in OWN],
    ids=lambda part: part if isinstance(part, str) else ("", "imported")[part],
)
@pytest.mark.promise("answer checked")
async def test_a_valid_answer_becomes_the_type_and_all_others_are_refused(
    name: str, imported: bool, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, answer, value, wrong = TYPES[name]
    async with running(redis_url, namespace, asks) as at:
        handle = await asked(at, asks, name)
        if name in OWN and not imported:
            forget(monkeypatch, schema.__name__)
        await at.parked(handle)
        for data, field in wrong:
            with pytest.raises(InvalidAnswerError) as caught:
                await at.answer(handle, "ask", data)
            expected = field.split("|")[0 if imported else -1]
            assert expected in fields(caught), (data, caught.value.errors)
            assert f"does not fit suspension 'ask' of {handle.id}" in str(caught.value)
            assert "\n" not in str(caught.value)
        assert await handle.status() == "waiting" and not SEEN[handle.id], "nothing was woken"
        assert await at.client.audit(handle.id) == []
        accepted = await at.answer(handle, "ask", answer)
        assert (accepted.outcome, accepted.approvals, accepted.required) == ("accepted", 1, 1)
        await at.opened(handle, "more")
        assert SEEN[handle.id] == [value] and type(SEEN[handle.id][0]) is type(value)
        assert (await at.answer(handle, "ask", answer)).outcome == "same"
        await at.answer(handle, "more")
        await at.result(handle)
        assert SEEN[handle.id] == [value, value], "and the same on replay"
        if imported:
            with pytest.raises(AlreadyResumedError):
                await at.answer(handle, "ask", value)


async def test_the_schema_can_be_read_to_show_a_form(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asked(at, asks, "model")
        (listed,) = await at.client.list_suspensions()
        found = await at.client.get_suspension(handle.id, "ask")
        assert listed["schema"] == found["schema"]
        assert found["schema"]["properties"]["limit"] == Decision.model_json_schema()["properties"]["limit"]
        assert listed["approvers"] == [] and listed["required"] == listed["rejections"] == 1
        assert found["execution_status"] in ("running", "waiting") and found["run"] == 1
        untyped = await at.client.list_suspensions(workflow="none")
        assert list(untyped) == []


# --- entry points -----------------------------------------------------------------------


async def test_the_command_checks_without_any_model(redis_url: str, namespace: str, tmp_path: Path) -> None:
    polos = Command(redis_url, namespace, tmp_path)
    async with running(redis_url, namespace, asks_for_a_model) as at:
        handle = await asked(at, asks_for_a_model)
        wrong = '{"approved": true, "limit": -1, "parts": [{"name": 1}]}'
        refused = await polos("resume", handle.id, "--data", wrong)
        assert refused.code == 1
        for said in ("limit: ", "parts.0.name: ", "parts.0.weight: "):
            assert said in refused.sentence
        accepted = await polos("resume", handle.id, "--approve")
        assert accepted.code == 0, accepted.err
        assert await at.result(handle) and SEEN[handle.id] == [Decision(approved=True)]


async def test_an_event_on_the_topic_is_checked(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks_for_a_model) as at:
        handle = await asked(at, asks_for_a_model)
        topic = f"ask/{handle.id}"
        with pytest.raises(InvalidAnswerError) as caught:
            await events.publish(at.client, topic, events.EventData("resume", {"approved": 1.5}))
        assert fields(caught) == ["approved"]
        await events.publish(at.client, topic, events.EventData("resume", {"approved": False}))
        assert await at.result(handle) and SEEN[handle.id] == [Decision(approved=False)]
        (entry,) = await at.client.audit(handle.id)
        assert (entry["channel"], entry["by"]) == ("topic", None)


async def test_other_events_on_the_topic_answer_nothing(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks_for_a_model) as at:
        handle = await asked(at, asks_for_a_model)
        for kind in ("resume_ask", "answer", "timeout", "suspend"):
            await events.publish(at.client, f"ask/{handle.id}", events.EventData(kind, {"approved": True}))
        assert (await at.client.get_suspension(handle.id, "ask"))["status"] == "open"


async def _answers(ctx: WorkflowContext, input: Any) -> Any:
    for number, data in enumerate(input["answers"]):
        try:
            await ctx.step.resume(f"answer {number}", "ask", input["of"], data=data)
        except Exception as error:
            SEEN[ctx.execution_id].append(error)


answers: Workflow[Any, Any] = Workflow(_answers, "typed-answers")


async def test_another_workflows_answer_is_checked(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks_for_a_model, answers) as at:
        handle = await asked(at, asks_for_a_model)
        data = [{"approved": None}, Decision(approved=True, limit=4)]
        other = await answers.invoke(at.client, {"of": handle.id, "answers": data})
        await at.result(other)
        (error,) = SEEN[other.id]
        assert error.error_type == "InvalidAnswerError" and "approved: " in str(error)
        assert (await at.result(handle))["limit"] == 4
        (entry,) = await at.client.audit(handle.id)
        assert (entry["channel"], entry["by"]) == ("workflow", f"execution {other.id}")


# --- early answers ----------------------------------------------------------------------


async def early(client: PolosClient, handle: ExecutionHandle[Any], data: Any, **more: Any) -> str:
    resumed = await client.resume(
        suspend_execution_id=handle.id, suspend_step_key="ask", data=data, early=True, **more
    )
    return resumed.outcome


@pytest.mark.parametrize("imported", [True, False])
async def test_an_early_answer_is_checked_when_its_suspension_opens(
    imported: bool, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await asks_for_a_model.invoke(client)
        assert await early(client, handle, {"approved": True, "limit": 7}, resumed_by="ann") == "early"
    if not imported:
        forget(monkeypatch, "Decision")
    async with running(redis_url, namespace, asks_for_a_model) as at:
        result = await at.result(at.client.get_handle(handle.id))
        assert (result["approved"], result["limit"]) == (True, 7)
        (entry,) = await at.client.audit(handle.id)
        assert (entry["status"], entry["by"], entry["channel"]) == ("answered", "ann", "client")


async def test_an_invalid_early_answer_is_dropped(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks_for_a_model) as at:
        handle = await asks_for_a_model.invoke(at.client, start_delay=0.2)
        assert await early(at.client, handle, {"limit": "none"}) == "early"
        await at.opened(handle, "ask")
        store = await at.client.store()

        async def dropped() -> bool:
            return await store.suspensions.early_answer(handle.id, "ask") is None

        await until(dropped)
        assert (await at.client.get_suspension(handle.id, "ask"))["status"] == "open"
        assert [one["status"] for one in await at.client.audit(handle.id)] == ["unused"]
        await at.answer(handle, "ask", {"approved": True})
        assert await at.result(handle) and SEEN[handle.id] == [Decision(approved=True)]


async def test_an_early_answer_cannot_refer_to_data_not_yet_shown(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await asks_for_a_model.invoke(client)
        with pytest.raises(SuspensionNotFoundError):
            await early(client, handle, {"approved": True}, shown_digest="ab" * 32)
        await client.cancel(handle.id)


# --- types stricter than their schema, and types that changed ---------------------------


async def test_a_validator_of_the_type_is_applied(redis_url: str, namespace: str) -> None:
    even, broken = waits_for(Even, "typed-even"), waits_for(Broken, "typed-broken")
    async with running(redis_url, namespace, even, broken) as at:
        handle = await asked(at, even)
        with pytest.raises(InvalidAnswerError) as caught:
            await at.answer(handle, "ask", {"number": 3})
        assert caught.value.errors == [{"field": "number", "message": "Value error, 3 is odd"}]
        await at.answer(handle, "ask", {"number": 4})
        assert await at.result(handle) and SEEN[handle.id] == [Even(number=4)]
        handle = await asked(at, broken)
        with pytest.raises(InvalidAnswerError, match="LookupError: no such directory"):
            await at.answer(handle, "ask", {"name": "x"})


async def test_a_validator_runs_in_the_workflow_if_only_the_schema_is_known(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    even = waits_for(Even, "typed-even-elsewhere")
    async with running(redis_url, namespace, even) as at:
        handle = await asked(at, even)
        accepted = await Command(redis_url, namespace, tmp_path)(
            "resume", handle.id, "--data", '{"number": 3}'
        )
        assert accepted.code == 0, accepted.err
        with pytest.raises(ExecutionFailedError, match=r"(?s)InvalidAnswerError.*3 is odd"):
            await at.result(handle)


class Before(BaseModel):
    approved: bool


class After(BaseModel):
    approved: bool
    reason: str


async def test_a_type_may_change_between_deploys(redis_url: str, namespace: str) -> None:
    before, after = waits_for(Before, "typed-deploys"), waits_for(After, "typed-deploys")
    async with running(redis_url, namespace, before) as at:
        handle, fits_both = await asked(at, before), await asked(at, before)
        await at.parked(handle)
        await at.parked(fits_both)
    async with running(redis_url, namespace, after) as at:
        handle, fits_both = at.client.get_handle(handle.id), at.client.get_handle(fits_both.id)
        await at.answer(fits_both, "ask", {"approved": True, "reason": "fine"})
        assert await at.result(fits_both) == {"approved": True, "reason": "fine"}
        await at.answer(handle, "ask", {"approved": True})  # valid when it was asked

        async def is_held_back() -> bool:
            held = (await at.client.get_execution(handle.id))["held_back"]
            return held is not None and "changed since: reason: Field required" in held["reason"]

        await until(is_held_back)
    async with running(redis_url, namespace, before) as at:
        assert await at.result(at.client.get_handle(handle.id)) == {"approved": True}, "the answer is kept"


class Line(BaseModel):
    amt: int = 0


class NewLine(BaseModel):
    amount: int = 0


class Reads(BaseModel):
    amount: int = Field(0, validation_alias="amt")


class Loose(BaseModel):
    model_config = ConfigDict(extra="ignore")
    amount: int = 0


def holding(kind: Any) -> Any:
    """A type with lines of this type at every kind of place."""
    return create_model(
        "Holding",
        approved=(bool, ...),
        line=(kind | None, None),
        lines=(list[kind], []),
        by_name=(dict[str, list[kind]], {}),
    )


PLACES = [
    ({"line": {"amt": 5}}, "line."),
    ({"lines": [{"amt": 5}]}, "lines."),
    ({"lines": [{"amt": 1}, {"amt": 5}]}, "lines."),
    ({"by_name": {"x": [{"amt": 5}]}}, "by_name.x."),
]


@pytest.mark.parametrize(("answer", "path"), PLACES)
@pytest.mark.parametrize("now", [NewLine, Line, Reads, Loose])
def test_no_field_of_a_plain_answer_is_lost_at_any_level(now: Any, answer: Any, path: str) -> None:
    policy = AnswerPolicy.of("it", AnswerTypes(holding(Line)), None, 1, 1, True, set()).pack()
    stored = codec.encode({"approved": True, **answer})
    types = AnswerTypes(holding(now))
    if now is NewLine:
        message = f"type has changed since: {path}amt would be lost, and {path}amount set to a default"
        with pytest.raises(UnreadableValueError, match=message):
            at_once(read_answer(stored, types, policy))
    else:
        at_once(read_answer(stored, types, policy))


async def test_an_answer_outlives_a_deploy_that_adds_a_schema(redis_url: str, namespace: str) -> None:
    async def untyped(ctx: WorkflowContext) -> Any:
        return (await ctx.step.suspend("ask"))["data"]

    before: Workflow[Any, Any] = Workflow(untyped, "typed-later")
    after = waits_for(Before, "typed-later")
    async with running(redis_url, namespace, before) as at:
        handle = await asked(at, before)
        await at.parked(handle)
    async with PolosClient(redis_url, namespace) as client:
        await client.resume(suspend_execution_id=handle.id, suspend_step_key="ask", data={"approved": True})
    async with running(redis_url, namespace, after) as at:
        assert await at.result(at.client.get_handle(handle.id)) == {"approved": True}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that would notice a fetch."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.threat(30)
async def test_references_in_a_schema_are_never_fetched(
    listener: socket.socket, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = listener.getsockname()
    here = f"http://{host}:{port}/schema.json"

    class Refers(BaseModel):
        value: Annotated[int, Field(json_schema_extra={"$ref": here})]

    refers = waits_for(Refers, "typed-refers")
    async with running(redis_url, namespace, refers) as at:
        handle = await asked(at, refers)
        with pytest.raises(InvalidAnswerError, match="references are never fetched"):
            await at.answer(handle, "ask", {"value": 1})
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_an_email_address_is_validated(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = waits_for(Mail, "typed-mail")
    async with running(redis_url, namespace, mail) as at:
        handle = await asked(at, mail)
        forget(monkeypatch, "Mail")
        for wrong in ("nobody", "a b@c", "@", "a@b@c"):
            with pytest.raises(InvalidAnswerError) as caught:
                await at.answer(handle, "ask", {"to": wrong})
            assert fields(caught) == ["to"]
        await at.answer(handle, "ask", {"to": "ann@example.com"})
        assert await at.result(handle) == {"to": "ann@example.com"}


# --- hostile answers --------------------------------------------------------------------


def deep(levels: int) -> Any:
    answer: Any = {"value": 1}
    for _ in range(levels):
        answer = {"value": 1, "children": [answer]}
    return answer


@pytest.mark.failure(29, 30)
@pytest.mark.parametrize("imported", [True, False])
async def test_hostile_answers_are_refused_briefly(
    imported: bool, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle, decision = await asked(at, asks, "recursive"), await asked(at, asks, "model")
        facts = await asked(at, asks, "facts")
        if not imported:
            for name in ("Tree", "Decision", "Facts"):
                forget(monkeypatch, name)
        for levels in (MAX_LEVELS // 2, MAX_LEVELS, 150):
            with pytest.raises(ValueTooLargeError, match=f"nested deeper than {MAX_LEVELS} levels"):
                await at.answer(handle, "ask", deep(levels))
        with pytest.raises(ValueTooLargeError):
            await at.answer(handle, "ask", deep(100_000))
        with pytest.raises(ValueTooLargeError):
            await at.answer(handle, "ask", {"value": 1, "more": "x" * 2_000_000})
        many = {"approved": True, "parts": [{"name": 5, "weight": "x" * 50}] * 5000}
        long = {"approved": "y" * 500_000, "limit": "z" * 400_000}
        for answer in (many, long):
            with pytest.raises(InvalidAnswerError) as caught:
                await at.answer(decision, "ask", answer)
            assert 0 < len(caught.value.errors) <= MAX_ERRORS
            assert all(len(one["message"]) < 400 for one in caught.value.errors)
            assert len(str(caught.value)) < 10_000
        for number in (float("nan"), float("inf")):
            with pytest.raises(InvalidAnswerError) as caught:
                await at.answer(facts, "ask", {**FACTS, "price": number})
            assert fields(caught) == ["price"]
        for wrong in ({"approved": [[]], "": 0}, {"approved": {}, "a.b": 1}, b"\xff", {1: 2}):
            with pytest.raises(InvalidAnswerError):
                await at.answer(decision, "ask", wrong)
        for one in (handle, decision, facts):
            assert await one.status() in ("running", "waiting") and not SEEN[one.id]


async def test_the_deepest_accepted_answer_stays_whole(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asked(at, asks, "recursive")
        answer = deep(MAX_LEVELS // 2 - 1)
        await at.answer(handle, "ask", answer)
        await at.opened(handle, "more")
        (found,) = SEEN[handle.id]
        levels: Counter[str] = Counter()
        while found.children:
            (found,) = found.children
            levels["deep"] += 1
        assert levels["deep"] == MAX_LEVELS // 2 - 1


# --- invalid schemas --------------------------------------------------------------------


class Unspeakable(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    file: socket.socket


@pytest.mark.parametrize("schema", [Unspeakable, 5, "Nobody", print])
async def test_a_type_without_a_schema_fails_in_one_sentence(
    schema: Any, redis_url: str, namespace: str
) -> None:
    invalid = waits_for(schema, "typed-unspeakable")
    async with running(redis_url, namespace, invalid) as at:
        with pytest.raises(ExecutionFailedError) as failed:
            await at.result(await invalid.invoke(at.client))
        assert failed.value.error_type == "ConfigurationError"
        said = failed.value.error_message
        assert said.startswith("suspension 'ask': schema=") and "\n" not in said
        assert list(await at.client.list_suspensions()) == []


async def test_without_a_schema_an_answer_keeps_its_types(redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext) -> Any:
        return (await ctx.step.suspend("ask", approvers=["ann"]))["data"]

    asks_ann: Workflow[Any, Any] = Workflow(body, "typed-not")
    answer = {"when": datetime(2026, 1, 2, tzinfo=UTC), "parts": (Part(name="a", weight=Decimal(1)),)}
    async with running(redis_url, namespace, asks_ann) as at:
        handle = await asked(at, asks_ann)
        await at.client.resume(
            suspend_execution_id=handle.id, suspend_step_key="ask", data=answer, resumed_by="ann"
        )
        assert await at.result(handle) == answer


@pytest.mark.parametrize("shown", ["just a text", ["a", "list"], {"q": 1}], ids=["text", "list", "dict"])
async def test_the_data_shown_need_not_be_a_dict(
    shown: Any, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PUBLIC_URL", "https://polos.example.com")

    async def body(ctx: WorkflowContext) -> Any:
        return (await ctx.step.suspend("ask", shown))["data"]

    shows: Workflow[Any, Any] = Workflow(body, "typed-shows")
    async with running(redis_url, namespace, shows) as at:
        handle = await asked(at, shows)
        assert (await at.client.get_suspension(handle.id, "ask"))["data"] == shown
        await at.answer(handle, "ask")
        await at.result(handle)
        (data,) = [event.data for event in await at.events(handle) if event.event_type == "suspend_ask"]
        if isinstance(shown, dict):
            address = data.pop("_approval_url")
            assert address == f"https://polos.example.com/approve/{handle.id}/ask"
        assert data == shown
