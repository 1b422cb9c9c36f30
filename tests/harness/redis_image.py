"""The programs of Redis' container image, as programs of this machine."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path


def image(folder: Path, server: Path, *connect: str) -> dict[str, str]:
    """Returns an environment with the image's programs on PATH. Inside a container redis-cli finds the server
    at its standard port; here it does with the options `connect`."""
    cli = shutil.which("redis-cli")
    programs = {
        "docker-entrypoint.sh": 'exec "$@"',
        "redis-server": f'exec {shlex.quote(str(server))} "$@"',
        "redis-cli": f'exec {shlex.join([cli, *connect])} "$@"' if cli else "exit 127",
    }
    folder.mkdir()
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
