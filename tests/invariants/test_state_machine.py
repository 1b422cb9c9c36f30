"""A state machine against a small model: suspensions, steps, retries, and every kind of trouble."""

from __future__ import annotations

import pytest

from polos_redis.embedded import EmbeddedServer
from tests.harness.desk import Desk
from tests.invariants.machine import DEEP, run
from tests.invariants.streams_machine import StreamsMachine


@pytest.mark.timeout(7200 if DEEP else 300)
@pytest.mark.failure(3, 5, 16, 23, 34, 35, 36, 37, 39)
def test_no_sequence_of_calls_breaks_the_state(server: EmbeddedServer, namespace: str) -> None:
    with Desk(server.url, namespace) as desk:
        run(StreamsMachine, desk, examples=80, steps=50)
