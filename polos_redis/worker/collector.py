"""The garbage collector of a process that does nothing but run a worker.

A busy worker creates objects faster than it frees them for a moment, which Python takes for a reason to
collect: with its defaults it looks through everything that is loaded, for a tenth of a second, each 4,000
executions or so, and never finds anything. Activations leave no reference cycles.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Leave what is loaded by now out of collections, unless other code has disabled the collector."""
    if gc.isenabled():
        gc.collect()
        gc.freeze()
