"""What is cut off a log is what the server lacks afterwards: a suffix, and never half of a transaction."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.targets import OneServer
from tests.invariants.state import RawConnection


@pytest.mark.parametrize("inside_transaction", [True, False])
@pytest.mark.parametrize("seed", range(3))
async def test_the_server_has_all_but_what_was_cut_off(
    every_binary: Path, tmp_path: Path, seed: int, inside_transaction: bool
) -> None:
    count, rng = 1000, random.Random(seed)
    target = OneServer(tmp_path, every_binary, "everysec")
    await target.start()
    try:
        with RawConnection(target.direct_url) as connection:
            for number in range(1, count + 1):
                connection.together([("SET", "left", f"n{number:04}"), ("SET", "right", f"n{number:04}")])
        await target.kill()
        lost = target.cut_log(rng, inside_transaction=inside_transaction)
        kept = next((n for n in range(1, count + 1) if f"n{n:04}".encode() in lost), count + 1) - 1
        assert 0 < kept < count, "the end is cut off, and no more than the end"
        for start in (1, 2):  # a log that ends inside a transaction does harm at the second start, if at all
            await target.start_again()
            with RawConnection(target.direct_url) as connection:
                assert connection.do("GET", "left") == connection.do("GET", "right") == f"n{kept:04}".encode()
                assert connection.together([("INCR", "starts"), ("GET", "left")])[0] == start
            await target.kill()
    finally:
        await target.stop()
