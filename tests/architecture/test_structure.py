"""The layout of the package: small files, small folders, no cycles, no slivers, one class per name."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest
from sources import FILES, MODULES, SOURCE, import_cycle, importers, imports_of, tree

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
MAX_FOLDER_FILES = 20
SLIVER_LINES = 60
"""A file below this length with a single importer belongs into its importer, unless it is a registry entry."""

REGISTRIES = ("models/", "data/sources/", "data/examples/sources/", "serving/stores/", "features/text/encoders/")
"""Folders whose files are entries: models by family, public datasets of logs and examples, stores, text encoders."""

OWN_CONCEPTS = {
    "cli/export.py": "one command, one file",
    "evaluation/beyond_accuracy/diversity.py": "a kind of metrics",
    "evaluation/beyond_accuracy/fairness.py": "a kind of metrics",
    "serving/catalog/lru_cache.py": "a data structure",
    "serving/experiments/rank_biased_overlap.py": "a published measure",
    "serving/ranking/latency_estimator.py": "decides which models can meet a deadline",
    "similarity/distribution_similarity.py": "a registry of measures",
    "solvers/boosting/trees.py": "the text format of another library",
    "solvers/logistic/example_design.py": "the design matrix of examples, next to that of logs",
    "training/configured_loss.py": "builds the loss that settings name",
}
"""Short files with one importer that stay apart, and why."""


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the length of a function without its decorators and without classes defined in it."""
    classes = [inner for inner in ast.walk(node) if isinstance(inner, ast.ClassDef)]
    return _length(node) - sum(_length(inner) for inner in classes)


def _length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_registry(path: Path) -> bool:
    """Whether a file is an entry of a file-based registry."""
    return path.as_posix().startswith(REGISTRIES)


def test_files_are_short() -> None:
    lengths = {str(path): len((SOURCE / path).read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {path: length for path, length in lengths.items() if length > MAX_FILE_LINES}


def test_functions_are_short() -> None:
    long = {
        f"{path}:{node.name}": lines(node)
        for path in FILES
        for node in ast.walk(tree(SOURCE / path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines(node) > MAX_FUNCTION_LINES
    }
    assert not long


def test_folders_are_small() -> None:
    counts: dict[str, int] = defaultdict(int)
    for path in FILES:
        if path.name != "__init__.py" and not is_registry(path):
            counts[path.parent.as_posix()] += 1
    assert not {folder: count for folder, count in counts.items() if count > MAX_FOLDER_FILES}


def test_short_files_have_several_importers() -> None:
    slivers = {}
    for name, path in MODULES.items():
        length = len((SOURCE / path).read_text(encoding="utf-8").splitlines())
        if path.name in ("__init__.py", "__main__.py") or is_registry(path) or length >= SLIVER_LINES:
            continue
        users = importers(name)
        if len(users) == 1 and path.as_posix() not in OWN_CONCEPTS:
            slivers[path.as_posix()] = users[0]
    assert not slivers
    assert not [path for path in OWN_CONCEPTS if not (SOURCE / path).exists()]


def test_no_import_cycles() -> None:
    assert not import_cycle()


def test_class_names_are_unique() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in tree(SOURCE / path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path))
    assert not {name: paths for name, paths in found.items() if len(paths) > 1}


def test_models_live_in_family_folders() -> None:
    strays = [str(path) for path in FILES if path.parent == Path("models") and path.name != "__init__.py"]
    assert not strays
    keys = [path.stem for path in FILES if path.parts[0] == "models" and path.name != "__init__.py"]
    assert len(keys) == len(set(keys)), "two models with one key"


def test_the_reader_of_imports_finds_lazy_imports_and_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "segue.api" in imports_of("segue.cli.recommend") or importers("segue.core.types")
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"})}
    monkeypatch.setattr("sources.MODULES", graph)
    monkeypatch.setattr("sources.imports_of", graph.__getitem__)
    assert import_cycle() == ["a", "b", "c", "a"]
