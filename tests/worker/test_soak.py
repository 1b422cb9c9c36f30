"""Random kills of workers and of Redis, briefly; `python -m tests.soak crash` runs them at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.servers import ChaosServer
from tests.soak import crash


@pytest.mark.failure(1, 2, 3, 13, 16, 33)
async def test_random_kills_lose_and_repeat_nothing(
    chaos_server: ChaosServer, namespace: str, tmp_path: Path
) -> None:
    figures = await crash(chaos_server, namespace, tmp_path, 200, every=50)
    assert figures["executions"] == 200
