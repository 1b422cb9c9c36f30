"""The load: users who start executions of every workflow, answer, cancel, retry, publish and read streams.

A suspension shows a plan of how to answer it, so the inbox is answered whoever started what:
`after` (seconds), `rivals` (the number of different answers at once), `people` (who answer in turn),
`once_notified` (not before its notification was sent), `silent` (not by the inbox).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, cast

from polos_redis import (
    Event,
    EventData,
    ExecutionCancelledError,
    ExecutionFailedError,
    ExecutionHandle,
    ExecutionNotFoundError,
    PolosClient,
    events,
    schedules,
)
from polos_redis.errors import (
    EventsTrimmedError,
    ExecutionFinishedError,
    NotFailedError,
    RedisUnavailableError,
    ResumeError,
    ScheduleNotFoundError,
)
from tests.chaos.effects import NOTIFIED, EffectsFile
from tests.chaos.history import Answered, Cancelled, Ended, History, Published, Started, Streamed
from tests.chaos.terms import NEWS, ORDERS

LOOK_SECONDS = 0.1  # between two looks at the inbox
CRON = "*/2 * * * * *"
SCHEDULES = ("even", "odd")
FOLLOWED = 0.4  # of the executions: this share has a reader of its stream
GIVE_UP_SECONDS = 15.0  # until an answer that a cut log may have lost is given again


def token() -> str:
    return os.urandom(6).hex()


class Load:
    """Users of one namespace: `async with asyncio.TaskGroup() as group: load.start(group, ...)`."""

    def __init__(self, client: PolosClient, history: History, effects: EffectsFile, seed: int) -> None:
        self.client = client
        self.history = history
        self.effects = effects
        self.stopping = asyncio.Event()
        self.settled = asyncio.Event()  # every user is done
        self.open: dict[str, str] = {}  # executions that a user waits for -> workflow
        self._bells: list[str] = []  # topics that listeners wait for
        self._random = random.Random(f"load {seed}")
        self._scenarios: dict[str, Callable[[], Awaitable[None]]] = {
            "steps": self._steps,
            "long": self._long,
            "delayed": self._delayed,
            "approval": self._approval,
            "early": self._early,
            "timed": self._timed,
            "race": self._race,
            "asked": self._asked,
            "notified": self._notified,
            "hurried": self._hurried,
            "parent": self._parent,
            "listener": self._listener,
            "announcer": self._announcer,
            "ordered": self._ordered,
            "narrow": self._narrow,
            "keyed": self._keyed,
            "failing": self._failing,
            "stubborn": self._stubborn,
            "forgiving": self._forgiving,
            "tally": self._tally,
            "feed": self._feed,
            "office": self._office,
        }
        self._deck: list[str] = []
        self._answering: set[tuple[str, str]] = set()
        self._numbers = itertools.count()
        self._side: set[asyncio.Task[None]] = set()

    # --- the run ------------------------------------------------------------------------

    async def run(self, users: int) -> None:
        """Work until `stopping` is set and every user has seen the end of what they started."""
        for key in SCHEDULES:
            await schedules.create(self.client, "ticking", CRON, key=key)
        inbox, news = asyncio.create_task(self._inbox()), asyncio.create_task(self._read_news())
        try:
            await asyncio.gather(*(self._user() for _ in range(users)))
            await asyncio.gather(*self._side)
            for schedule in await schedules.list(self.client, "ticking"):
                with suppress(ScheduleNotFoundError):
                    await schedules.delete(self.client, schedule.id)
            self.settled.set()
            while True:  # until the run is over, as the inbox is answered: a crash may have undone an end
                for topic in self._bells:
                    await self._publish(topic, token())
                await asyncio.sleep(2)
        finally:
            for task in (inbox, news, *self._side):
                task.cancel()
            await asyncio.gather(inbox, news, *self._side, return_exceptions=True)

    async def _user(self) -> None:
        while not self.stopping.is_set():
            if not self._deck:
                self._deck = self._random.sample(list(self._scenarios), len(self._scenarios))
            name = self._deck.pop()
            try:
                await self._scenarios[name]()
            except ExecutionNotFoundError as error:
                self.history.ended.append(Ended(time.monotonic(), error.execution_id, "gone"))
            except Exception as error:
                self.history.left.append(f"the user of {name!r} failed: {type(error).__name__}: {error}")

    # --- calls --------------------------------------------------------------------------

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Repeat an idempotent call until Redis has answered it."""
        while True:
            try:
                return await call()
            except RedisUnavailableError:
                await asyncio.sleep(0.1)

    async def _start(self, workflow: str, input: Any, **options: Any) -> ExecutionHandle[Any]:
        options.setdefault("idempotency_key", token())
        began = time.monotonic()
        handle: ExecutionHandle[Any] = await self._patiently(
            lambda: self.client.invoke(workflow, input, **options)
        )
        not_before = began + options["start_delay"] if "start_delay" in options else 0.0
        self.history.started.append(Started(time.monotonic(), handle.id, workflow, not_before))
        if self._random.random() < FOLLOWED:
            task = asyncio.create_task(self._follow(handle.id, workflow))
            self._side.add(task)
        return handle

    async def _end(self, handle: ExecutionHandle[Any]) -> Ended:
        self.open[handle.id] = handle.workflow_id
        status, error = "completed", ""
        given: dict[str, str] = {}
        try:
            given = await self._patiently(handle.result) or {}
        except ExecutionFailedError as failed:
            status, error = "failed", f"{failed.error_type}: {failed.error_message}"
        except ExecutionCancelledError:
            status = "cancelled"
        except ExecutionNotFoundError:
            status = "gone"
        finally:
            del self.open[handle.id]
        ended = Ended(time.monotonic(), handle.id, status, given, error)
        self.history.ended.append(ended)
        return ended

    async def _through(self, workflow: str, input: Any = None, **options: Any) -> Ended:
        return await self._end(await self._start(workflow, input or {}, **options))

    async def _decide(
        self, execution_id: str, step: str, *, value: str = "", data: Any = None, **options: Any
    ) -> str:
        """Answer until the outcome is known; returns it."""
        answer = {"approved": True, "value": value} if data is None else data
        while True:
            began, by = time.monotonic(), options.get("resumed_by", "")
            try:
                resumed = await self.client.resume(
                    suspend_execution_id=execution_id, suspend_step_key=step, data=answer, **options
                )
                outcome: str = resumed.outcome
            except RedisUnavailableError:
                outcome = "unknown"
            except (ResumeError, ExecutionNotFoundError) as error:
                outcome = type(error).__name__
            self.history.answered.append(
                Answered(began, time.monotonic(), execution_id, step, value, outcome, by)
            )
            if outcome != "unknown":
                return outcome

    async def _publish(self, topic: str, value: str) -> None:
        began, certain = time.monotonic(), True
        try:
            await events.publish(self.client, topic, EventData("chaos", value))
        except RedisUnavailableError:
            certain = False
        self.history.published.append(Published(began, time.monotonic(), topic, value, certain))

    # --- the inbox ----------------------------------------------------------------------

    async def _inbox(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                page = await self._patiently(lambda: self.client.list_suspensions(limit=1000))
                for suspension in page:
                    known = suspension["execution_id"], suspension["step_key"]
                    if known not in self._answering:
                        self._answering.add(known)
                        group.create_task(self._answer(*known, suspension["data"]))
                await asyncio.sleep(LOOK_SECONDS)

    async def _answer(self, execution_id: str, step: str, shown: dict[str, Any]) -> None:
        """Answer a suspension as its plan says. One that is open again after a crash is answered again."""
        try:
            plan = shown.get("plan", {"tool": True})
            if plan.get("silent") or (plan.get("once_notified") and not self._notified_of(execution_id)):
                return
            await asyncio.sleep(plan.get("after", 0))
            if plan.get("tool"):
                await self._decide(execution_id, step, data={"approved": True})
            elif people := plan.get("people"):
                for name in self._random.sample(people, len(people)):
                    groups = ["eves"] if name == "eve" else []
                    await self._decide(execution_id, step, value=token(), resumed_by=name, groups=groups)
            else:
                rivals = range(plan.get("rivals", 1))
                await asyncio.gather(*(self._decide(execution_id, step, value=token()) for _ in rivals))
        finally:
            self._answering.discard((execution_id, step))

    def _notified_of(self, execution_id: str) -> bool:
        return any(
            effect.execution_id == execution_id and effect.what == NOTIFIED for effect in self.effects.effects
        )

    # --- readers ------------------------------------------------------------------------

    async def _follow(self, execution_id: str, workflow: str) -> None:
        """Read an execution's stream to its end, leaving and coming back every few events."""
        reader, last = f"reader-{next(self._numbers)}", None
        while True:
            left = self._random.randint(1, 8)
            try:
                stream = events.stream_workflow(
                    self.client, workflow, execution_id, last_event_id=last, plain=True
                )
                async with aclosing(cast("AsyncGenerator[Event]", stream)) as read:
                    async for event in read:
                        last, left = event.id, left - 1
                        self._note(reader, execution_id, event)
                        if not left:
                            break
                    else:
                        return
            except RedisUnavailableError:
                await asyncio.sleep(0.1)
            except (EventsTrimmedError, ExecutionNotFoundError) as error:
                at, name = time.monotonic(), type(error).__name__
                self.history.streamed.append(Streamed(at, reader, execution_id, "", 0, name, execution_id))
                return

    async def _read_news(self) -> None:
        """Read the topic that workflows publish to, leaving and coming back."""
        last: str | None = None
        for number in itertools.count():
            reader = f"news-{number}"
            while True:
                left = self._random.randint(1, 30)
                try:
                    stream = events.stream_topic(self.client, NEWS, last_event_id=last, plain=True)
                    async with aclosing(cast("AsyncGenerator[Event]", stream)) as read:
                        async for event in read:
                            last, left = event.id, left - 1
                            self._note(reader, NEWS, event)
                            if not left:
                                break
                except RedisUnavailableError:
                    await asyncio.sleep(0.1)
                except EventsTrimmedError:
                    at = time.monotonic()
                    self.history.streamed.append(Streamed(at, reader, NEWS, "", 0, "EventsTrimmedError", ""))
                    last = None
                    break

    def _note(self, reader: str, topic: str, event: Any) -> None:
        data = event.data if isinstance(event.data, dict) else {}
        value = str(data.get("step_key") or data.get("from") or "")
        if data.get("status", "ok") != "ok":
            value = ""  # one attempt of a step
        of = event.metadata.get("execution_id", "")
        self.history.streamed.append(
            Streamed(
                time.monotonic(), reader, topic, event.id, event.sequence_id, event.event_type, of, value
            )
        )

    # --- the scenarios ------------------------------------------------------------------

    def _seconds(self, most: float) -> float:
        return round(self._random.uniform(0, most), 3)

    async def _steps(self) -> None:
        await self._through("steps", {"parks": self._random.random() < 0.2, "pause": self._seconds(1.5)})

    async def _long(self) -> None:
        steps, seconds = self._random.choice(((8, 0.5), (4, 1.0), (2, 3.0)))
        handle = await self._start("long", {"steps": steps, "seconds": seconds})
        if self._random.random() < 0.5:
            await asyncio.sleep(self._seconds(3))
            began = time.monotonic()
            with suppress(ExecutionFinishedError):  # it was faster
                await self._patiently(lambda: self.client.cancel(handle.id, cancelled_by="chaos"))
                self.history.cancelled.append(Cancelled(began, time.monotonic(), handle.id))
        await self._end(handle)

    async def _delayed(self) -> None:
        await self._through("delayed", {"seconds": self._seconds(2)}, start_delay=self._seconds(2) + 0.5)

    async def _approval(self) -> None:
        await self._through("approval", {"after": self._seconds(2)})

    async def _early(self) -> None:
        handle = await self._start("early", {"seconds": self._seconds(1)})
        value, end = token(), asyncio.create_task(self._end(handle))
        while not end.done():
            await self._decide(handle.id, "early", value=value, early=True)
            await asyncio.wait({end}, timeout=GIVE_UP_SECONDS)
        end.result()

    async def _timed(self) -> None:
        timeout = self._seconds(1.5) + 0.1
        after = max(0.0, timeout + self._random.uniform(-0.3, 0.3))
        await self._through("timed", {"timeout": timeout, "after": after})

    async def _race(self) -> None:
        timeout = self._seconds(1.5) + 0.1
        after = max(0.0, timeout + self._random.uniform(-0.3, 0.3))
        await self._through("race", {"timeout": timeout, "after": after})

    async def _asked(self) -> None:
        handle = await self._start("asked", {})
        end = asyncio.create_task(self._end(handle))
        while not end.done():
            found = await self._patiently(lambda: self.client.get_execution(handle.id))
            if found["open_suspensions"]:
                await self._through("responder", {"id": handle.id})
            await asyncio.wait({end}, timeout=0.2)
        end.result()

    async def _notified(self) -> None:
        await self._through("notified")

    async def _hurried(self) -> None:
        await self._through("hurried", run_timeout_seconds=1 + self._seconds(1))

    async def _parent(self) -> None:
        await self._through("parent", {"count": self._random.randint(2, 12)})

    async def _listener(self) -> None:
        topic = f"bell-{token()}"
        self._bells.append(topic)
        end = asyncio.create_task(self._through("listener", {"topic": topic}))
        while not end.done():
            await asyncio.wait({end}, timeout=0.3)
            await self._publish(topic, token())
        end.result()

    async def _announcer(self) -> None:
        await self._through("announcer")

    async def _ordered(self) -> None:
        for _ in range(self._random.randint(1, 5)):
            await self._publish(ORDERS, token())

    async def _narrow(self) -> None:
        await asyncio.gather(*(self._through("narrow") for _ in range(4)))

    async def _keyed(self) -> None:
        keys = [f"k{self._random.randint(1, 3)}" for _ in range(4)]
        await asyncio.gather(*(self._through("keyed", {"key": key}, concurrency_key=key) for key in keys))

    async def _failing(self) -> None:
        handle = await self._start("failing", {})
        if (await self._end(handle)).status == "failed":
            began = time.monotonic()
            with suppress(NotFailedError):  # the reply to the first attempt was lost
                await self._patiently(lambda: self.client.retry(handle.id))
            self.history.retried.append(Cancelled(began, time.monotonic(), handle.id))
            await self._end(handle)

    async def _stubborn(self) -> None:
        await self._through("stubborn")

    async def _forgiving(self) -> None:
        await self._through("forgiving")

    async def _tally(self) -> None:
        await self._through("tally")

    async def _feed(self) -> None:
        last = self._random.randint(1, 4)
        ended = await self._through("feed", {"number": 0, "last": last})
        expected = " ".join(map(str, range(last + 1)))
        if ended.status == "completed" and ended.given["log"] != expected:
            self.history.left.append(f"execution {ended.execution_id} has had the runs {ended.given['log']}")

    async def _office(self) -> None:
        await self._through("office", {"prompt": f"job {token()}"})
