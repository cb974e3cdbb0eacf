"""Import layers, and modules that must stay cheap to import."""

import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from sources import FILES, ROOT, SOURCE, imported

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PROVIDERS = packages_distributions()
HELP = """
from segue.cli import main
sys.argv = ["segue", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
LIGHT = [
    "segue",
    "segue.core.types",
    "segue.core.config",
    "segue.core.model",
    "segue.core.registry",
    "segue.core.run",
    "segue.core.recommend",
    "segue.data",
    "segue.evaluation",
    "segue.evaluation.evaluate",
    "segue.features.text.encode_items",
    "segue.cli",
]


def loaded(code: str, names: list[str]) -> list[str]:
    """Return which of ``names`` a fresh interpreter has imported after running ``code``."""
    report = f"import sys\n{code}\nprint('loaded:', *[name for name in {names!r} if name in sys.modules])"
    return run_python(report).rsplit("loaded:", 1)[1].split()


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_layers() -> None:
    # a separate process: import-linter reconfigures logging
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@cache
def first_to_load_torch() -> str:
    """Import all modules of ``LIGHT`` in one interpreter; return the first after which torch is loaded, if any."""
    code = "first = ''\n" + "".join(
        f"import {module}\nfirst = first or ('torch' in sys.modules and {module!r}) or ''\n" for module in LIGHT
    )
    return run_python(f"import sys\n{code}print('first:', first)").rsplit("first:", 1)[1].strip()


@pytest.mark.parametrize("module", LIGHT)
def test_values_settings_data_and_metrics_do_not_load_torch(module: str) -> None:
    assert first_to_load_torch() != module


def test_help_loads_nothing_heavy() -> None:
    assert loaded(HELP, ["torch", "polars", "scipy", "numba", "matplotlib"]) == []


MEMORY_CHECKS = """
from segue.core.network import Network
from segue.core.registry import model_class, model_keys
from segue.core.types import DataSchema

for key in model_keys():
    kind = model_class(key)
    if issubclass(kind, Network) and key != "huggingface":  # transformers needs the compiler itself
        kind.exceeds_memory(kind.Config(), DataSchema(10, 10), 10**9)
"""


def test_opening_a_model_does_not_load_the_compiler_of_torch() -> None:
    assert loaded(MEMORY_CHECKS, ["torch._dynamo"]) == []


def names_of(requirements: list[str]) -> set[str]:
    """Distribution names, normalized, of requirement lines."""
    return {"".join(c if c.isalnum() else " " for c in line).split(" ")[0] for line in requirements}


def third_party(path: Path, top_level: bool) -> set[str]:
    """Third-party distributions a file imports, first words of their names as ``names_of`` gives them."""
    modules = {name.split(".")[0] for name in imported(path, top_level)} - set(sys.stdlib_module_names) - {"segue"}
    return {dist.replace("_", "-").split("-")[0].lower() for name in modules for dist in PROVIDERS.get(name, [name])}


WEB = ("serving/app.py", "serving/api/")
"""Modules of the application, whose types FastAPI reads; they are imported only when something is served."""


def test_only_declared_packages_are_imported() -> None:
    needed = names_of(PROJECT["dependencies"])
    optional = names_of([line for group in PROJECT["optional-dependencies"].values() for line in group])
    undeclared = {}
    for path in FILES:
        own = {"fastapi"} if str(path).startswith(WEB) else set()
        at_import, anywhere = third_party(SOURCE / path, True), third_party(SOURCE / path, False)
        undeclared[str(path)] = at_import - needed - own, anywhere - needed - optional
    assert not {path: found for path, found in undeclared.items() if any(found)}, "undeclared, or optional at the top"


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("import torch.nn\ndef f():\n    from polars import col\nif TYPE_CHECKING:\n    import scipy")
    assert imported(path, top_level=True) == {"torch.nn"}
    assert imported(path, top_level=False) == {"torch.nn", "polars", "scipy"}
