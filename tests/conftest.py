"""Hypothesis profile of all property tests, and the report of skipped tests.

Tests that need an extra that is not installed are skipped; the reason names the package to install.
A run ends with the number of skipped tests per reason and the command that enables the tests of real components.
With ``SEGUE_REQUIRE_COMPONENTS=1``, a test that is skipped because a component is not installed fails.
"""

import os
from collections import Counter
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("segue", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("segue")

COMPONENTS = ("initdb", "redis-server", "promtool", "prometheus", "chromium")  # beginnings of the reasons to skip
ENABLE = "apt-get install postgresql redis-server prometheus chromium && SEGUE_REQUIRE_COMPONENTS=1 make test"


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason why a test was skipped."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def names_component(reason: str) -> bool:
    """Check whether a reason to skip says that a real component is not installed."""
    return reason.lower().startswith(tuple(f"{name} is not installed" for name in COMPONENTS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    try:
        return (yield)
    except ValueError as error:
        if "is not installed: pip install 'segue[" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("SEGUE_REQUIRE_COMPONENTS") == "1" and names_component(skip_reason(report)):
        report.outcome = "failed"
        report.longrepr = f"{skip_reason(report)}; SEGUE_REQUIRE_COMPONENTS=1 requires it: {ENABLE}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(skip_reason(report) for report in terminalreporter.stats.get("skipped", []))
    if not reasons:
        return
    terminalreporter.section("skipped tests")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5}  {reason}")
    if any(map(names_component, reasons)):
        terminalreporter.write_line(f"To run the tests of real components: {ENABLE}")
