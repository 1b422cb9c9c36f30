"""A real Chromium for tests: finding it, starting it, and skipping where there is none."""

from __future__ import annotations

import shutil

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Route, async_playwright, expect

from tests.harness.programs import program

__all__ = [
    "ARGS",
    "CHROMIUM",
    "CHROMIUM_NAMES",
    "SECRET",
    "Browser",
    "ConsoleMessage",
    "Page",
    "Route",
    "async_playwright",
    "chromium",
    "expect",
]

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)

ARGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
expect.set_options(timeout=20_000)  # a loaded machine is slow: five seconds are not enough for all
SECRET = "a secret of more than 32 characters, for tests"


@pytest.fixture(autouse=True)
def chromium() -> None:
    """Skip the module's tests where there is no browser."""
    program(*CHROMIUM_NAMES)
