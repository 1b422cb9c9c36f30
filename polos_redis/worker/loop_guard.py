"""The guard of a worker's event loop: says when a loop that does not turn counts as dead.

The loop beats, and another thread looks whether it does. Looks are counted, not seconds: the thread of a
frozen process does not look either, so a freeze is not blamed on the loop.
"""

from __future__ import annotations

LONGEST_INTERVAL = 1.0
LOOKS = 10  # within the allowed time, at least


class LoopGuard:
    """Watches a loop that may be blocked for `seconds`. The loop calls `beat`, the thread calls `look`, each
    every `interval` seconds."""

    def __init__(self, seconds: float) -> None:
        self.interval = min(LONGEST_INTERVAL, seconds / LOOKS)
        self._allowed = seconds
        self._beats = 0
        self._seen = 0  # of the beats
        self._missed = 0  # looks without a beat

    @property
    def blocked_seconds(self) -> float:
        """How long the loop has been blocked, 0 if it turns."""
        return self._missed * self.interval

    @property
    def is_over(self) -> bool:
        """Whether the loop has been blocked for longer than allowed; never after a single look."""
        return self._missed > 1 and self.blocked_seconds >= self._allowed

    def beat(self) -> None:
        """Note that the loop turns."""
        self._beats += 1

    def look(self) -> None:
        """Look whether the loop has turned since the last look."""
        self._missed = self._missed + 1 if self._beats == self._seen else 0
        self._seen = self._beats

    def allow_only(self, seconds: float) -> None:
        """Allow no block to last longer than this from now on: the worker is to stop."""
        self._allowed = min(self._allowed, self.blocked_seconds + seconds)
