"""Installs an earlier revision as a wheel, in `.venv-previous`: `python -m tests.compatibility.previous`.

The revision is the argument, or else the newest release before HEAD. Until the first release it is the commit
that last recorded golden data: that is done whenever a format changes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests import ROOT

FOLDER = Path(f"{sys.prefix}-previous")
PYTHON = FOLDER / "bin" / "python"
_INSTALLED = FOLDER / "revision"  # the commit
_GOLDEN = "tests/compatibility/golden"


def main(*arguments: str) -> None:
    if _git("rev-parse", "HEAD") is None:
        print("not a git checkout, or no git on PATH: the working tree stands in for an earlier revision")
        with tempfile.TemporaryDirectory() as folder:
            _install(_build(ROOT, Path(folder)))
        return
    (revision,) = arguments or (_default(),)
    commit = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        sys.exit(f"there is no revision {revision!r} in this repository: name a commit or a tag that it has")
    if not (_INSTALLED.exists() and _INSTALLED.read_text() == commit):
        with tempfile.TemporaryDirectory() as folder:
            _install(_build(_exported(commit, Path(folder)), Path(folder)))
        _INSTALLED.write_text(commit)
    print(f"{FOLDER.name} has {_git('log', '-1', '--format=%h %cs %s', commit)}")


def _default() -> str:
    release = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^")
    return release or _git("log", "-1", "--format=%H", "--", _GOLDEN) or "HEAD"


def _git(*arguments: str) -> str | None:
    """What git prints, without the end of the line; None if it fails."""
    if shutil.which("git") is None:
        return None
    git = ["git", "-c", "safe.directory=*", *arguments]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _exported(commit: str, folder: Path) -> Path:
    """Returns a folder with the files of a commit."""
    archive = folder / "source.zip"
    assert _git("archive", "--output", str(archive), commit) is not None
    shutil.unpack_archive(archive, folder / "source")
    return folder / "source"


def _build(source: Path, folder: Path) -> Path:
    """Returns the wheel of a source tree."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    _run(*build, str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def _install(wheel: Path) -> None:
    """Installs a wheel and what it needs, without extras, in a new environment."""
    venv.create(FOLDER, clear=True, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check"]
    _run(*pip, "install", "--quiet", str(wheel))


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}this revision can't be built or installed: `{' '.join(command)}` failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
