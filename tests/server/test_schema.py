"""/openapi.json is true: schemathesis calls every route, validly and invalidly."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from polos_redis import PolosClient, WorkflowContext, workflow
from tests.harness.running import Running, working
from tests.harness.serving import key, serving

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))
CONFIG = f"""
hooks = {str(Path(__file__).with_name("schema_hooks.py"))!r}

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "410", "429"]
"""
ENDLESS = "/api/v1/topics/{topic}/events"


@workflow(id="api-schema")
async def waiter(ctx: WorkflowContext, input: Any) -> Any:
    return (await ctx.step.suspend("ask", data={"n": 1}, timeout=3600))["data"]


async def test_every_route_matches_its_schema(client: PolosClient, tmp_path: Path) -> None:
    headers = await key(client, "admin")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    async with serving(client, rate_limit="1000000/minute") as url, working(client, waiter) as worker:
        for _ in range(2):
            await Running(client, worker).opened(await client.invoke(waiter, 1), "ask")
        process = await asyncio.create_subprocess_exec(
            *(
                SCHEMATHESIS,
                "--config-file",
                "schemathesis.toml",
                "run",
                f"{url}/openapi.json",
                "--exclude-path",
                ENDLESS,
            ),
            *("--header", f"Authorization: {headers['Authorization']}"),
            *("--max-examples", "10", "--phases", "coverage,fuzzing", "--continue-on-failure"),
            *("--generation-deterministic", "--no-color"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
