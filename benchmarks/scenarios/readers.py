"""Events that many readers follow."""

from __future__ import annotations

import asyncio
import time

from benchmarks.figures import Figure, percentiles
from benchmarks.scenarios.sizes import Size
from benchmarks.stage import Stage
from polos_redis import events

TOPIC = "benchmark"


class Readers:
    """Readers of a topic in the client's process. They note when all of them have read an event."""

    def __init__(self, stage: Stage, count: int) -> None:
        self._client = stage.client
        self._count = count
        self._read: dict[int, int] = {}
        self._by_all: dict[int, asyncio.Future[None]] = {}
        self.published = 0

    async def read(self) -> None:
        """Follow the topic; never returns."""
        async for event in events.stream_topic(self._client, TOPIC):
            number = event.data["number"]
            self._read[number] = self._read.get(number, 0) + 1
            if self._read[number] == self._count:
                self._by_all[number].set_result(None)

    async def publish(self) -> asyncio.Future[None]:
        """Publish the next event; the future is done when all have read it."""
        number, self.published = self.published, self.published + 1
        by_all = self._by_all[number] = asyncio.get_running_loop().create_future()
        await events.publish(self._client, TOPIC, events.EventData("tick", {"number": number}))
        return by_all


async def readers(stage: Stage, size: Size) -> list[Figure]:
    """One topic with many readers: one event at a time until all have it, then as many as the client can."""
    following = Readers(stage, size.readers)
    tasks = [asyncio.ensure_future(following.read()) for _ in range(size.readers)]
    try:
        await (await following.publish())
        seconds = []
        for _ in range(size.event_samples):
            since = time.perf_counter()
            await (await following.publish())
            seconds.append(time.perf_counter() - since)
        last: list[asyncio.Future[None]] = []

        async def publish() -> None:
            last.append(await following.publish())

        deliveries = size.events * size.readers
        async with stage.measured(deliveries) as measured:
            await stage.spread(publish, size.events)
            await asyncio.gather(*last)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    name = f"publish -> read by {size.readers:,}"
    rate = deliveries / measured.seconds
    return [
        *percentiles("readers", name, seconds),
        Figure("readers", "events read", rate, "/s", cpu=measured.cpu),
    ]
