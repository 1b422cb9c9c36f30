"""The Polos docs' JavaScript snippet, with only the host changed, works in Node and in a browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from polos_redis import ExecutionHandle, PolosClient, WorkflowContext, workflow
from polos_redis.testing.model.listener import LoopbackListener
from tests import DATA
from tests.harness.chromium import CHROMIUM_NAMES
from tests.harness.programs import program
from tests.harness.running import Running, working
from tests.harness.serving import calling

SNIPPET = (DATA / "fetch_snippet.txt").read_text()
HOST = "https://api.polos.ai"
APPROVAL = 'const approval = { approved: true, approved_by: "ann", reason: "fits" }'


@workflow(id="api-fetched")
async def fetched(ctx: WorkflowContext) -> Any:
    return await ctx.step.suspend("high_value_approval", data={"amount": 5000})


async def waiting(client: PolosClient, run: Running) -> ExecutionHandle[Any]:
    handle = await client.invoke(fetched)
    await run.opened(handle, "high_value_approval")
    return handle


def snippet(url: Any) -> str:
    """The snippet for a server at this URL."""
    assert HOST in SNIPPET
    return SNIPPET.replace(HOST, str(url).rstrip("/"))


async def test_the_snippet_works_from_node(client: PolosClient, tmp_path: Path) -> None:
    node = program("node")
    async with calling(client) as api, working(client, fetched) as worker:
        handle = await waiting(client, Running(client, worker))
        script = tmp_path / "answer.mjs"
        before = f"const executionId = process.argv[2]\n{APPROVAL}\n"
        after = "console.log(response.status, JSON.stringify(result))\n"
        script.write_text(before + snippet(api.base_url) + after)
        process = await asyncio.create_subprocess_exec(
            node, str(script), handle.id, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert out.decode().startswith('200 {"outcome":"accepted"'), err.decode()
        result = await handle.result(20)
        assert (result["data"]["approved_by"], result["channel"]) == ("ann", "api")


async def test_the_snippet_works_from_a_page_of_an_allowed_origin(client: PolosClient) -> None:
    from playwright.async_api import async_playwright

    chromium = program(*CHROMIUM_NAMES)

    async def page_of_another_site(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<!doctype html>"
        )
        await writer.drain()
        writer.close()

    async with (
        LoopbackListener(page_of_another_site) as chosen,
        LoopbackListener(page_of_another_site) as other,
    ):
        origins = [f"http://127.0.0.1:{door.port}" for door in (chosen, other)]
        async with (
            calling(client, cors_origins=origins[:1]) as api,
            working(client, fetched) as worker,
            async_playwright() as playwright,
            await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser,
        ):
            handle = await waiting(client, Running(client, worker))
            page = await browser.new_page()
            answer = f"{APPROVAL}\n{snippet(api.base_url)}\nreturn [response.status, result.outcome]"
            code = f"async executionId => {{ try {{ {answer} }} catch (error) {{ return error.message }} }}"
            await page.goto(origins[1])
            assert await page.evaluate(code, handle.id) == "Failed to fetch"
            assert await handle.status() == "waiting"
            await page.goto(origins[0])
            assert await page.evaluate(code, handle.id) == [200, "accepted"]
            assert (await handle.result(20))["data"]["approved_by"] == "ann"
