"""Call sites: the line of the workflow's code that makes a `ctx` call, for errors that must name it."""

from __future__ import annotations

import sys
from types import CodeType

CallSite = tuple[CodeType, int]


def caller() -> CallSite:
    """Returns the call site of the function that calls this one."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lineno


def described(call_site: CallSite) -> str:
    """Returns a call site as `file:line`."""
    return f"{call_site[0].co_filename.rpartition('/')[2]}:{call_site[1]}"
