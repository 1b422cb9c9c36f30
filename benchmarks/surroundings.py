"""What a benchmark ran on and what it measured: machine, versions, settings, commit and date."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import polos_redis
from polos_redis import settings
from polos_redis.embedded.binary import ServerBinary
from polos_redis.embedded.server import SETTINGS

LIBRARIES = ("redis", "hiredis", "msgpack", "pydantic", "uvloop")


def surroundings(server: ServerBinary, loop: str, tree: Path | None = None) -> dict[str, str | int]:
    """Facts to print beside the figures. `tree` is the measured checkout, by default the imported one."""
    tree = tree or Path(polos_redis.__file__).resolve().parent.parent
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "polos-redis": polos_redis.__version__,
        "commit": commit(tree),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "memory": _memory(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        server.flavour: server.version,
        "appendfsync": SETTINGS["appendfsync"],
        "partitions": settings.resolve("partitions"),
        "workers": 1,
        "loop": loop,
        "libraries": ", ".join(f"{name} {found}" for name in LIBRARIES if (found := _version(name))),
    }


def commit(tree: Path) -> str:
    """The commit of a checkout, marked if files have been changed since; "unknown" without Git."""
    try:
        at = _git(tree, "rev-parse", "--short=10", "HEAD")
        changed = _git(tree, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{at}, with changes" if changed else at


def _git(tree: Path, *arguments: str) -> str:
    command = ["git", "-C", str(tree), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
