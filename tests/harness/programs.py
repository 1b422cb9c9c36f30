"""Programs that tests need and a machine may lack: without them a test is skipped."""

from __future__ import annotations

import shutil
from typing import NoReturn

import pytest

THERE_IS_NO = "there is no "


def program(*names: str) -> str:
    """The path of the first of these programs found on PATH; skips the test if there is none."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    return skip_without(names[0], "it is not on PATH")


def skip_without(name: str, why: str) -> NoReturn:
    """Skip the test: it needs a program this machine lacks."""
    pytest.skip(f"{THERE_IS_NO}{name}: {why}")
