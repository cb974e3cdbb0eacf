"""Tests of the report of skipped tests and of required components."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import COMPONENTS, enabling_command

pytest_plugins = ["pytester"]
CONFTEST = Path(__file__).parents[1] / "conftest.py"
SOURCE = """
import pytest

@pytest.fixture
def server():
    pytest.skip("redis-server is not installed")

@pytest.fixture
def store():
    raise ValueError("redis is not installed: pip install 'segue[redis]'")

def test_in_fixture(server): ...
def test_store_in_fixture(store): ...
def test_store_in_call(): raise ValueError("psycopg is not installed: pip install 'segue[postgresql]'")
def test_in_call(): pytest.skip("Chromium is not installed: apt install chromium")
def test_other(): pytest.skip("no CUDA device")
@pytest.mark.skipif(True, reason="no CUDA device")
def test_marked(): ...
def test_passes(): ...
"""
MODULE = """
import pytest

pytest.importorskip("a_package_that_nobody_has", reason="playwright is not installed")

def test_in_a_file_that_is_skipped(): ...
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(test_some=SOURCE, test_browser=MODULE)
    return pytester


def test_run_ends_with_skipped_tests_by_reason(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGUE_REQUIRE_COMPONENTS", raising=False)
    result = project.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=7)
    result.stdout.fnmatch_lines(["*2  no CUDA device", "*1  redis-server is not installed"])
    result.stdout.fnmatch_lines(
        [
            "To enable them*",
            "  apt-get install chromium",
            "  apt-get install redis-server",
            "  python -m pip install*dev*",
            "  SEGUE_REQUIRE_COMPONENTS=1 make test",
        ]
    )


def test_missing_component_fails_if_required(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_REQUIRE_COMPONENTS", "1")
    result = project.runpytest_inprocess("-p", "no:cacheprovider", "--continue-on-collection-errors")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["skipped"], outcomes.get("failed", 0) + outcomes.get("errors", 0)) == (1, 2, 5)
    for name in ("redis-server", "redis", "psycopg", "Chromium", "playwright"):
        result.stdout.fnmatch_lines([f"*{name} is not installed*; SEGUE_REQUIRE_COMPONENTS=1 requires it: *"])


def test_every_reason_of_the_tests_has_a_command() -> None:
    folder = Path(__file__).parents[1]
    files = [path for path in folder.rglob("*.py") if path != Path(__file__) and "crosscheck" not in path.parts]
    text = "\n".join(path.read_text() for path in files)
    names = re.findall(r'skip\(.*"([^"{}]+) is not installed', text)
    assert len(names) > 10
    assert [name for name in names if enabling_command(f"{name} is not installed") is None] == ["the extra 'ann'"] * 5
    assert 'importorskip("psycopg")' not in text
    assert 'importorskip("redis")' not in text


def test_packages_of_components_are_development_requirements() -> None:
    import tomllib

    project = tomllib.loads((CONFTEST.parents[1] / "pyproject.toml").read_text())["project"]
    text = str(project["optional-dependencies"])
    packages = [name for name, command in COMPONENTS.items() if "pip" in command]
    assert [name for name in packages if name not in text and name != "httptools"] == []
    assert "uvicorn[standard]" in text, "installs httptools"


def test_continuous_integration_installs_and_requires_the_programs() -> None:
    script = (CONFTEST.parents[1] / ".ci" / "run").read_text()
    assert "SEGUE_REQUIRE_COMPONENTS=1 make test" in script
    assert not subprocess.run(["bash", "-n", str(CONFTEST.parents[1] / ".ci" / "run")], check=False).returncode
    for command in COMPONENTS.values():
        assert "pip" in command or command.removeprefix("apt-get install ") in script
