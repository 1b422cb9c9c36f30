"""The garbage collector of a process that does nothing but run a worker.

A busy worker creates objects faster than it frees them for a moment, which Python takes for a reason to
collect: with its defaults it looks through everything that is loaded, for a tenth of a second, each 4,000
executions or so, and never finds anything. Activations leave no reference cycles.
"""

from __future__ import annotations

import gc

LEAST = 2_000  # objects more than were freed, until the youngest are looked through


def settle(defaults: tuple[int, int, int]) -> None:
    """Leave what is loaded by now out of collections, and collect the youngest objects less often. Does
    nothing if other code has disabled the collector, or has set thresholds that differ from `defaults`."""
    if gc.isenabled() and gc.get_threshold() == defaults:
        gc.collect()
        gc.freeze()
        gc.set_threshold(max(LEAST, defaults[0]), *defaults[1:])
