"""Tests of the report of skipped tests and of required components."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
CONFTEST = Path(__file__).parents[1] / "conftest.py"
SOURCE = """
import pytest

@pytest.fixture
def server():
    pytest.skip("redis-server is not installed")

def test_in_fixture(server): ...
def test_in_call(): pytest.skip("Chromium is not installed: apt install chromium")
def test_other(): pytest.skip("no CUDA device")
@pytest.mark.skipif(True, reason="no CUDA device")
def test_marked(): ...
def test_passes(): ...
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(SOURCE)
    return pytester


def test_run_ends_with_skipped_tests_by_reason(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGUE_REQUIRE_COMPONENTS", raising=False)
    result = project.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(
        ["*2  no CUDA device", "*1  redis-server is not installed", "*apt-get install*make test"]
    )


def test_missing_component_fails_if_required(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_REQUIRE_COMPONENTS", "1")
    result = project.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["skipped"], outcomes.get("failed", 0) + outcomes.get("errors", 0)) == (1, 2, 2)
    result.stdout.fnmatch_lines(["*redis-server is not installed; SEGUE_REQUIRE_COMPONENTS=1 requires it*"])
