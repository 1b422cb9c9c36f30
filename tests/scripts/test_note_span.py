"""note_span: the origin with an activation's span, stored before it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from polos_redis.embedded import EmbeddedServer
from tests.harness.desk import Desk


@pytest.fixture
def desk(every_server: EmbeddedServer, namespace: str) -> Iterator[Desk]:
    with Desk(every_server.url, namespace) as desk:
        yield desk


def test_the_owner_stores_it_and_changes_nothing_else(desk: Desk) -> None:
    by = desk.start()
    before = desk.execution(by.id)
    assert desk.run("note_span", by.id, by.entry, by.owner, b"origin") == 0
    assert desk.execution(by.id) == {**before, "origin": b"origin"}


def test_another_activation_stores_nothing(desk: Desk) -> None:
    by = desk.start()
    desk.load(by)  # it is the owner now
    before = desk.execution(by.id)
    assert desk.run("note_span", by.id, by.entry, "another", b"origin") == -1
    assert desk.run("note_span", by.id, "1-1", by.owner, b"origin") == -1
    assert desk.execution(by.id) == before
