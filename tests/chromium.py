"""A real Chromium for tests: where it is, how it is started, and what happens where there is none."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = [
    "ARGS",
    "CHROMIUM",
    "SECRET",
    "Browser",
    "ConsoleMessage",
    "Page",
    "Route",
    "async_playwright",
    "chromium",
    "expect",
]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
try:
    from playwright.async_api import Browser, ConsoleMessage, Page, Route, async_playwright, expect
except ImportError:  # pragma: no cover
    CHROMIUM = None

ARGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SECRET = "a secret of more than 32 characters, for tests"


@pytest.fixture(autouse=True)
def chromium() -> None:
    if CHROMIUM is None:
        if os.environ.get("POLOS_REQUIRE_ALL") == "1":
            pytest.fail("POLOS_REQUIRE_ALL is set, but there is no Chromium, or no playwright")
        pytest.skip("no Chromium, or no playwright")
