"""Change the code in small ways and count how many of the changes the tests notice: mutation testing.

The tree is copied to a temporary folder for each worker, and only the copies are mutated. First every test file runs
once without mutation and records which lines each test executes; then each mutant runs with the tests that execute its
line (:mod:`benchmarks.mutation_worker`). Configuration: ``mutation.toml``; reviewed equivalent mutants:
``mutation_equivalents.toml``.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks import mutation_report
from benchmarks.mutation_operators import Exclusions, Mutant, Place, apply, draw_sample, find_mutants
from benchmarks.mutation_report import Equivalents, find_reason

__all__ = ["page", "run"]

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {".git", ".venv", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pytest_cache", "runs", "site"}

Baseline = dict[str, dict[str, Any]]


class Worker:
    """A copy of the tree and the process that runs tests in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=lambda _, names: SKIPPED.intersection(names), symlinks=True)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
        )
        environment = os.environ | threads
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(self.folder / "src"), str(self.folder)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONHASHSEED": "0",
            "SEGUE_HOME": str(self.folder / "home"),
        }
        environment.pop("SEGUE_ARCHIVES", None)
        command = [sys.executable, "-m", "benchmarks.mutation_worker"]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker in {self.folder} ended with exit status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run_mutant(self, mutant: Mutant, changed: str, job: dict[str, Any]) -> dict[str, Any]:
        """Run tests while a file of the copy is replaced by its mutant."""
        path = self.folder / mutant.file
        original = path.read_text()
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()
        path.write_text(changed)
        try:
            return self.ask(job)
        finally:
            path.write_text(original)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


@contextmanager
def start_workers(n_workers: int) -> Iterator[list[Worker]]:
    """Start workers, each with its own copy of the tree; remove the copies at the end."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder, ExitStack() as stack:
        workers = []
        for index in range(n_workers):
            workers.append(Worker(Path(folder).resolve() / str(index)))
            stack.callback(workers[-1].close)
        yield workers


def map_jobs(workers: list[Worker], function: Callable[[Worker, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Apply ``function`` to every item with a free worker; yield the results in the order of the items."""
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def call(item: Any) -> Any:
        worker = free.get()
        try:
            return function(worker, item)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        yield from pool.map(call, items)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run a sample of mutants; see the module.

    ``options``: ``sample`` (0: all, None: as configured), ``seed``, ``threads`` (workers), ``minutes`` (after which no
    further mutant is run; None: no limit), ``out``, ``resume``.
    """
    config = tomllib.loads((ROOT / "benchmarks/mutation.toml").read_text())
    folder = options.out / "mutation"
    if not options.resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    size = 20 if options.quick else config["sample"] if options.sample is None else options.sample
    sources = {file: (ROOT / file).read_text() for file in expand(config["sources"])}
    exclusions = Exclusions(config["message_calls"], config["ignored_arguments"])
    places = {file: find_mutants(file, text, config["operators"], exclusions) for file, text in sources.items()}
    drawn = draw_sample(places, size, options.seed)
    log(f"{sum(map(len, places.values())):,} mutants, {len(drawn):,} of them in this run")
    equivalents = mutation_report.read_equivalents(ROOT / "benchmarks/mutation_equivalents.toml")
    with start_workers(options.threads) as workers:
        baseline = record_baseline(workers, config, list(sources), folder)
        chosen = Selector(config, sources, baseline)
        until = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
        skipped = equivalents if options.resume else {}
        outcomes = run_mutants(workers, drawn, chosen, sources, folder, until, skipped)
    found = mutation_report.score(outcomes, equivalents)
    if found["killed_share"] < config["minimum"]:
        found["failure"] = f"{found['killed_share']:.1%} of the mutants killed, expected {config['minimum']:.0%}"
    return found | {
        "mutants": {file: len(some) for file, some in places.items()},
        "sample": len(outcomes),
        "seed": options.seed,
        "cosmic_ray": version("cosmic-ray"),
        "operators": dict(Counter(outcome["operator"] for outcome in outcomes)),
        **{key: config[key] for key in ("minimum", "test_seconds", "ignored_arguments")},
    }


def page(found: dict[str, Any]) -> str:
    """Format the page; see :func:`benchmarks.mutation_report.page`."""
    return mutation_report.page(found)


def expand(patterns: Iterable[str]) -> list[str]:
    """List the files of the repository that match the patterns.

    Raises:
        ValueError: a pattern without a wildcard names no file.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
        if not files and "*" not in pattern:
            raise ValueError(f"mutation.toml: got '{pattern}', expected an existing file")
        found |= dict.fromkeys(files)
    return list(found)


def digest(*texts: str) -> str:
    """Hash texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def record_baseline(workers: list[Worker], config: dict[str, Any], sources: list[str], folder: Path) -> Baseline:
    """Run every test file without mutation; return its tests and the lines they execute.

    A recording in ``folder`` is used again while the test file and all of ``src`` are unchanged.
    """
    tree = digest(*(path.read_text() for path in sorted((ROOT / "src").rglob("*.py"))))

    def record(worker: Worker, file: str) -> tuple[str, dict[str, Any]]:
        key = digest(tree, file, (ROOT / file).read_text())
        saved = folder / "baseline" / f"{key}.json"
        if saved.exists():
            return file, json.loads(saved.read_text())
        answer = worker.ask({"cover": file, "sources": [str(worker.folder / source) for source in sources]})
        failed = [test for test, one in answer.get("tests", {}).items() if not one["passed"]]
        seconds = sum(one.get("seconds", 0.0) for one in answer.get("tests", {}).values())
        note = f"; not used, as they fail or are skipped: {', '.join(failed)}" if failed else ""
        log(f"{file}: {answer['outcome']}, {len(answer.get('tests', {}))} tests, {seconds:.1f} s of CPU time{note}")
        if answer["outcome"] != "covered":
            raise RuntimeError(f"{file} cannot run without mutation:\n{answer.get('output', '')}")
        saved.parent.mkdir(exist_ok=True)
        saved.write_text(json.dumps(answer))
        return file, answer

    files = expand([*config["tests"], *(file for some in config["specific_tests"].values() for file in some)])
    return dict(map_jobs(workers, record, files))


class Selector:
    """Choose the tests of a mutant."""

    def __init__(self, config: dict[str, Any], sources: dict[str, str], baseline: Baseline) -> None:
        self.limit: float = config["test_seconds"]
        self.seconds: dict[str, float] = {}
        self.exact: dict[tuple[str, int], set[str]] = defaultdict(set)
        """Tests that execute a line."""
        self.shared: dict[tuple[str, int], set[str]] = defaultdict(set)
        """Tests beside one whose fixtures execute the line: they may share the fixture."""
        self.statements = {file: statement_rows(text) for file, text in sources.items()}
        self.in_functions = {file: function_rows(text) for file, text in sources.items()}
        patterns = config["specific_tests"].items()
        self.specific = {
            file: {test for pattern, tests in patterns if fnmatch(file, pattern) for test in expand(tests)}
            for file in sources
        }
        for answer in baseline.values():
            passed = {test: one["seconds"] for test, one in answer["tests"].items() if one["passed"]}
            self.seconds |= passed
            for file, rows in answer["lines"].items():
                for row, contexts in rows.items():
                    for context in contexts:
                        test, _, phase = context.rpartition("|")
                        self.exact[file, int(row)] |= {test} & set(passed)
                        self.shared[file, int(row)] |= set(passed) if phase == "setup" else set()

    def choose(self, mutant: Mutant) -> list[tuple[str, list[str]]]:
        """List the tests that execute the mutant's line, by test file, in the order in which they should run."""
        file, specific = mutant.file, self.specific[mutant.file]
        rows: Iterable[int] = self.statements[file].get(mutant.row, [mutant.row])
        exact = self.exact.get((file, mutant.row), set())
        found = set(exact)
        if mutant.row not in self.in_functions[file]:  # executed at import: every test of the file may notice it
            rows = self.in_functions[file]
            found |= {test for test in self.seconds if test.partition("::")[0] in specific}
        found = found.union(*(some.get((file, row), set()) for row in rows for some in (self.exact, self.shared)))

        def cost(test: str) -> float:
            factor = 1.0 if test.partition("::")[0] in specific else 3.0
            return (self.seconds[test] + 0.05) * factor * (1.0 if test in exact else 5.0)

        groups: dict[str, list[str]] = defaultdict(list)
        used = 0.0
        for test in sorted(found, key=lambda test: (cost(test), test)):
            if used and used + self.seconds[test] > self.limit:
                continue
            used += self.seconds[test]
            groups[test.partition("::")[0]].append(test)
        return list(groups.items())

    def job(self, mutant: Mutant) -> dict[str, Any]:
        """Make the job of a mutant.

        Its limit of CPU time is three times that of the tests without mutation, and ten seconds.
        """
        groups = self.choose(mutant)
        seconds = sum(self.seconds[test] for _, tests in groups for test in tests)
        return {"groups": groups, "seconds": 3 * seconds + 10}


def statement_rows(source: str) -> dict[int, range]:
    """Map every line of a statement to all lines of it; of a compound statement, to those of its header."""
    found: dict[int, range] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            rows = range(node.lineno, max(last, node.lineno) + 1)
            found |= {row: rows for row in rows if row not in found or len(rows) < len(found[row])}
    return found


def function_rows(source: str) -> set[int]:
    """List the lines of the bodies of functions: the others are executed at import."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {row for node in functions for row in range(node.body[0].lineno, (node.end_lineno or 0) + 1)}


def run_mutants(
    workers: list[Worker],
    drawn: list[tuple[str, Place]],
    tests: Selector,
    sources: dict[str, str],
    folder: Path,
    until: float,
    skipped: Equivalents,
) -> list[dict[str, Any]]:
    """Run mutants until a time of :func:`time.monotonic`; return the outcome of each that was run.

    Outcomes are appended to a file in ``folder``. A mutant that was killed there is not run again while its source file
    is unchanged, nor is a survivor while its tests are the same. Mutants in ``skipped`` count as survivors.
    """
    path, lock = folder / "outcomes.jsonl", threading.Lock()
    lines = path.read_text().splitlines() if path.exists() else []
    earlier = {outcome["id"]: outcome for outcome in map(json.loads, lines)}
    done = Counter[str]()

    def execute(worker: Worker, item: tuple[str, Place]) -> dict[str, Any] | None:
        file, place = item
        made = apply(file, sources[file], place)
        if made is None:  # not valid Python
            return None
        mutant, changed = made
        job = tests.job(mutant)
        texts = [(ROOT / name).read_text() for name, _ in job["groups"]]
        key, tested = digest(sources[file], changed), digest(json.dumps(job["groups"]), *texts)
        outcome = earlier.get(key)
        if outcome is None or (outcome["outcome"] == "survived" and outcome["tests"] != tested):
            if time.monotonic() > until:
                return None
            answer = {"outcome": "survived", "test": ""}
            if job["groups"] and not find_reason(skipped, vars(mutant)):
                answer = worker.run_mutant(mutant, changed, job)
            if answer["outcome"] == "error":
                raise RuntimeError(answer["output"])
            if answer["outcome"] == "crash":
                answer |= {"outcome": "killed", "test": "the process of the tests crashed"}
            n_tests = sum(len(some) for _, some in job["groups"])
            outcome = vars(mutant) | answer | {"n_tests": n_tests, "tests": tested, "id": key}
            with lock, path.open("a") as log_file:
                log_file.write(json.dumps(outcome) + "\n")
        done[outcome["outcome"]] += 1
        if done.total() % 20 == 0:
            log(f"{done.total()} of {len(drawn)}: {', '.join(f'{n} {name}' for name, n in done.items())}")
        return outcome

    shown = [field.name for field in dataclasses.fields(Mutant)] + ["outcome", "test", "n_tests"]
    outcomes = map_jobs(workers, execute, drawn)
    return [{key: outcome[key] for key in shown} for outcome in outcomes if outcome is not None]


def log(text: str) -> None:
    """Write a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)
