"""docs/guides/rest-api.md matches the code: routes with scopes, options, problems."""

from __future__ import annotations

import re
from pathlib import Path

from polos_redis import PolosClient
from polos_redis.server import problems
from polos_redis.server.app import create_app
from tests import ROOT
from tests.harness.command import Command
from tests.server.test_security import ROUTES

PAGE = (ROOT / "docs" / "guides" / "rest-api.md").read_text()
SERVER = Path(problems.__file__).parent


def _rows(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading."""
    lines = PAGE.partition(f"\n## {heading}\n")[2].splitlines()
    found: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
        elif found:
            break
    return found[2:]


def test_the_routes_match_the_app() -> None:
    paths = create_app(PolosClient()).openapi()["paths"]
    routes = {f"`{method.upper()} {path}`" for path, methods in paths.items() for method in methods}
    assert {row[0] for row in _rows("Routes")} == routes


def test_the_scopes_match_the_routes() -> None:
    documented = {re.sub(r"\{\w+\}", "*", row[0].strip("`")): row[1] for row in _rows("Routes")}
    required = {f"{method} {re.sub(r'/[xy](?=/|$)', '/*', path)}": scope for method, path, scope in ROUTES}
    assert {route: scope for route, scope in documented.items() if scope} == required


def test_the_problems_match_the_code() -> None:
    documented = {
        (int(status), row[1].strip("`")) for row in _rows("Problems") for status in row[0].split(",")
    }
    ours = {
        (status, problems.kind_of(error)): names for error, (status, _, names) in problems.REFUSALS.items()
    }
    assert ours.keys() <= documented
    source = "".join(path.read_text() for path in sorted(SERVER.glob("*.py")))
    kinds = set(re.findall(r'kind="([a-z-]+)"', source)) | {kind for _, kind in ours}
    assert {kind for _, kind in documented} == kinds
    members = {
        row[1].strip("`"): set(re.findall(r"`(\w+)`", row[2].partition(":")[0])) for row in _rows("Problems")
    }
    for (_, kind), names in ours.items():
        assert members[kind] == {problems.RENAMED.get(name, name) for name in names}


def test_the_options_match_the_command(redis_url: str, namespace: str, tmp_path: Path) -> None:
    shown = Command(redis_url, namespace, tmp_path).here("serve", "--help").out
    for row in _rows("Serving"):
        for option in re.findall(r"`(--[\w-]+)`", row[0]):
            assert option in shown
