"""The user's modules: imported by name or by file, and told about when that fails."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from polos_redis.errors import PolosError

from .output import note, printable


class ModuleError(PolosError):
    """A module that can't be imported; the message names it and the error."""


def load(target: str) -> None:
    """Import what the user named: `package.module`, or a file, under the name `python FILE` goes by.

    The types of `python dir/charge.py`, whose classes live in `__main__`, and of a worker that was given
    dir/charge.py are so the same: both are stored as those of the module `charge`.
    """
    if target.endswith(".py") or "/" in target or "\\" in target:
        _load_file(target)
    else:
        _make_importable(Path.cwd())
        _run(target, lambda: importlib.import_module(target))


def _load_file(target: str) -> None:
    path = Path(target).absolute()
    if path.is_dir():
        raise ModuleError(f"{target} is a folder: name a file in it, or a module")
    if not path.is_file():
        raise ModuleError(f"there is no file {target}")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        place = getattr(known, "__file__", None)
        if place is not None and Path(place).resolve() == path.resolve():
            return
        raise ModuleError(
            f"{target} can't be imported as {name!r}: a module of that name is there already "
            f"({place or 'built in'}); give the file another name"
        )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModuleError(f"{target} is not a Python file: its name does not end in .py")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    _make_importable(path.parent)
    sys.modules[name] = module
    try:
        _run(target, lambda: loader.exec_module(module))
    except BaseException:
        sys.modules.pop(name, None)
        raise


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _run(target: str, run: Callable[[], object]) -> None:
    """Import; the user's own error is shown with the traceback of their code, then told in a sentence."""
    try:
        run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{target}.".startswith(f"{missing}."):
            raise ModuleError(
                f"there is no module {missing!r} in {Path.cwd()} or among the installed packages"
            ) from None
        frames = _of_the_user(error.__traceback__)
        shown = "".join(traceback.format_exception(type(error), error, frames))
        note("\n".join(map(printable, shown.expandtabs(4).rstrip().split("\n"))))
        said = traceback.format_exception_only(error)[-1].strip()
        raise ModuleError(f"{target} can't be imported: {said}") from None


def _of_the_user(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without its beginning: our frames and the import system's."""
    ours = (__file__, importlib.__file__)
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file not in ours and not file.startswith("<frozen importlib"):
            return frames
        frames = frames.tb_next
    return None
