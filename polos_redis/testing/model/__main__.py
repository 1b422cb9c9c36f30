"""The scripted model as a process: `python -m polos_redis.testing.model --script FILE --log FILE`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from polos_redis.testing.model.script import ScriptedReplies
from polos_redis.testing.model.server import ScriptedModel


async def _run(model: ScriptedModel) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with model:
        print(model.port, flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m polos_redis.testing.model", description="Speaks OpenAI's API, with scripted replies."
    )
    parser.add_argument("--script", type=Path, required=True, help="replies: see ScriptedReplies.load")
    parser.add_argument("--log", type=Path, required=True, help="gets a line for each change of a request")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    args = parser.parse_args()
    args.log.touch()
    replies = ScriptedReplies.load(args.script)
    asyncio.run(_run(ScriptedModel(replies, log=args.log, port=args.port, allow_unused=True)))


if __name__ == "__main__":
    main()
