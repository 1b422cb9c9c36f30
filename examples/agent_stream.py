"""Stream an agent's text while the model writes it. Kill the worker and start another: no text comes twice.

Run the worker:     OPENAI_API_KEY=... polos worker examples/agent_stream.py
stream a story:     python examples/agent_stream.py
"""

import asyncio

from polos_redis import Agent, PolosClient
from polos_redis.agents import Restarted

teller = Agent(id="teller", provider="openai", model="gpt-4o", system_prompt="You tell short stories.")


async def main() -> None:
    stream = await teller.stream(PolosClient(), "A story about a fox, please.")
    print(f"started: {stream.execution_id}")
    async for chunk in stream.text_chunks:
        if isinstance(chunk, Restarted):
            print("\n[the model starts over]")
        print(chunk, end="", flush=True)
    print(f"\n({(await stream.result()).usage.total_tokens} tokens)")


if __name__ == "__main__":
    asyncio.run(main())
