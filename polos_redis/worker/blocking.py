"""What blocks a worker's event loop: the execution, step or errand that its stack belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

from polos_redis.runtime.activation import Activation
from polos_redis.runtime.steps import run
from polos_redis.state.errands import Errand


def work_of(
    active: Iterable[Activation], frames: Sequence[FrameType], task: asyncio.Task[Any] | None
) -> dict[str, Any]:
    """Returns execution, workflow and step, or the errand, that a stack belongs to, as far as it says so."""
    facts: dict[str, Any] = {}
    for frame in frames:
        if not frame.f_globals.get("__name__", "").startswith("polos_redis."):
            continue
        values = frame.f_locals
        if frame.f_code is run.Runs._run.__code__:
            facts.setdefault("step", values.get("key"))
        activation, errand = values.get("activation"), values.get("errand")
        if isinstance(activation, Activation):
            facts |= _of(activation)
        elif isinstance(errand, Errand):
            facts["errand"] = errand.name
    if "execution" not in facts:
        for activation in list(active):
            if task is not None and (activation.code.main is task or task in activation.code.spawned):
                facts |= _of(activation)
    return facts


def _of(activation: Activation) -> dict[str, Any]:
    return {"execution": activation.id, "workflow": activation.workflow.id}
