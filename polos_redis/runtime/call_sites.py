"""Call sites: the line of the workflow's code that makes a `ctx` call, for errors that must name it."""

from __future__ import annotations

import sys
from types import CodeType

Place = tuple[CodeType, int]


def caller() -> Place:
    """Returns the call site of the function that calls this one."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lineno


def described(place: Place) -> str:
    """Returns a call site as `file:line`."""
    return f"{place[0].co_filename.rpartition('/')[2]}:{place[1]}"
