"""A decision is about values: an answer arrives as it was given, and the digest covers what was decided."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from math import inf
from typing import Annotated, Any

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    computed_field,
    field_validator,
)

from polos_redis import (
    AlreadyResumedError,
    ExecutionFailedError,
    ExecutionHandle,
    InvalidAnswerError,
    PolosClient,
    ShownChangedError,
    Workflow,
    WorkflowContext,
    events,
)
from tests.harness.running import Running, running

pytestmark = pytest.mark.also_on_cluster

SEEN: defaultdict[str, list[Any]] = defaultdict(list)  # by execution: its answers, activation by activation


class Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    sku: str = Field(alias="SKU")
    note: str = Field(default="", exclude=True)


class Decision(BaseModel):
    """Nothing in it survives JSON unchanged."""

    approved: bool
    cents: int = Field(default=0, exclude=True)
    proof: bytes = b""
    limit: float = 0.0
    card: Annotated[str, PlainSerializer(lambda _: "****")] = ""
    days: int = Field(default=1, validation_alias=AliasChoices("days-left", "days"))
    euros: Annotated[int, Field(ge=0)] = 0
    lines: tuple[Line, ...] = ()
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    _seen_by: str = PrivateAttr("nobody")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return self.cents * self.days

    @field_validator("euros", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> int:
        return int(value.removesuffix(" EUR"))  # does not accept what it returns


class Special(Decision):
    more: str = "more"


@dataclass(frozen=True)
class Note:
    text: str
    raw: bytes = b""
    length: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.text))


def decided(cls: type[Decision] = Decision, **more: Any) -> Decision:
    made = cls.model_validate(
        {
            "approved": True,
            "cents": 5000,
            "proof": b"\xff\x00",
            "limit": inf,
            "card": "4242",
            "days-left": 3,
            "euros": "7 EUR",
            "lines": [{"SKU": "a", "note": "hidden", "colour": "red"}],
            **more,
        }
    )
    made._seen_by = "ann"
    return made


INSTANCES: dict[str, tuple[Any, Any]] = {
    "model": (Decision, decided()),
    "rejecting model": (Decision, decided(approved=False)),
    "subclass": (Decision, decided(Special, more="x")),
    "dataclass": (Note, Note("hi", b"\xff")),
    "list of models": (list[Line], [Line(SKU="a", note="b")]),
    "union": (Note | Line, Line(SKU="a", note="b")),
    "optional": (Line | None, Line(SKU="a", note="b")),
    "set": (set[bytes], {b"\xff", b"a"}),
    "keys": (dict[int, Line], {1: Line(SKU="a", note="b")}),
    "annotated": (Annotated[Line, "a note"], Line(SKU="a", note="b")),
    "without a schema": (None, decided()),
}


async def _asks(ctx: WorkflowContext, input: str) -> None:
    schema, _ = INSTANCES[input]
    answer: Any = await ctx.step.suspend("ask", {"q": 1}, schema=schema)
    SEEN[ctx.execution_id].append(answer["data"] if schema is None else answer)
    await ctx.step.suspend("more")


asks: Workflow[Any, Any] = Workflow(_asks, "values-asks")


async def asked(at: Running, workflow: Workflow[Any, Any], input: Any = None) -> ExecutionHandle[Any]:
    handle = await workflow.invoke(at.client, input)
    await at.opened(handle, "ask")
    return handle


@pytest.mark.failure(48)
@pytest.mark.parametrize("name", INSTANCES)
async def test_an_answer_given_as_an_instance_arrives_equal(
    name: str, redis_url: str, namespace: str
) -> None:
    """Excluded, masked and renamed fields, bytes, private attributes, validators that refuse their own
    result: all as in the process that answered, and again on replay."""
    given = INSTANCES[name][1]
    async with running(redis_url, namespace, asks) as at:
        handle = await asked(at, asks, name)
        await at.parked(handle)
        assert (await at.answer(handle, "ask", given)).outcome == "accepted"
        await at.opened(handle, "more")
        assert (await at.answer(handle, "ask", given)).outcome == "same"
        with pytest.raises(AlreadyResumedError):  # it looks alike, but is another answer
            await at.answer(handle, "ask", (await at.client.get_suspension(handle.id, "ask"))["answer"])
        await at.answer(handle, "more")
        await at.result(handle)
    first, again = SEEN[handle.id]
    for arrived in (first, again):
        assert type(arrived) is type(given) and arrived == given
        if isinstance(given, Decision):
            assert (arrived.cents, arrived._seen_by, arrived.total) == (5000, "ann", 15000)


async def test_a_default_answer_given_as_an_instance_arrives_equal(redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext) -> None:
        answer = await ctx.step.suspend("ask", timeout=0.01, schema=Decision, on_timeout=decided())
        SEEN[ctx.execution_id].append(answer)

    default: Workflow[Any, Any] = Workflow(body, "values-default")
    async with running(redis_url, namespace, default) as at:
        handle = await default.invoke(at.client)
        await at.result(handle)
    (arrived,) = SEEN[handle.id]
    assert arrived == decided() and arrived._seen_by == "ann"


async def test_an_instance_that_does_not_fit_is_refused(redis_url: str, namespace: str) -> None:
    """As it is now, not as it was when its validators ran; nor is a lookalike of another class."""
    changed = decided()
    changed.days = "soon"  # type: ignore[assignment]
    unchecked = Decision.model_construct(approved="perhaps")
    async with running(redis_url, namespace, asks) as at:
        handle = await asked(at, asks, "model")
        for wrong, path in ((changed, "days-left"), (unchecked, "approved"), (Note("x"), "approved")):
            with pytest.raises(InvalidAnswerError) as caught:
                await at.answer(handle, "ask", wrong)
            assert path in [one["field"] for one in caught.value.errors]
        assert not SEEN[handle.id]


class Elsewhere(BaseModel):
    """A service's own copy of `Decision`."""

    approved: bool = True
    cents: int = 9
    proof: bytes = b"\xfe"
    euros: str = "8 EUR"


async def test_a_model_of_another_class_counts_as_the_dict_of_its_fields(
    redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle, other = await asked(at, asks, "model"), await asked(at, asks, "model")
        await at.answer(handle, "ask", Elsewhere())
        later = datetime(2027, 1, 1, tzinfo=UTC)
        await at.answer(other, "ask", {"approved": True, "proof": b"\xfd", "at": later, "euros": "1 EUR"})
        await at.opened(handle, "more")
        await at.opened(other, "more")
    assert SEEN[handle.id] == [Decision(approved=True, cents=9, proof=b"\xfe", euros="8 EUR")]  # type: ignore[arg-type]
    (found,) = SEEN[other.id]
    assert (found.proof, found.at.year) == (b"\xfd", 2027)


@pytest.mark.parametrize("number", [inf, -inf, float("nan")])
async def test_a_float_that_is_not_finite_is_shown_as_what_it_is(
    number: float, redis_url: str, namespace: str
) -> None:
    async def body(ctx: WorkflowContext) -> float:
        answer: Any = await ctx.step.suspend("ask", {"now": number}, schema=Decision)
        return float(answer.limit)

    limits: Workflow[Any, Any] = Workflow(body, "values-limits")
    async with running(redis_url, namespace, limits) as at:
        handle = await asked(at, limits)
        name = {inf: "Infinity", -inf: "-Infinity"}.get(number, "NaN")
        assert (await at.client.get_suspension(handle.id, "ask"))["data"] == {"now": name}
        await at.answer(handle, "ask", {"approved": True, "limit": name})
        assert repr(await at.result(handle)) == repr(number)
        assert (await at.client.get_execution(handle.id))["result"] == name


# --- what is shown ----------------------------------------------------------------------


class Open(BaseModel):
    """`Decision` without what may not be shown."""

    approved: bool
    proof: bytes = b""
    card: Annotated[str, PlainSerializer(lambda _: "****")] = ""


@pytest.mark.threat(17)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"n": Decimal("1.0")}, {"n": "1.0"}),
        ({"n": b"a"}, {"n": "a"}),
        ({"n": inf}, {"n": "Infinity"}),
        ({"n": (1, 2)}, {"n": [1, 2]}),
        ({"n": [Open(approved=True, card="1")]}, {"n": [Open(approved=True, card="2")]}),
        (Open(approved=True, card="1"), Open(approved=True, card="2")),
        (Open(approved=True, proof=b"a"), {"approved": True, "proof": "a", "card": "****"}),
    ],
)
async def test_the_digest_tells_values_apart_that_look_alike(
    one: Any, other: Any, redis_url: str, namespace: str
) -> None:
    async def body(ctx: WorkflowContext, second: bool) -> None:
        await ctx.step.suspend("ask", other if second else one)

    shown: Workflow[Any, Any] = Workflow(body, "values-shown")
    async with running(redis_url, namespace, shown) as at:
        handles = [await asked(at, shown, second) for second in (False, False, True)]
        first, same, second = [await at.client.get_suspension(one.id, "ask") for one in handles]
        assert first["data"] == same["data"] == second["data"]
        assert first["digest"] == same["digest"] != second["digest"]
        answer = {"suspend_step_key": "ask", "data": {"approved": True}, "shown_digest": first["digest"]}
        with pytest.raises(ShownChangedError):
            await at.client.resume(suspend_execution_id=handles[2].id, **answer)
        await at.client.resume(suspend_execution_id=handles[1].id, **answer)


async def test_every_process_shows_the_same(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without the class knows nothing of its serializers."""

    async def body(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("ask", {"who": [Open(approved=True, card="4242")], "note": Note("x")})

    masked: Workflow[Any, Any] = Workflow(body, "values-masked")
    async with running(redis_url, namespace, masked) as at:
        handle = await asked(at, masked)
        await at.parked(handle)
        monkeypatch.delattr(f"{__name__}.Open")
        monkeypatch.delattr(f"{__name__}.Note")
        data = (await at.client.get_suspension(handle.id, "ask"))["data"]
        assert data["who"] == [{"approved": True, "proof": "", "card": "****"}]
        async for event in events.stream_workflow(at.client, handle.root_workflow_id, handle.id):
            if event.event_type == "suspend_ask":
                assert event.data == data
                break


@pytest.mark.threat(17)
@pytest.mark.parametrize("data", [decided(), {"a": [decided()]}, Line(SKU="a")])
async def test_data_with_an_excluded_field_is_refused(data: Any, redis_url: str, namespace: str) -> None:
    async def body(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("ask", data)

    hides: Workflow[Any, Any] = Workflow(body, "values-hides")
    async with running(redis_url, namespace, hides) as at:
        handle = await hides.invoke(at.client)
        with pytest.raises(
            ExecutionFailedError,
            match=r"ConfigurationError: suspension 'ask': data= has (Decision.cents|Line.note), which is "
            "not in its JSON, so nobody would see it: pass a dict of what to show",
        ):
            await at.result(handle)


# --- answers of types that the workflow's process has not imported ----------------------


async def _takes(ctx: WorkflowContext, typed: bool) -> None:
    schema: Any = Decision if typed else None
    answer: Any = await ctx.step.suspend("ask", schema=schema)
    SEEN[ctx.execution_id].append(answer if typed else answer["data"])


takes: Workflow[Any, Any] = Workflow(_takes, "values-takes")


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "untyped"])
async def test_a_type_that_is_not_imported_is_the_dict_of_its_fields(
    typed: bool, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values in it stay what they are: no bytes become text, no field is left out."""
    parts = {"notes": [Note("x", b"\xff")], "line": Line(SKU="a", note="b")}
    given: Any = Elsewhere(cents=9) if typed else parts
    async with running(redis_url, namespace, takes) as at:
        handle = await asked(at, takes, typed)
        await at.parked(handle)
    async with PolosClient(redis_url, namespace) as client:
        await client.resume(suspend_execution_id=handle.id, suspend_step_key="ask", data=given)
    for name in ("Elsewhere", "Note", "Line"):
        monkeypatch.delattr(f"{__name__}.{name}")
    async with running(redis_url, namespace, takes) as at:
        await at.result(at.client.get_handle(handle.id))
    (arrived,) = SEEN[handle.id]
    if typed:
        assert (arrived.cents, arrived.proof, arrived.euros) == (9, b"\xfe", 8)
    else:
        note = {"text": "x", "raw": b"\xff", "length": 1}
        assert arrived == {"notes": [note], "line": {"sku": "a", "note": "b"}}


async def test_half_a_surrogate_pair_is_no_text(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asked(at, asks, "optional")
        monkeypatch.delattr(f"{__name__}.Line")
        with pytest.raises(InvalidAnswerError, match="half of a surrogate pair"):
            await at.answer(handle, "ask", {"SKU": "\ud800"})
        await at.answer(handle, "ask", {"SKU": "a"})
        await at.opened(handle, "more")
