"""This release lists, shows, follows, resumes and finishes what each release has stored."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from polos_redis import EventData, PolosClient, apikeys, errands, events, schedules
from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from polos_redis.state.journal import COUNT, WRITER, Record, StepRecord, is_result, parse
from polos_redis.values import codec
from polos_redis.version import __version__
from tests.compatibility import golden
from tests.compatibility.golden_flows import (
    FLOWS,
    TOPIC,
    VALUES,
    Order,
    Pager,
    Parcel,
    Review,
    after,
    order,
    pinned,
)
from tests.harness.command import Command
from tests.harness.running import Running, journal_of, soon, until, working
from tests.invariants.state import RawConnection
from tests.invariants.state_invariants import check

# Kinds of keys that golden data can't have: channels, what lives for a short time, a test's clock.
FLEETING = {keys.REPLY, keys.CONFIRMED, keys.RATE, keys.SESSION, keys.SKIPPED, keys.EXPIRING}


def test_there_is_golden_data_of_this_release_with_every_kind_of_key() -> None:
    kinds = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    assert golden.load(__version__).kinds == kinds - FLEETING - {keys.DEFAULT_QUEUE}


def test_its_journals_have_every_kind_of_record() -> None:
    kinds = set()
    for one in golden.load(__version__).stored:
        if one.name.startswith(keys.JOURNAL.encode()):
            fields = zip(one.content[::2], one.content[1::2], strict=True)
            kinds |= {
                type(parse(stored))
                for name, stored in fields
                if name not in (COUNT, WRITER) and not is_result(name)
            }
    assert kinds == set(get_args(Record))


@pytest.fixture
def restored(
    request: pytest.FixtureRequest,
    every_server: EmbeddedServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> golden.Golden:
    """The golden data of a release, in the test's namespace."""
    release, _, later = request.param.partition(", ")
    found = golden.load(release)
    if later:
        found = found.a_year_later()
    monkeypatch.setenv("POLOS_PARTITIONS", str(found.partitions))
    with RawConnection(every_server.url) as connection:
        found.restore(connection, namespace)
    return found


every_release = pytest.mark.parametrize("restored", golden.releases(), indirect=True)
at_any_time = pytest.mark.parametrize(
    "restored",
    [f"{one}{when}" for one in golden.releases() for when in ("", ", a year later")],
    indirect=True,
)


@every_release
def test_restored_data_is_what_was_stored(
    restored: golden.Golden, every_server: EmbeddedServer, namespace: str
) -> None:
    """But for what has expired since."""
    with RawConnection(every_server.url) as connection:
        seconds, _ = connection.do("TIME")
        found = golden.read(connection, namespace, restored.partitions)
    lasting = [one for one in restored.stored if not 0 < one.expires < int(seconds) * 1000 + 60_000]
    assert [one for one in found if one in lasting] == sorted(
        lasting, key=lambda one: (one.partition, one.name)
    )
    check(every_server.url, namespace)


@every_release
def test_it_is_listed_and_shown(
    restored: golden.Golden, every_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    """To people, while no worker is there."""
    polos = Command(every_server.url, namespace, tmp_path)
    polos.environment |= {"POLOS_PARTITIONS": str(restored.partitions)}
    listings = ["list", "suspensions", "versions", "queues", "workers", "top", "keys list", "schedules list"]
    for listing in [*listings, "errands list"]:
        done = polos.here(*listing.split(), "--json")
        assert (done.code, done.err) == (0, ""), listing
    listed = {row["id"]: row for row in polos.here("list", "--limit", "1000", "--json").json["executions"]}
    for role, one in restored.executions.items():
        shown = polos.here("show", one.id, "--json").json
        assert shown["status"] == listed[one.id]["status"] == one.status, role
        commands = [("audit", "--json"), ("export",)]
        if one.status in ("completed", "cancelled", "failed"):  # else it follows what is to come
            commands.append(("events", "--json"))
        for command, *options in commands:
            done = polos.here(command, one.id, *options)
            assert done.code == 0, (command, role, done.err)
            values = [done.out] if command == "audit" else done.out.splitlines()
            assert all(json.loads(value) is not None for value in values), (command, role)


class _Finishing:
    """Goes on with what golden data has."""

    def __init__(self, at: Running, found: golden.Golden) -> None:
        self.at = at
        self.client = at.client
        self.executions = found.executions

    def handle(self, role: str) -> Any:
        return self.client.get_handle(self.executions[role].id)

    async def result(self, role: str) -> Any:
        return await self.at.result(self.handle(role))

    async def answer(self, role: str, step_key: str, data: Any, **options: Any) -> None:
        await self.at.opened(self.handle(role), step_key)
        await self.client.resume(
            suspend_execution_id=self.handle(role).id, suspend_step_key=step_key, data=data, **options
        )

    async def make_due(self, role: str, member: str) -> None:
        """Moves a timer into the past."""
        store = await self.client.store()
        timers = store.partitions.prefix(self.handle(role).id) + keys.TIMERS.encode()
        assert await store.wire.call("ZADD", timers, "XX", "CH", 1, member) == 1, member

    async def answer_kids(self, role: str, data: Any) -> None:
        """The children of an execution that wait for people."""
        root = self.executions[role].id
        for one in await self.client.list_suspensions(limit=1000):
            if one.execution_id.startswith(f"{root}."):
                await self.client.resume(
                    suspend_execution_id=one.execution_id, suspend_step_key=one.step_key, data=data
                )

    # --- the roles ---

    async def voted(self) -> None:
        """One of two people has answered; an early answer, a child and an event are awaited."""
        await self.answer("voted", "review", {"approved": True, "note": "b"}, resumed_by="bob")
        await self.answer_kids("voted", 7)
        topic = f"{TOPIC}/{self.executions['voted'].id}"
        await events.publish(self.client, topic, EventData("arrived", 3))
        found = await self.result("voted")
        assert found == [
            Parcel("lamp", 1),
            Review(approved=True, note="b"),
            Parcel("lamp", 7),
            3,
            {"by": "sea"},
            ["lamp"],
        ]
        by = {entry.by for entry in await self.client.audit(self.executions["voted"].id)}
        assert {"ann", "bob", "cyd"} <= by

    async def shipping(self) -> None:
        await self.answer("shipping", "ship", "sea")
        await self._is_ordered("shipping", "sea")

    async def forked(self) -> None:
        await self.answer("forked", "ship", "rail")
        await self._is_ordered("forked", "rail")

    async def _is_ordered(self, role: str, by: Any) -> None:
        review = Review(approved=True, note="bob")
        expected = [Parcel("lamp", 1), review, Parcel("lamp", 2), {"at": "dock"}, by, ["lamp"]]
        assert await self.result(role) == expected

    async def racing(self) -> None:
        await self.answer("racing", "approval", "yes")
        assert await self.result("racing") == ["approval", "yes"]
        await self.answer_kids("racing", 1)  # a child that has lost goes on by itself

    async def steps(self) -> None:
        before = await self._recorded()
        await self.answer_kids("steps", 1)
        await self.answer("steps", "after", VALUES)
        name, kid, values, is_new, answer = await self.result("steps")
        assert (name, is_new, answer) == ("quick", True, VALUES)
        assert values == before
        assert await self.at.result(self.client.get_handle(kid)) == Parcel("lamp", 1)

    async def _recorded(self) -> list[Any]:
        """The values that its journal had recorded."""
        store = await self.client.store()
        found = await journal_of(store, self.executions["steps"].id)
        records = [parse(found[name]) for name in (b"uuid", b"now", b"random")]
        return [codec.decode(one.value) for one in records if isinstance(one, StepRecord)]

    async def batch(self) -> None:
        await self.answer_kids("batch", 2)
        assert {(one.item, one.weight) for one in await self.result("batch")} in (
            {("cup", 1), ("plate", 2)},
            {("cup", 2), ("plate", 1)},
        )

    async def sleeping(self) -> None:
        await self.make_due("sleeping", f"w{self.executions['sleeping'].id} rest")
        assert await self.result("sleeping") == "rested"

    async def backing_off(self) -> None:
        await self.make_due("backing off", f"b{self.executions['backing off'].id} call")
        assert await self.result("backing off") == "called"

    async def retrying(self) -> None:
        await self.make_due("retrying", f"p{self.executions['retrying'].id}")
        assert await self.result("retrying") == "called"

    async def delayed(self) -> None:
        await self.make_due("delayed", f"p{self.executions['delayed'].id}")
        assert await self.result("delayed") == "later"

    async def continuing(self) -> None:
        for page in (2, 3):
            await self.answer("continuing", f"page-{page}", True)
        assert await self.result("continuing") == 3

    async def failed(self) -> None:
        for role in ("failed", "retried", "paused"):
            await self.client.retry(self.executions[role].id, by="ann")
            assert await self.result(role) == "called"

    async def changed(self) -> None:
        await self.client.retry(self.executions["changed"].id, skip="review", reason="old", by="ann")
        assert await self.result("changed") == "no"

    async def ended(self) -> None:
        assert await self.result("completed") == VALUES
        await self._is_ordered("ordered", {"by": "air"})
        await self.client.delete(self.executions["cancelled"].id)
        same = await self.client.invoke(
            order, Order(item="lamp", amount=5), user_id="eve", session_id="s1", idempotency_key="k"
        )
        assert same.id == self.executions["voted"].id

    async def followed(self) -> None:
        await self.answer("followed", "count", 9)
        found = await self.at.events(self.handle("followed"))
        assert found[0].event_type == "workflow_start" and found[-1].event_type == "workflow_finish"
        assert await self.result("followed") == Parcel("vase", 9)

    async def pinned(self) -> None:
        """Its version is served again."""
        assert await self.result("pinned") == "yes"

    async def errand(self) -> None:
        for one in await errands.list_failed(self.client):
            await errands.retry(self.client, one.errand)
        found = await self.result("errand")
        assert found[-2:] == [{"by": "rail"}, ["lamp"]]

    async def lost(self) -> None:
        """Its worker is gone; the other waits for its slot."""
        assert [await self.result(role) for role in ("lost", "behind")] == ["held", "held"]

    async def queued(self) -> None:
        assert await self.result("queued") == "at last"

    async def unknown(self) -> None:
        await self.client.cancel(self.executions["unknown"].id)
        await self.at.reached(self.handle("unknown"), "cancelled")

    async def triggered(self) -> None:
        """Two events wait for a third one; golden data that is older than their timeout waits no more."""
        for number in (3, 4, 5):
            await events.publish(self.client, TOPIC, EventData("parcel", number))

        async def read() -> bool:
            page = await self.client.list_executions(workflow="golden-triggered", status="completed")
            results = [await self.at.result(self.client.get_handle(one.id)) for one in page]
            numbers = sorted(number for result in results for number in result)
            return numbers in ([1, 2, 3], [1, 2, 3, 4, 5])

        await until(read, "the events that a workflow is triggered by")

    async def others(self) -> None:
        found = {one.key: one for one in await schedules.list(self.client)}
        assert not found["yearly"].paused and found["daily"].paused
        await schedules.resume(self.client, found["daily"].id)
        (key,) = await apikeys.list_keys(self.client)
        assert (key.name, key.groups, key.workflows) == (
            "shop",
            ("staff",),
            ("golden-order",),
        )

    async def have_ended(self) -> bool:
        """Whether nothing goes on: children have ended too, and only what nobody serves was cancelled."""
        found = await self.client.list_executions(limit=1000)
        cancelled = [one.id for one in found if one.status == "cancelled"]
        assert cancelled == [self.executions["unknown"].id]
        return all(one.status in ("completed", "cancelled") for one in found)

    @property
    def all(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *(
                self.ended,
                self.voted,
                self.shipping,
                self.forked,
                self.racing,
                self.steps,
                self.batch,
                self.sleeping,
            ),
            *(self.backing_off, self.retrying, self.delayed, self.continuing, self.failed, self.changed),
            *(self.followed, self.pinned, self.errand, self.lost, self.queued, self.unknown),
            *(self.triggered, self.others),
        ]


@at_any_time
async def test_it_goes_on_to_its_end(
    restored: golden.Golden, every_server: EmbeddedServer, namespace: str
) -> None:
    async with PolosClient(every_server.url, namespace) as client:
        options = {"channels": [Pager()], "lease_seconds": 1.0}
        async with working(client, *FLOWS, after, pinned("1"), **options) as worker:
            finishing = _Finishing(Running(client, worker), restored)
            for finish in finishing.all:
                await soon(finish())
            await until(finishing.have_ended, "the end of every execution")
    check(every_server.url, namespace)
