"""Imports the user's modules, by name or by file, and reports why an import failed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, TracebackType

from polos_redis.errors import PolosError
from polos_redis.values.type_names import name_of_file

from .output import note, printable
from .usage import UsageError


class ModuleError(PolosError):
    """A module can't be imported. The message names it and the error."""


class NoModuleError(ModuleError, UsageError):
    """There is no such module or file."""


def look_for(target: str) -> None:
    """Raises `NoModuleError` if there is no such file or module, as far as this can be told without importing
    anything: of `package.module`, only the package is looked for."""
    if is_file(target):
        _existing_file(target)
        return
    package = target.partition(".")[0]
    if not package or target.endswith("."):
        raise NoModuleError(f"{target!r} is neither the name of a module nor that of a file")
    if package in sys.modules or PathFinder.find_spec(package, [str(Path.cwd())]) is not None:
        return
    if importlib.util.find_spec(package) is None:
        raise _no_module(package)


def load(target: str) -> None:
    """Imports `package.module` or a file. A file dir/charge.py becomes the module `charge`, or `dir.charge`
    if dir is a package.

    The classes of `python dir/charge.py`, which live in `__main__`, are stored under that module too, so that
    all processes agree on the names of types.
    """
    if is_file(target):
        _load_file(target)
    else:
        look_for(target)
        _make_importable(Path.cwd())
        _run(target, lambda: importlib.import_module(target))


def is_file(target: str) -> bool:
    """Whether a target names a file, not a module."""
    return target.endswith(".py") or "/" in target or "\\" in target


def _existing_file(target: str) -> Path:
    path = Path(target).absolute()
    if path.is_dir():
        raise NoModuleError(f"{target} is a folder: pass a file in it, or a module")
    if not path.is_file():
        raise NoModuleError(f"no such file: {target}")
    if importlib.util.spec_from_file_location("", path) is None:
        raise NoModuleError(f"{target} is not a Python file: its name does not end in .py")
    return path


def _no_module(name: str) -> NoModuleError:
    return NoModuleError(f"no module named {name!r} in {Path.cwd()} or among the installed packages")


def _load_file(target: str) -> None:
    path = _existing_file(target)
    name = name_of_file(str(path))
    imported = sys.modules.get(name)
    if imported is not None:
        _check_file(imported, target, path)
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # as it is a Python file
    _make_importable(path.parent)
    if "." in name:
        _make_importable(path.parents[name.count(".")])
        _run(target, lambda: importlib.import_module(name))
        _check_file(sys.modules[name], target, path)
        return
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[name] = module
    try:
        _run(target, lambda: loader.exec_module(module))
    except BaseException:
        sys.modules.pop(name, None)
        raise


def _check_file(imported: ModuleType, target: str, path: Path) -> None:
    """Raises `ModuleError` if a module of that name was imported from elsewhere."""
    place = getattr(imported, "__file__", None)
    if place is None or Path(place).resolve() != path.resolve():
        raise ModuleError(
            f"{target} can't be imported as {imported.__name__!r}: a module of that name is already imported "
            f"({place or 'built in'}); rename the file"
        )


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _run(target: str, run: Callable[[], object]) -> None:
    """Runs an import. Prints the traceback of the user's code if it fails, then raises `ModuleError`."""
    try:
        run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{target}.".startswith(f"{missing}."):
            raise _no_module(missing) from None
        frames = _user_frames(error.__traceback__)
        shown = "".join(traceback.format_exception(type(error), error, frames))
        note("\n".join(map(printable, shown.expandtabs(4).rstrip().split("\n"))))
        reason = traceback.format_exception_only(error)[-1].strip()
        raise ModuleError(f"{target} can't be imported: {reason}") from None


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    """Drops the leading frames of this package and of the import system."""
    ours = (__file__, importlib.__file__)
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file not in ours and not file.startswith("<frozen importlib"):
            return frames
        frames = frames.tb_next
    return None
