"""The environments of peers: one each, in a cache folder, made once for its pinned packages."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from benchmarks.peers.children import run
from benchmarks.peers.peer import Peer
from benchmarks.stage import BenchmarkError

COMPLETE = "complete"  # the file that the last step of an installation writes


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a peer is installed: its Python, and the folder with what npm has installed."""

    python: Path
    folder: Path


def cache_folder() -> Path:
    """The user's cache folder for these environments."""
    return platformdirs.user_cache_path("polos-redis") / "benchmarks"


def folder_of(peer: Peer, cache: Path) -> Path:
    """The peer's folder. It is another one for other packages, and for another Python."""
    wanted = json.dumps([peer.packages, peer.npm, sys.version, sysconfig.get_platform()])
    return cache / f"{peer.module}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


async def environment(peer: Peer, cache: Path, show: Callable[[str], None]) -> Environment:
    """The peer's environment, made if it is not there. Raises `BenchmarkError` if that fails."""
    if not peer.packages:
        return Environment(Path(sys.executable), cache)
    folder = folder_of(peer, cache)
    made = Environment(folder / "venv" / "bin" / "python", folder)
    if (folder / COMPLETE).exists():
        return made
    if peer.npm and shutil.which("npm") is None:
        raise BenchmarkError("npm is not on the PATH (`apt-get install npm`)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    show(f"installing {', '.join(peer.packages + peer.npm)}")
    log = folder / "log"
    await run([sys.executable, "-m", "venv", folder / "venv"], log)
    pip: list[str | Path] = [
        made.python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    await run([*pip, *peer.packages], log)
    if peer.npm:
        npm: list[str | Path] = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder]
        await run([*npm, *peer.npm], log)
    (folder / COMPLETE).touch()
    return made
