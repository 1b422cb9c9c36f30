"""Users' programs, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests import ROOT

SETTINGS = pytest.mark.parametrize(
    "options", [(), ("-X", "dev", "-W", "error")], ids=["plain", "dev-mode-and-warnings-are-errors"]
)


PRELUDE = """
import asyncio, logging, os, sys
from polos_redis import *
# in dev mode asyncio reports what took long, and on a busy machine everything may
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing"))
"""


def run_program(source: str, url: str, namespace: str, *options: str) -> str:
    """Runs a user's program in its own process; returns what it printed. Nothing goes to stderr."""
    source = PRELUDE + textwrap.dedent(source)
    environment = {**os.environ, "POLOS_REDIS_URL": url, "POLOS_NAMESPACE": namespace}
    done = subprocess.run(
        [sys.executable, *options, "-c", source],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not done.stderr
    assert done.returncode == 0
    return done.stdout
