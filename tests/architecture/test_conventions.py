"""Conventions of the code: documentation, exports, no pickle, no unfinished work."""

import ast
import re
from pathlib import Path

from sources import FILES, ROOT, SOURCE, imported, tree

FORBIDDEN_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|managers?|misc)(_|$)")
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
FORBIDDEN_TEXT = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError|/root/|/home/")
MAX_SUMMARY = 80
"""Characters of the first line of a docstring."""
MODULE_FILES = [path for path in FILES if path.name not in ("__init__.py", "__main__.py")]


def public(body: list[ast.stmt], prefix: str = "") -> list[tuple[str, ast.AST]]:
    """Return the public classes and functions of a module, with the methods of classes."""
    found: list[tuple[str, ast.AST]] = []
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            found.append((prefix + node.name, node))
            if isinstance(node, ast.ClassDef):
                found += public(node.body, f"{prefix}{node.name}.")
    return found


def exported(path: Path) -> list[str] | None:
    """Return the names in ``__all__``, or ``None``."""
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            value = getattr(node, "value", None)
            return [str(name) for name in ast.literal_eval(value)] if value else None
    return None


def test_the_package_is_typed_and_found() -> None:
    assert (SOURCE / "py.typed").exists()
    assert len(FILES) > 20


def test_file_names_say_what_is_inside() -> None:
    parts = {str(path): [part.removesuffix(".py") for part in path.parts] for path in FILES}
    assert not [path for path, names in parts.items() if any(map(FORBIDDEN_NAMES.search, names))]


def test_public_names_are_documented() -> None:
    undocumented = [str(path) for path in FILES if not ast.get_docstring(tree(SOURCE / path))]
    for path in FILES:
        named = public(tree(SOURCE / path).body)
        undocumented += [f"{path}: {name}" for name, node in named if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert not undocumented


def test_docstrings_begin_with_a_short_sentence() -> None:
    long = [
        f"{path}: {doc.splitlines()[0]}"
        for path in FILES
        for node in ast.walk(tree(SOURCE / path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (doc := ast.get_docstring(node))
        and len(doc.splitlines()[0]) > MAX_SUMMARY
    ]
    assert not long


def test_modules_declare_their_exports() -> None:
    errors = []
    for path in MODULE_FILES:
        names = exported(SOURCE / path)
        if not names:
            errors.append(f"{path}: no names in __all__")
        elif [name for name in names if name.startswith("_") and not name.startswith("__")]:
            errors.append(f"{path}: a private name in __all__")
        if "__future__" not in imported(SOURCE / path, top_level=True):
            errors.append(f"{path}: annotations are not postponed")
    assert not errors


def test_no_pickle_no_eval_no_unfinished_work() -> None:
    errors = []
    for path in FILES:
        banned = {name.split(".")[0] for name in imported(SOURCE / path, top_level=False)} & FORBIDDEN_IMPORTS
        found = FORBIDDEN_TEXT.search((SOURCE / path).read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree(SOURCE / path)) if isinstance(node, ast.Call)]
        errors += [f"{path}: imports {name}" for name in banned]
        errors += [f"{path}: {found[0]}"] if found else []
        errors += [f"{path}:{call.lineno}: {ast.unparse(call)}" for call in calls if unsafe(call)]
    assert not errors


def unsafe(call: ast.Call) -> bool:
    """Return whether a call executes or unpickles data."""
    allows_pickle = [
        word for word in call.keywords if word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
    ]
    return bool(allows_pickle) or ast.unparse(call.func) in {"eval", "exec", "torch.load", "torch.save"}


def test_model_files_export_their_class_first() -> None:
    for path in MODULE_FILES:
        if path.parent.parent == Path("models"):
            first = (exported(SOURCE / path) or [""])[0]
            assert first in {node.name for node in tree(SOURCE / path).body if isinstance(node, ast.ClassDef)}, path


def test_tests_measure_no_wall_time() -> None:
    pattern = re.compile(r"time\.(time|perf_counter|monotonic)\(")
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path != Path(__file__):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_the_rules_find_violations(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("__all__: list[str] = ['f']\ndef f(): ...\nclass C:\n    def m(self): ...")
    assert exported(tmp_path / "a.py") == ["f"]
    assert [name for name, _ in public(tree(tmp_path / "a.py").body)] == ["f", "C", "C.m"]
    for code in ("eval(x)", "torch.load(p)", "np.load(p, allow_pickle=True)"):
        assert unsafe(ast.parse(code, mode="eval").body)  # type: ignore[arg-type]
    assert not unsafe(ast.parse("model.eval()", mode="eval").body)  # type: ignore[arg-type]
    assert all(map(FORBIDDEN_NAMES.search, ["utils", "my_helpers", "common", "run_manager"]))
    assert not any(map(FORBIDDEN_NAMES.search, ["uncommon", "managed", "xlstm"]))
    assert all(map(FORBIDDEN_TEXT.search, ["# TO" + "DO later", "raise NotImplemented" + "Error"]))
