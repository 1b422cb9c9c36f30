"""The programs that tests need and a machine may lack: a test is skipped without them."""

from __future__ import annotations

import shutil
from typing import NoReturn

import pytest

THERE_IS_NO = "there is no "


def program(*names: str) -> str:
    """The path of the first of these programs that is on PATH; without any of them, the test is skipped."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    return skip_without(names[0], "it is not on PATH")


def skip_without(name: str, why: str) -> NoReturn:
    """Skip the test: it needs a program that this machine does not have."""
    pytest.skip(f"{THERE_IS_NO}{name}: {why}")
