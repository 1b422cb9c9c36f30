"""Stops in pdb before the steps of a replay."""

from __future__ import annotations

import pdb  # noqa: T100 - it is what --debug is for
import sys
from types import FrameType

from polos_redis import frames, tasks
from polos_redis.replay.divergence import place
from polos_redis.runtime.call_sites import CallSite

from .output import note


class StepDebugger:
    """Stops before each call of ctx.step, or before that with one step key. After `q` it stops no more.
    `called` has the step keys of all calls, in their order."""

    def __init__(self, step_key: str | None) -> None:
        self.called: dict[str, None] = {}
        self._step_key = step_key
        self._over = False
        self._pdb = pdb.Pdb(nosigint=True, skip=["polos_redis.*", "asyncio.*", "contextlib"])

    def before_call(self, step_key: str, call_site: CallSite) -> None:
        self.called[step_key] = None
        if self._over or self._step_key not in (None, step_key):
            return
        note(f"step {step_key!r} at {place(call_site)}")
        frame = _frame_of(call_site) or _awaiting_frame()
        if frame is not None:
            self._stop(frame)

    def _stop(self, frame: FrameType) -> None:
        debugger, above = self._pdb, frame
        debugger.reset()
        while True:
            above.f_trace = debugger.trace_dispatch
            debugger.botframe = above
            if above.f_back is None:
                break
            above = above.f_back
        debugger.interaction(frame, None)
        self._over = debugger.quitting
        if not self._over and debugger.stopframe is not debugger.botframe:
            sys.settrace(debugger.trace_dispatch)


def _frame_of(call_site: CallSite) -> FrameType | None:
    """The frame that makes a call; None if the call was made before, and a task of its own runs it."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code is not call_site[0]:
        frame = frame.f_back
    return frame


def _awaiting_frame() -> FrameType | None:
    """The frame of the workflow's main task that awaits the tasks it has started; None without one."""
    main = getattr(tasks.OWNER.get(), "main", None)
    found = [] if main is None else frames.suspended(main)
    own = frames.of_user(found, lambda one: one.f_code.co_filename)
    return own[-1] if own else None
