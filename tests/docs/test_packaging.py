"""What users install: the sdist, the wheel, an editable install, and the README as PyPI shows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest
from markdown_it import MarkdownIt

from polos_redis import __version__
from tests import ROOT

REPOSITORY = "https://github.com/polos-dev/polos-redis"

PROGRAM = """\
from typing import assert_type

from pydantic import BaseModel

from polos_redis import PolosClient, WorkflowContext, workflow
from polos_redis.cli import main as polos


class Charge(BaseModel):
    amount: float


async def charge_card(charge: Charge) -> str:
    return f"charged {charge.amount}"


@workflow
async def charge_customer(ctx: WorkflowContext, charge: Charge) -> str:
    paid = await ctx.step.run("charge", charge_card, charge)
    assert_type(paid, str)
    paid.no_such_method()  # wrong
    return paid


async def charge(client: PolosClient) -> str:
    handle = await charge_customer.invoke(client, Charge(amount=5))
    amount: int = await handle.result()  # wrong
    await charge_customer.invoke(client, "5 dollars")  # wrong
    polos("no arguments")  # wrong
    return await handle.result() + str(amount)
"""


def _run(*command: object, cwd: Path, expect: int = 0, **variables: str) -> str:
    """Runs a program as a user would, without this process's Python environment variables."""
    unwanted = ("PYTHON", "MYPY", "VIRTUAL_ENV", "PIP_", "POLOS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    environment |= variables
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


class Environment:
    """A virtual environment to install into. It sees this environment's packages, so it needs no network."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        self.polos = folder / "bin" / "polos"
        purelib = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        self.site_packages = Path(purelib)
        # Last on the path. Its own .pth files are not read, so our editable install stays invisible.
        (self.site_packages / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, *what: str | Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check"]
        options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
        _run(*pip, "install", *options, *what, cwd=self.site_packages)

    def evaluate(self, expression: str, cwd: Path) -> str:
        source = f"import importlib.util, polos_redis, polos_redis.cli; print({expression})"
        return _run(self.python, "-c", source, cwd=cwd).strip()


class Distributions:
    """The sdist and the wheels, built as for a release."""

    def __init__(self, folder: Path) -> None:
        build = [sys.executable, "-m", "build", "--no-isolation"]
        _run(*build, "--outdir", folder, ROOT, cwd=folder)
        _run(*build, "--wheel", "--outdir", folder / "direct", ROOT, cwd=folder)
        (self.sdist,) = folder.glob("*.tar.gz")
        (self.wheel,) = folder.glob("*.whl")  # `build` makes it from the unpacked sdist
        (self.direct_wheel,) = (folder / "direct").glob("*.whl")  # built from the working tree

    def unpack_sdist(self, folder: Path) -> Path:
        _run("tar", "-xzf", self.sdist, cwd=folder)
        (unpacked,) = folder.iterdir()
        return unpacked

    def metadata(self) -> Message:
        with ZipFile(self.wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    return Distributions(tmp_path_factory.mktemp("distributions"))


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a source folder, by their path in it."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_sdist_is_complete(distributions: Distributions, tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout, or no git on PATH: the list of files comes from git")
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    tracked = set(_run(*git, cwd=ROOT).rstrip("\0").split("\0"))
    on_disk = {name for name in tracked if (ROOT / name).exists()}
    untracked = set(_run(*git, "--others", "--exclude-standard", cwd=ROOT).rstrip("\0").split("\0"))
    shipped = set(_files(distributions.unpack_sdist(tmp_path)))
    assert on_disk <= shipped
    assert shipped - on_disk - untracked == {"PKG-INFO"}


def test_the_wheel_holds_the_package_and_the_command(distributions: Distributions) -> None:
    expected = {f"polos_redis/{name}": data for name, data in _files(ROOT / "polos_redis").items()}
    expected |= {f"polos_redis/cli/{name}": data for name, data in _files(ROOT / "cli").items()}
    suffixes = {Path(name).suffix for name in expected}
    assert {".py", ".typed", ".lua", ".html", ".css", ".js", ".svg"} <= suffixes
    with ZipFile(distributions.wheel) as archive:
        shipped = {name: archive.read(name) for name in archive.namelist()}
    packaged = {name: data for name, data in shipped.items() if ".dist-info/" not in name}
    assert packaged.keys() == expected.keys()
    assert packaged == expected
    with ZipFile(distributions.direct_wheel) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == shipped


def test_the_wheel_runs(distributions: Distributions, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install(distributions.wheel)
    assert environment.evaluate("polos_redis.__file__", tmp_path).startswith(str(environment.site_packages))
    assert environment.evaluate("importlib.util.find_spec('cli')", tmp_path) == "None"
    assert _run(environment.polos, "--version", cwd=tmp_path) == f"polos-redis {__version__}\n"
    assert "suspensions" in _run(environment.polos, "--help", cwd=tmp_path)


@pytest.fixture(scope="module")
def source(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source that is installed in editable mode."""
    return distributions.unpack_sdist(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def editable(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with an editable install of `source`."""
    environment = Environment(tmp_path_factory.mktemp("editable") / "venv")
    environment.install("--editable", source)
    return environment


def _mistakes(report: str) -> dict[int, str]:
    """Errors of mypy or pyright in program.py, by line."""
    found = re.findall(r"\bprogram\.py:(\d+)(?::\d+)*:? (?:- )?error: (.*)", report)
    return {int(line): message for line, message in found}


def _expected_mistakes() -> set[int]:
    return {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}


def test_an_editable_install_runs(editable: Environment, source: Path, tmp_path: Path) -> None:
    imported = editable.evaluate("polos_redis.__file__", tmp_path)
    assert (source / "polos_redis" / "__init__.py").samefile(imported)
    for name in ("cli", "tests", "docs", "examples", "benchmarks"):
        assert editable.evaluate(f"importlib.util.find_spec({name!r})", tmp_path) == "None"
    assert _run(editable.polos, "--version", cwd=tmp_path) == f"polos-redis {__version__}\n"
    assert "suspensions" in _run(editable.polos, "--help", cwd=tmp_path)


def test_an_editable_install_sees_new_files(editable: Environment, source: Path, tmp_path: Path) -> None:
    (source / "polos_redis" / "just_written.py").write_text("")
    (source / "cli" / "just_written.py").write_text("")
    for name in ("polos_redis.just_written", "polos_redis.cli.just_written"):
        assert editable.evaluate(f"importlib.util.find_spec({name!r}).name", tmp_path) == name


@pytest.mark.timeout(300)
def test_mypy_resolves_an_editable_install(editable: Environment, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache"]
    report = _run(*mypy, "--python-executable", editable.python, "program.py", cwd=tmp_path, expect=1)
    assert _mistakes(report).keys() == _expected_mistakes(), report


@pytest.mark.timeout(300)
def test_pyright_resolves_an_editable_install(editable: Environment, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    pyright = [sys.executable, "-m", "pyright", "--pythonpath", editable.python, "program.py"]
    # No node on PATH, and no check for a newer version.
    without = {"PATH": str(editable.python.parent), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    report = _run(*pyright, cwd=tmp_path, expect=1, **without)
    assert _mistakes(report).keys() == _expected_mistakes(), report


def _repository_file(url: str) -> Path | None:
    """The file or folder of this repository that a link leads to."""
    tree = rf"{re.escape(REPOSITORY)}/(?:blob|tree)/(?:main|v{re.escape(__version__)})"
    found = re.fullmatch(rf"{tree}/([^#]+)(?:#.*)?", url)
    return ROOT / found[1] if found else None


def _links(markdown: str) -> list[str]:
    tokens = [token for block in MarkdownIt().parse(markdown) for token in block.children or []]
    links = [token.attrGet("href") or token.attrGet("src") for token in tokens]
    return [str(link) for link in links if link is not None]


def test_the_readmes_links_work_on_pypi(distributions: Distributions) -> None:
    metadata = distributions.metadata()
    assert metadata["Description-Content-Type"] == "text/markdown"
    shipped = _links(str(metadata.get_payload()))
    assert [link for link in shipped if not link.startswith(("https://", "http://"))] == []
    written = _links((ROOT / "README.md").read_text())
    rewritten = [after for before, after in zip(written, shipped, strict=True) if after != before]
    assert rewritten
    for link in {*rewritten, *(link for link in shipped if link.startswith(REPOSITORY + "/"))}:
        file = _repository_file(link)
        assert file is not None, link
        assert file.exists(), link


def test_project_urls_lead_somewhere(distributions: Distributions) -> None:
    urls = dict(value.split(", ", 1) for value in distributions.metadata().get_all("Project-URL", []))
    assert urls.keys() == {"Homepage", "Documentation", "Changelog", "Issues", "Source"}
    assert all(url.startswith(REPOSITORY) for url in urls.values())
    for name in ("Documentation", "Changelog"):
        file = _repository_file(urls[name])
        assert file is not None and file.exists(), name
