"""Workflows that wait and publish, for workers with `defined_in="tests.harness.fleet_waits"`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from polos_redis import WorkflowContext, workflow
from polos_redis.events import publish_once
from polos_redis.runtime.steps import publish
from polos_redis.runtime.steps.waits import Waits
from tests.harness.fleet import EFFECTS


async def publish_and_die(*args: Any) -> str:
    """Publish; the first time, exit before anything can be journaled."""
    event = await publish_once(*args)
    mark = Path(os.environ[EFFECTS]).with_name("published")
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return event


@workflow
async def announces(ctx: WorkflowContext) -> str:
    vars(publish)["publish_once"] = publish_and_die
    published = await ctx.step.publish_event("announce", "announced", "hello")
    await ctx.step.publish_workflow_event("tell", "everybody", event_type="hello")
    return published


@workflow
async def dies_as_it_opens(ctx: WorkflowContext) -> object:
    """Wait for an event of a topic in another partition; the first worker is killed once subscribed."""
    folder = Path(os.environ[EFFECTS]).parent
    opens = Waits._open

    async def open_or_die(*args: Any, **kwargs: Any) -> bytes:
        mark = folder / "subscribed"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return await opens(*args, **kwargs)

    Waits._open = open_or_die  # type: ignore[method-assign]
    topic = (folder / "topic").read_text()
    return (await ctx.step.wait_for_event("wait", topic)).data
