"""Makes `pip install -e` visible to type checkers and editors: they read paths, but run no import hooks.

An editable install puts one folder on the path, `.editable/`. It contains a link to `polos_redis/` and
nothing else, so the environment gets neither a module `cli` nor our `tests`. A second link puts `cli/` where
the wheel has it, at `polos_redis.cli`. Git ignores both links, and wheels and sdists are built without them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LINKS = {".editable/polos_redis": "polos_redis", "polos_redis/cli": "cli"}


class EditableLinks(BuildHookInterface[BuilderConfig]):
    """Creates the links for an editable install; other builds need none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            return
        for name, target in LINKS.items():
            link = Path(self.root, name)
            relative = os.path.relpath(Path(self.root, target), link.parent)
            if link.is_symlink() and str(link.readlink()) == relative:
                continue
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(relative, target_is_directory=True)
