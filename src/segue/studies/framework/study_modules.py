"""What the module of a study defines, all studies, and the hash of their code."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from segue.core.registry import keys, load_module
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable

if TYPE_CHECKING:
    from segue.studies.framework.context import StudyContext

__all__ = ["StudyModule", "hash_measurement", "load_study", "study_names"]

PACKAGE = "segue.studies"


class StudyModule(Protocol):
    """A module of :mod:`segue.studies`.

    A study that can measure finished runs instead of training also defines ``ACCEPTS_RUNS = True``, and takes its
    models from :meth:`segue.studies.framework.context.StudyContext.studied_models`.
    """

    QUESTION: str
    """The question that the study answers, with a question mark."""
    METHOD: str
    """What is measured and how: one paragraph with the sources."""
    DEFAULT: Grid
    """Few values, few epochs, one seed: ten minutes on MovieLens 100K with two cores."""
    REQUIRES: tuple[str, ...]
    """Settings that all models must have, such as the one that is varied."""
    FULL: Grid
    """The grid of published results: more values, full trainings, three seeds."""

    def run(self, context: StudyContext) -> list[Cell]:
        """Measure every cell of the grid."""
        ...

    def tables(self, cells: Sequence[Cell]) -> list[StudyTable]:
        """Return the tables of the page."""
        ...

    def figures(self, cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
        """Draw the figures of the page, by title."""
        ...

    def answer(self, cells: Sequence[Cell]) -> list[str]:
        """Answer the question in sentences that the measurements support."""
        ...


def study_names() -> list[str]:
    """Return the keys of all studies."""
    return keys(PACKAGE)


def load_study(name: str) -> StudyModule:
    """Return a study.

    Raises:
        ValueError: the key is unknown; the message suggests the closest known one.
    """
    return cast("StudyModule", load_module(PACKAGE, name, "study"))


def hash_measurement(module: Any) -> str:
    """Return a hash of the code by which a study measures.

    It is the function ``run`` and all that it uses in the same module. Comments, tables, figures and the answer are not
    part of it: measurements are kept when they change.
    """
    statements: dict[str, ast.stmt] = {}
    for statement in ast.parse(inspect.getsource(module)).body:
        statements |= dict.fromkeys(_defined_names(statement), statement)
    used, waiting = {"run"}, ["run"]
    while waiting:
        names = {node.id for node in ast.walk(statements[waiting.pop()]) if isinstance(node, ast.Name)}
        found = (names & statements.keys()) - used
        used |= found
        waiting += found
    text = "\n".join(ast.unparse(statements[name]) for name in sorted(used))
    return hashlib.sha256(text.encode()).hexdigest()


def _defined_names(statement: ast.stmt) -> list[str]:
    """Return the names of a function, a class or constants."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
