"""Run tests on a copy of the tree, each job in a forked process: the worker of the mutation run.

The worker imports the packages that Segue depends on, but neither Segue nor tests, and then forks once per job, which
saves the seconds of the imports. It has one thread when it forks, so the child may use every library. Jobs are lines
of JSON on standard input, answers are lines of JSON on standard output:

* ``{"groups": [[file, [test, ...]], ...], "seconds": s}`` runs the tests in this order until one fails.
* ``{"cover": file, "sources": [path, ...]}`` runs a whole test file and records the lines that each test executes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

PRELOADED = (
    "torch",
    "torch.utils.data",
    "torch._dynamo",
    "numpy",
    "scipy.sparse",
    "scipy.stats",
    "pydantic",
    "numba",
    "safetensors",
)
PRELOADED += ("rich.console", "tqdm", "typer", "tomlkit", "hypothesis.extra.numpy", "coverage")
"""Imported before the fork, also what the first optimizer step imports; not Polars, as its import starts threads."""

OPTIONS = ["-q", "-x", "-p", "no:cacheprovider", "-p", "pytest_timeout", "--timeout", "0", "--tb", "short"]

Job = dict[str, Any]


class Selection:
    """Plugin of pytest: run the given tests of a file in the given order, without shrinking counterexamples."""

    def __init__(self, tests: list[str] | None) -> None:
        self.tests = tests
        self.failed = ""

    def pytest_configure(self) -> None:
        """Select a Hypothesis profile that does not shrink counterexamples."""
        from hypothesis import Phase, settings

        plain = settings.get_profile("segue")
        settings.register_profile("mutation", parent=plain, phases=(Phase.explicit, Phase.generate))
        settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Select and order the tests."""
        if self.tests is not None:
            place = {test: at for at, test in enumerate(self.tests)}
            items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the first test that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


class Recorder(Selection):
    """Plugin of pytest: record CPU seconds and executed lines of each test."""

    def __init__(self, coverage: Any) -> None:
        super().__init__(None)
        self.coverage = coverage
        self.tests_run: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Measure the CPU seconds of a test."""
        start = time.process_time()
        self.tests_run[item.nodeid] = {"passed": False}
        result = yield
        self.tests_run[item.nodeid]["seconds"] = time.process_time() - start
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Attribute the lines of fixtures to the test."""
        self.coverage.switch_context(f"{item.nodeid}|setup")
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Attribute the lines of a test to it."""
        self.coverage.switch_context(f"{item.nodeid}|call")
        result = yield
        self.tests_run[item.nodeid]["passed"] = True
        return result


def main() -> None:
    """Answer jobs until standard input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    if (n_threads := len(os.listdir("/proc/self/task"))) != 1:
        raise RuntimeError(f"the worker has {n_threads} threads, expected 1: set OMP_NUM_THREADS=1")
    for line in sys.stdin:
        print(json.dumps(run_forked(json.loads(line))), flush=True)


def run_forked(job: Job) -> dict[str, Any]:
    """Run a job in a forked process and return its answer, with key ``outcome``."""
    limit = job.get("seconds", 600.0)
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        if (child := os.fork()) == 0:
            _run_child(job, Path(folder), limit)
        is_late = False
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            time.sleep(0.02)
            if not is_late and time.monotonic() - start > 20 * limit + 60:
                is_late = True
                os.kill(child, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # processes that tests left behind
        answer = Path(folder, "answer.json")
        found = json.loads(answer.read_text()) if answer.exists() else {"outcome": "crash", "test": ""}
        if is_late or (os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) in (signal.SIGXCPU, signal.SIGKILL)):
            found["outcome"] = "timeout"
        if found["outcome"] in ("crash", "error"):
            found["output"] = Path(folder, "output").read_text(errors="replace")[-2000:]
        return found | {"wall_seconds": round(time.monotonic() - start, 2)}


def _run_child(job: Job, folder: Path, limit: float) -> None:
    """Run a job in this process, write its answer, and end the process."""
    try:
        os.setsid()
        output = os.open(folder / "output", os.O_CREAT | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 5))
        sys.dont_write_bytecode = "groups" in job
        options = [*OPTIONS, "--basetemp", str(folder / "tests")]
        answer = _cover(job, options) if "cover" in job else _run_groups(job, options)
        (folder / "answer.json").write_text(json.dumps(answer))
    except BaseException as error:  # also SystemExit: the child must never return into the worker's loop
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        os._exit(0)


def _find_wrong_copy() -> dict[str, Any]:
    """Check that Segue is imported from the copy in the working folder; return an answer if it is not."""
    place = importlib.util.find_spec("segue")
    if place is None or not Path(str(place.origin)).is_relative_to(Path.cwd()):
        return {"outcome": "error", "message": f"segue is imported from {place}, expected the copy in {Path.cwd()}"}
    return {}


def _run_groups(job: Job, options: list[str]) -> dict[str, Any]:
    if wrong := _find_wrong_copy():
        return wrong
    for file, tests in job["groups"]:
        plugin = Selection(tests)
        code = pytest.main([file, *options], plugins=[plugin])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return {"outcome": "killed", "test": plugin.failed or f"{file}: {pytest.ExitCode(code).name}"}
    return {"outcome": "survived", "test": ""}


def _cover(job: Job, options: list[str]) -> dict[str, Any]:
    import coverage

    recorder = coverage.Coverage(data_file=None, include=job["sources"], config_file=False, messages=False)
    recorder.start()
    if wrong := _find_wrong_copy():
        return wrong
    for source in job["sources"]:  # imported here, the first test of the file does not pay for it
        importlib.import_module(".".join(Path(source).relative_to(Path.cwd() / "src").with_suffix("").parts))
    plugin = Recorder(recorder)
    options = [option for option in options if option != "-x"]
    code = pytest.main([job["cover"], *options], plugins=[plugin])
    recorder.stop()
    data = recorder.get_data()
    lines = {
        str(Path(file).relative_to(Path.cwd())): {
            row: sorted(set(contexts) - {""}) for row, contexts in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    outcome = "error" if code not in (0, 1, 5) else "covered"
    return {"outcome": outcome, "tests": plugin.tests_run, "lines": lines}


if __name__ == "__main__":
    main()
