"""docs/architecture.md names exactly the existing layers, folders, keys and scripts."""

from __future__ import annotations

import re

from polos_redis.state import keys
from tests import ROOT
from tests.docs.test_layers import LAYERS

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def _section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _first_cells(title: str) -> set[str]:
    """The code words in the first cells of a section's table."""
    rows = re.findall(r"^\| (`.*?) \|", _section(title), re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def test_every_script_is_listed() -> None:
    scripts = {file.stem for file in (ROOT / "polos_redis" / "state" / "scripts").glob("*.lua")}
    assert _first_cells("Scripts") == scripts


def test_every_key_is_listed() -> None:
    named = {
        value
        for name, value in vars(keys).items()
        if name.isupper() and isinstance(value, str) and name not in ("GROUP", "DEFAULT_QUEUE", "REPLY")
    }
    assert {re.sub(r"<.*", "", key) for key in _first_cells("Keys")} == named


def test_every_folder_is_listed() -> None:
    package = ROOT / "polos_redis"
    folders = {f"{folder.name}/" for folder in package.iterdir() if (folder / "__init__.py").exists()}
    assert _first_cells("Layers") == (folders - {"features/"}) | {"cli/"}


def test_the_diagram_points_downward() -> None:
    diagram = _section("Layers").partition("```mermaid\n")[2].partition("```")[0]
    order = {name: number for number, name in enumerate((*LAYERS, "base", "api"))}
    order |= {"base": -1, "api": order["client"]}
    arrows = re.findall(r"^\s+(\w+)(?:\[.*?\])? --> (.*)$", diagram, re.MULTILINE)
    assert len(arrows) > 15
    for source, targets in arrows:
        for target in re.findall(r"\w+", targets):
            assert order[target] < order[source], f"{source} --> {target}"
