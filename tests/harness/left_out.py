"""Reports which tests a run leaves out, and offers options to run them.

- The tests of the scripts and of the connection run on one server; on every kind with `--servers=all`.
- Random tests try a quarter of their examples; all with `--hypothesis-profile=thorough`.
- Tests of programs that this machine lacks are skipped. `--only-skipped` runs those that the last run
  skipped, and fails any that are skipped again.

A run of the whole suite ends with a sentence that says what it left out.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.harness.programs import THERE_IS_NO

_CACHE_KEY = "polos-redis/skipped"  # in pytest's cache: the tests that the last run skipped

# No deadline: the duration of an example is no property of the code.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None, print_blob=True)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("polos-redis")
    group.addoption(
        "--servers",
        choices=("one", "all"),
        default="one",
        help="how many kinds of server the tests of the scripts and of the connection run on",
    )
    group.addoption(
        "--only-skipped",
        action="store_true",
        help="run only the tests that the last run skipped, and fail those that are skipped again",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the process that receives every report
        config.pluginmanager.register(_SkipReport(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("only_skipped"):
        return
    assert config.cache is not None
    skipped = set(config.cache.get(_CACHE_KEY, []))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in skipped])
    items[:] = [item for item in items if item.nodeid in skipped]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("only_skipped") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped again: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport) -> str:
    assert isinstance(report.longrepr, tuple)
    return report.longrepr[2].removeprefix("Skipped: ")


class _SkipReport:
    """Records what a run skips."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reasons: dict[str, str] = {}  # by test

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._reasons[report.nodeid] = _reason(report)

    def pytest_sessionfinish(self) -> None:
        if not self._config.getoption("only_skipped"):
            assert self._config.cache is not None
            self._config.cache.set(_CACHE_KEY, sorted(self._reasons))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None]:
        yield  # after pytest's own list of failures and skips
        if self._config.args_source is pytest.Config.ArgsSource.TESTPATHS:
            terminalreporter.line("")
            terminalreporter.line(self._sentence())

    def _sentence(self) -> str:
        programs = sorted(
            {
                reason.removeprefix(THERE_IS_NO).partition(":")[0]
                for reason in self._reasons.values()
                if reason.startswith(THERE_IS_NO)
            }
        )
        left_out = []
        if self._reasons:
            without = f" without {', '.join(programs)}" if programs else ""
            left_out.append(f"{len(self._reasons)} tests skipped{without}")
        if self._config.getoption("servers") == "one":
            left_out.append("scripts and connection on the other servers")
        if self._config.getoption("hypothesis_profile") != "thorough":
            left_out.append("three in four random examples")
        if not left_out:
            return "Nothing was left out."
        install = "install these programs and run" if programs else "run"
        return f"Left out: {'; '.join(left_out)}. To have all of it, {install} `make test-all`."
