"""An agent's text as the model writes it; kill the worker meanwhile and start another: nothing comes twice.

In one terminal:    OPENAI_API_KEY=... polos worker examples/agent_stream.py
in another:         python examples/agent_stream.py
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
            print("\n[the model begins anew]")
        print(chunk, end="", flush=True)
    print(f"\n({(await stream.result()).usage.total_tokens} tokens)")


if __name__ == "__main__":
    asyncio.run(main())
