"""The public classes of ``segue.core`` with what is written under their fields and methods."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from wording import prose, table, words

__all__ = ["described"]

MODULES = ("types", "events", "vocab", "model", "network", "state", "run", "bundle")


def described() -> str:
    """A page with every class these modules declare, each once."""
    text = "The invariants that hold for all of them are in `segue/core/types.py`; shapes are explained there too."
    parts = ["# Values", text]
    for name in MODULES:
        module = importlib.import_module(f"segue.core.{name}")
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in module.__all__:
                parts += [f"## `{node.name}`", prose(ast.get_docstring(node) or "")]
                rows = list(_members(node))
                if rows:
                    parts.append(table(("member", "what it is"), rows))
    return "\n\n".join(part for part in parts if part)


def _members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Fields and public methods, each with the docstring under it."""
    for member, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield f"`{member.target.id}: {ast.unparse(member.annotation)}`", words(str(told))
        elif isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            text = (ast.get_docstring(member) or "").split("\n\nArgs:")[0].split("\n\nRaises:")[0]
            names = [argument.arg for argument in (*member.args.args, *member.args.kwonlyargs)]
            shown = ", ".join(name for name in names if name not in ("self", "cls"))
            asked = any(isinstance(mark, ast.Name) and mark.id == "property" for mark in member.decorator_list)
            yield f"`{member.name}`" if asked else f"`{member.name}({shown})`", words(text)
