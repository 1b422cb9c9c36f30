"""The scripted model as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def model_process(script: Path, log: Path) -> Iterator[str]:
    """Run a scripted model in its own process until the block ends; yields its base URL."""
    command = [sys.executable, "-m", "polos_redis.testing.model", "--script", str(script), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()
    assert process.returncode == 0
