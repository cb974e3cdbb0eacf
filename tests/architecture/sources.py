"""The project's source files, and how they are read."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "segue"
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path, top_level: bool) -> set[str]:
    """Names of the modules a file imports: all, or only those outside functions and ``if TYPE_CHECKING``."""
    body: list[ast.AST] = list(tree(path).body) if top_level else list(ast.walk(tree(path)))
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in body if isinstance(node, ast.ImportFrom) and not node.level}
