"""Forks: executions that begin with a part of another one's journal."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest

from polos_redis.embedded import EmbeddedServer
from polos_redis.state import keys
from tests.harness.desk import AUDIT_MS, FAR, RETENTION, SHOWN_DIGEST, Desk, packed, step
from tests.invariants.state import relations_of


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def at(record: bytes, ms: int = 1) -> bytes:
    """A step's record with its time."""
    packed_ms: bytes = msgpack.packb(ms)
    return record + packed_ms


@pytest.mark.parametrize("records", [0, 1, 5000])
def test_it_has_the_journal_and_a_count_of_it(desk: Desk, records: int) -> None:
    journal = {f"s{number}": at(step(b"\xcd%d" % (number % 10) + b"\x01")) for number in range(records)}
    one = desk.fork(records=journal)
    stored = desk.state.journals.get(one.encode(), {})
    assert int(stored.pop(b"", b"0")) == records
    assert {key.decode(): record for key, record in stored.items()} == journal
    by = desk.deliver()
    assert desk.load(by)[4] == desk.do("HGETALL", keys.JOURNAL + one)
    by.known = records
    assert desk.finish(by) == 0
    desk.check()


def test_it_is_created_once(desk: Desk) -> None:
    one = desk.fork(records={"a": at(step())})
    args = (one, "wf", b"other", RETENTION, b"", b"\x80", packed([]), "b", at(step()))
    with desk.unchanged():
        assert desk.run("fork", *args) == 0


def test_it_is_a_root_of_its_own_with_the_options_of_the_other(desk: Desk) -> None:
    other = desk.invoke(queue="other", semaphore="other", limit=1, near=True)
    one = desk.fork(
        records={"a": at(step())},
        queue="other",
        origin=b"from",
        timeout=FAR,
        semaphore="other",
        limit=1,
        near=True,
    )
    fields, state = desk.execution(one), desk.state
    assert (fields["queue"], fields["origin"], fields["status"]) == (b"other", b"from", b"queued")
    assert "entry" not in fields, "it waits for the other's slot"
    relations = relations_of(state.executions[one.encode()])
    assert (relations.semaphore, relations.limit, relations.timeout) == (b"other", 1, FAR)
    assert state.timers == {b"t" + one.encode(): relations.deadline}
    desk.cancel(other)
    again = desk.deliver(queue="other")
    assert again.id == one and desk.load(again)[3] == b"from"
    desk.check()


def test_its_stream_begins_with_its_start_and_not_with_the_steps_of_the_other(desk: Desk) -> None:
    one = desk.fork(records={"a": at(step())})
    start = packed({"workflow_id": "wf", "execution_id": one})
    assert [flat for _, flat in desk.state.topics[one.encode()]] == [[b"workflow_start", start]]
    by = desk.deliver()
    desk.load(by)
    by.known = 1
    desk.write(by, "b")
    assert desk.events(one) == [b"workflow_start", b"step_start", b"step_finish"]


def test_its_first_activation_stores_its_version(desk: Desk) -> None:
    one = desk.fork(records={"a": at(step())})
    by = desk.deliver()
    desk.load(by, "2")
    assert desk.execution(one)["version"] == b"2"
    desk.load(by, "3")
    assert desk.execution(one)["version"] == b"2"
    assert desk.state.versions == {b"wf\x002"}
    desk.check()


def test_the_audit_says_who_copied_which_answer(desk: Desk) -> None:
    by = desk.start()
    desk.suspend(by, "ok")
    desk.answer(by.id, "ok", b"\xc3")
    desk.suspend(by, "late", FAR)
    desk.give_up(by, "late")
    journal = desk.state.journals[by.id.encode()]
    records = {key: journal[key.encode()] for key in ("ok", "late")}
    assert desk.record(by.id, "late")[2] == b"closed"
    one = desk.fork(records=records, copied=[("ok", "bob", "again"), ("late", "bob", "again")])
    audit = [msgpack.unpackb(entry, raw=True) for entry in desk.state.audit[one.encode()]]
    assert [entry[1:5] for entry in audit] == [
        [one.encode(), key, b"wf", b"copied"] for key in (b"ok", b"late")
    ]
    assert [(entry[6], entry[7], entry[8], entry[10], entry[11]) for entry in audit] == [
        (b"bob", b"", SHOWN_DIGEST, b"\xc3", b"again"),
        (b"bob", b"", SHOWN_DIGEST, b"", b"again"),
    ]
    assert [entry[9] for entry in audit] == [desk.record(by.id, key)[3] for key in ("ok", "late")]
    assert 0 < desk.state.ttl[keys.AUDIT + one] <= AUDIT_MS
    desk.check()
