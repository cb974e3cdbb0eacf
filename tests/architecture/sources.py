"""The project's source files, their syntax trees and the imports between them."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "segue"
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path, top_level: bool) -> set[str]:
    """Return the modules a file imports: all, or only those outside functions and ``if TYPE_CHECKING``."""
    body: list[ast.AST] = list(tree(path).body) if top_level else list(ast.walk(tree(path)))
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in body if isinstance(node, ast.ImportFrom) and not node.level}


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = ["segue", *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@cache
def imports_of(name: str) -> frozenset[str]:
    """Return the modules of the package that module ``name`` imports anywhere in its file, lazily or not."""
    found = set()
    for node in ast.walk(tree(SOURCE / MODULES[name])):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("segue"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found & MODULES.keys() - {name})


def importers(name: str) -> list[str]:
    """Return the modules of the package that import module ``name``."""
    return sorted(other for other in MODULES if name in imports_of(other))


def import_cycle() -> list[str]:
    """Return the modules of one import cycle between files, or an empty list."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(imports_of(name)):
            if cycle := visit(other, [*trail, name]):
                return cycle
        done.add(name)
        return []

    return next((cycle for name in sorted(MODULES) if (cycle := visit(name, []))), [])
