"""Long versions of what the suite tests briefly: `python -m tests.soak WHAT [--count N]`.

race       rounds of fifty answers against a timeout
suspended  what executions that wait for a person cost one worker
children   one execution with many children on two workers, one of which is killed twice
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

from tests.decisions import test_answer_races
from tests.harness.servers import ChaosServer, chosen_binary
from tests.steps import test_fan_out
from tests.worker import test_many_suspended

NAMESPACE = "soak"


async def _main(what: str, count: int | None) -> None:
    figures: dict[str, Any]
    with (
        tempfile.TemporaryDirectory(prefix="polos-soak-") as name,
        ChaosServer(Path(name) / "redis", binary=chosen_binary()) as server,
    ):
        folder = Path(name)
        if what == "race":
            figures = dict(await test_answer_races.rounds(server.url, NAMESPACE, count or 1000))
        elif what == "children":
            figures = await test_fan_out.fan_out(server, NAMESPACE, folder, count or 1000)
        else:
            figures = await test_many_suspended.suspend_many(server, NAMESPACE, folder, count or 10_000)
    for name, value in figures.items():
        print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("race", "suspended", "children"))
    parser.add_argument("--count", type=int)
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.what, arguments.count))
