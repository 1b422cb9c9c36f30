"""The watchdog of an event loop: a thread that notices when the loop does not turn, and names the code that
blocks it.

The loop beats several times within the allowed time. When the thread has looked a few times and seen no beat,
it reads the stack of the loop's thread. Neither a frozen process nor a lack of CPU is blamed on code: the
thread did not look meanwhile, and a loop that waits for events is not blocked.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from polos_redis import frames as stack_frames
from polos_redis import tasks

LOOKS = 4  # within the allowed time
QUIET_SECONDS = 60.0  # between two warnings about the same place
PLACES = 100  # that are remembered for that

# The frames of a loop itself, as (module, function): what runs in the loop is above them on the stack.
_LOOP = {("base_events", "_run_once"), ("base_events", "run_forever"), ("runners", "run")}
_IDLE = {("selectors", "select"), *_LOOP}

Describe = Callable[[Sequence[FrameType], "asyncio.Task[Any] | None"], dict[str, Any]]


class Watchdog:
    """Watches the running loop from `start` to `stop`.

    When it has not turned for `seconds`, a warning names the place in the user's code, with the facts that
    `describe` finds in the frames of the stack, innermost first, and in the current task; so does one after
    twice that time, four times and so on, if it is another place. `blocked` is called once per block, in the
    thread. `blocking` says what blocks the loop now.
    """

    def __init__(
        self,
        seconds: float,
        logger: logging.Logger,
        describe: Describe = lambda frames, task: {},
        blocked: Callable[[], None] = lambda: None,
    ) -> None:
        self.seconds = seconds
        self._logger = logger
        self._describe = describe
        self._blocked = blocked
        self._beats = 0
        self._stop = threading.Event()
        self._warned: dict[str, float] = {}
        self._beat_handle: asyncio.TimerHandle | None = None
        self._block: tuple[float, dict[str, Any]] | None = None  # since when, and the facts

    def start(self) -> None:
        """Start watching the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._beat()
        threading.Thread(target=self._watch, name="polos-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching. The thread ends soon afterwards."""
        self._stop.set()
        if self._beat_handle is not None:
            self._beat_handle.cancel()

    def blocking(self) -> dict[str, Any] | None:
        """Returns what blocks the loop now: the facts of `describe`, the place (`at`), and for how many
        `seconds`; None while the loop turns. Any thread may call it."""
        block = self._block
        if block is None:
            return None
        since, facts = block
        return {**facts, "seconds": round(time.monotonic() - since, 1)}

    def _beat(self) -> None:
        self._beats += 1
        self._beat_handle = self._loop.call_later(self.seconds / LOOKS / 2, self._beat, context=tasks.OUTSIDE)

    # --- in the thread ------------------------------------------------------------------

    def _watch(self) -> None:
        beats, looks, due, reported = self._beats, 0, LOOKS, False
        while not self._stop.wait(self.seconds / LOOKS):
            if beats == self._beats:
                looks += 1
            else:
                looks, due, reported = 0, LOOKS, False
                self._block = None
            beats = self._beats
            if looks == due:  # and at growing distances, as other code may block the loop by then
                reported = self._report(first=not reported) or reported
                due *= 2

    def _report(self, *, first: bool) -> bool:
        """Returns whether code blocks the loop."""
        frame = sys._current_frames().get(self._thread_id)
        if frame is None or _name(frame) in _IDLE:
            return False
        frames: list[FrameType] = []
        while frame is not None and _name(frame) not in _LOOP:
            frames.append(frame)
            frame = frame.f_back
        if first:
            self._blocked()
        place = place_of(frames)
        try:
            facts = self._describe(frames, asyncio.current_task(self._loop))
        except Exception:  # the loop goes on meanwhile, so what it reads may change
            facts = {}
        now = time.monotonic()
        since = now - self.seconds if first or self._block is None else self._block[0]
        self._block = since, {**facts, "at": place}
        if now - self._warned.get(place, float("-inf")) < QUIET_SECONDS:
            return True
        if len(self._warned) >= PLACES:
            self._warned.clear()
        self._warned[place] = now
        allowed = {"seconds": self.seconds}
        self._logger.warning("the event loop is blocked", extra={**facts, **allowed, "at": place})
        return True


def place_of(frames: Sequence[FrameType]) -> str:
    """Returns file, line and function of the code that blocks: the innermost frame of a user's own code, else
    of an installed package, else of all."""
    own = stack_frames.of_user(frames, lambda frame: frame.f_code.co_filename)
    found = (own or frames)[0]
    return f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_qualname}"


def stacks() -> str:
    """Returns the stacks of all threads as text."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for ident, frame in sys._current_frames().items()
    )


def _name(frame: FrameType) -> tuple[str, str]:
    return Path(frame.f_code.co_filename).stem, frame.f_code.co_name
