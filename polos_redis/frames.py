"""Frames of a stack: which of them are the user's own code, and which an installed package's, the standard
library's or ours."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

F = TypeVar("F")

_OURS = f"{Path(__file__).parent}/"
_LIBRARY = f"{Path(os.__file__).parent}/"
_INSTALLED = ("site-packages", "dist-packages")


def of_user(frames: Sequence[F], file_of: Callable[[F], str]) -> list[F]:
    """Returns the frames of the user's own code, in order; without any, those of installed packages."""
    files = [(frame, file_of(frame)) for frame in frames]
    others = [(frame, file) for frame, file in files if not file.startswith(_OURS) and not _is_library(file)]
    own = [frame for frame, file in others if not _is_installed(file)]
    return own or [frame for frame, _ in others]


def suspended(task: asyncio.Task[Any]) -> list[FrameType]:
    """Returns the frames of a task that is not running now, the innermost last."""
    found: list[FrameType] = []
    code: Any = task.get_coro()
    while code is not None:
        frame = getattr(code, "cr_frame", None)
        found += [] if frame is None else [frame]
        code = getattr(code, "cr_await", None)
    return found


def _is_library(file: str) -> bool:
    return file.startswith("<frozen") or (file.startswith(_LIBRARY) and not _is_installed(file))


def _is_installed(file: str) -> bool:
    return any(part in file for part in _INSTALLED)
