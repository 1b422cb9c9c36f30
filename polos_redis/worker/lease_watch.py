"""What a worker knows of the leases of the others: for how long each counter has stood still.

Only time in which a living worker could have renewed its lease counts: not the time without a connection to
the partition's node, nor that in which the node did not answer or refused writes, nor that in which this
process did not run. Such a gap interrupts the watch over a counter without ending it, so gaps delay a
recovery, however frequent they are, and never prevent it. After a longer gap the other workers get the time
that they may need to reconnect.
"""

from __future__ import annotations

from collections.abc import Mapping

from polos_redis.wire.wire import LONGEST_PAUSE

LOOKS = 4  # per lease


class LeaseCounters:
    """The lease counters of one partition, as seen at each look. Times are seconds of one monotonic clock."""

    def __init__(self, lease_seconds: float) -> None:
        self.period = lease_seconds / LOOKS  # between two looks
        self._counters: dict[str, tuple[bytes, float]] = {}  # the latest, and for how long it has stood still
        self._answered: float | None = None

    def saw(self, counters: Mapping[str, bytes], *, asked: float, answered: float, lost: float) -> None:
        """Note the counters by worker, requested at `asked` and received at `answered`; an empty one stands
        for a worker without a lease. A worker that is not among them is forgotten.

        During `lost` seconds between the previous look and `asked`, no worker could have renewed.
        """
        counted = gap = 0.0
        if self._answered is not None:
            counted = max(0.0, min(asked - self._answered - lost, 2 * self.period))
            gap = answered - self._answered - counted
        if gap > self.period:
            counted -= min(gap, LONGEST_PAUSE)
        self._answered = answered
        before, self._counters = self._counters, {}
        for name, counter in counters.items():
            last, silent = before.get(name, (None, 0.0))
            silent = max(silent + counted, -LONGEST_PAUSE) if counter == last else 0.0
            self._counters[name] = (counter, silent)

    def silent_for(self, name: str) -> float:
        """Returns for how many seconds a worker could have renewed its lease and has not. It is negative
        while the worker may still have to reconnect."""
        return self._counters[name][1]
