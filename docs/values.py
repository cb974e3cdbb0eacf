"""Render the public classes of ``segue.core`` with the docstrings of their fields and methods."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from wording import inline, paragraphs, render_table

__all__ = ["values_page"]

MODULES = ("types", "events", "vocab", "model", "network", "state", "run", "bundle")


def values_page() -> str:
    """Render a page with every class that these modules define."""
    text = "`segue/core/types.py` states the invariants that hold for all of them, and explains the shapes."
    parts = ["# Values", text]
    for name in MODULES:
        module = importlib.import_module(f"segue.core.{name}")
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in module.__all__:
                parts += [f"## `{node.name}`", paragraphs(ast.get_docstring(node) or "")]
                rows = list(_members(node))
                if rows:
                    parts.append(render_table(("member", "description"), rows))
    return "\n\n".join(part for part in parts if part)


def _members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the fields and public methods of a class, each with its docstring."""
    for member, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            has_docstring = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            docstring = str(following.value.value) if has_docstring else ""
            yield f"`{member.target.id}: {ast.unparse(member.annotation)}`", inline(docstring)
        elif isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            text = (ast.get_docstring(member) or "").split("\n\nArgs:")[0].split("\n\nRaises:")[0]
            names = [argument.arg for argument in (*member.args.args, *member.args.kwonlyargs)]
            parameters = ", ".join(name for name in names if name not in ("self", "cls"))
            decorators = [mark.id for mark in member.decorator_list if isinstance(mark, ast.Name)]
            is_property = "property" in decorators or "cached_property" in decorators
            yield f"`{member.name}`" if is_property else f"`{member.name}({parameters})`", inline(text)
