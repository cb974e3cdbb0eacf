"""Mutants of source files: operators of Cosmic Ray, two more, and what is not mutated.

A mutant is one small change of one file. Cosmic Ray parses and changes the code (``parso``); :func:`find_mutants`
leaves out places where a change has no effect on results, such as type annotations and messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import Keyword

__all__ = ["DeleteStatement", "DropArgument", "Exclusions", "Mutant", "apply", "draw_sample", "find_mutants"]

Position = tuple[int, int]
Place = tuple[str, int, int, str]
"""Where a file can be changed: operator, occurrence, line number, function."""
Node = Any  # of parso, which has no types


class DropArgument(Operator):
    """Remove a keyword argument of a call, so that the default of the called function applies."""

    def mutation_positions(self, node: Node) -> Iterator[tuple[Position, Position]]:
        """Yield the start and the end of each place to change."""
        for argument in _keyword_arguments(node):
            yield argument.start_pos, argument.end_pos

    def mutate(self, node: Node, index: int) -> Node:
        """Make the change number ``index`` of a node."""
        at = node.children.index(_keyword_arguments(node)[index])
        if node.type == "trailer":
            del node.children[at]
        elif at + 1 < len(node.children):
            del node.children[at : at + 2]  # with the comma after it
        else:
            del node.children[at - 1 :]  # with the comma before it
        return node

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return code before and after the change."""
        return (
            Example("f(a, b=1)", "f(a)"),
            Example("f(a=1, b=2)", "f( b=2)"),
            Example("f(a=1)", "f()"),
        )


class DeleteStatement(Operator):
    """Replace a call, a ``raise``, an augmented assignment or one to an attribute or element by ``pass``."""

    def mutation_positions(self, node: Node) -> Iterator[tuple[Position, Position]]:
        """Yield the start and the end of each place to change."""
        if node.type == "simple_stmt" and _has_effect(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Node, index: int) -> Node:
        """Make the change number ``index`` of a node."""
        first = node.children[0]
        node.children[0] = Keyword("pass", first.start_pos, first.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return code before and after the change."""
        return (
            Example("f(a)\n", "pass\n"),
            Example("a += 1\n", "pass\n"),
            Example("a.b = 1\n", "pass\n"),
            Example("a[0] = 1\n", "pass\n"),
            Example("raise ValueError(a)\n", "pass\n"),
        )


def _keyword_arguments(node: Node) -> list[Node]:
    """List the keyword arguments that are children of a node, if it holds the arguments of a call."""
    if node.type not in ("arglist", "trailer") or (node.type == "arglist" and node.parent.type != "trailer"):
        return []
    return [child for child in node.children if child.type == "argument" and child.children[1] == "="]


def _has_effect(statement: Node) -> bool:
    if statement.type == "raise_stmt":
        return True
    if statement.type == "atom_expr":
        return bool(statement.children[-1].type == "trailer" and statement.children[-1].children[0] == "(")
    if statement.type != "expr_stmt":
        return False
    target, sign = statement.children[0], statement.children[1]
    return sign.type == "operator" and (sign.value != "=" or target.type == "atom_expr")


BINARY_EXPRESSIONS = {"and_expr", "arith_expr", "expr", "power", "shift_expr", "term", "xor_expr"}

OWN: dict[str, type[Operator]] = {"DeleteStatement": DeleteStatement, "DropArgument": DropArgument}


@cache
def _operator(name: str) -> Operator:
    return (OWN[name] if name in OWN else get_operator(f"core/{name}"))()


@dataclass(frozen=True)
class Mutant:
    """A change of a file.

    ``occurrence`` counts the places of the file where the operator applies.
    """

    file: str
    function: str
    operator: str
    occurrence: int
    row: int
    """Line number, counted from 1."""
    line: str
    """Changed source text, without indentation."""
    change: str
    """Text that replaces it."""

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """Identify the mutant independently of line numbers."""
        return self.file, self.function, self.operator, self.line, self.change


@dataclass(frozen=True)
class Exclusions:
    """Names of :attr:`message_calls` and keyword arguments whose content is not mutated."""

    message_calls: Sequence[str] = field(default=())
    ignored_arguments: Sequence[str] = field(default=())


def find_mutants(file: str, source: str, operators: Sequence[str], exclusions: Exclusions) -> list[Place]:
    """List the places of a file to mutate: operator, occurrence, line number, function."""
    found = []
    nodes = list(ast_nodes(get_ast(source)))
    for name in operators:
        occurrence = 0
        for node in nodes:
            for index, (start, _end) in enumerate(_operator(name).mutation_positions(node)):
                if not _is_excluded(name, _changed_node(name, node, index), exclusions):
                    function = ASTQuery(node).get_definition_name() or ""
                    found.append((name, occurrence, start[0], function))
                occurrence += 1
    return found


def _changed_node(operator: str, node: Node, index: int) -> Node:
    return _keyword_arguments(node)[index] if operator == "DropArgument" else node


def apply(file: str, source: str, place: Place) -> tuple[Mutant, str] | None:
    """Apply a mutation of :func:`find_mutants`.

    Return the mutant and the new source, or None if that is no valid Python.
    """
    operator, occurrence, row, function = place
    changed = mutate_code(source, _operator(operator), occurrence)
    try:
        compile(changed, file, "exec")
    except (SyntaxError, TypeError, ValueError):
        return None
    if changed == source:
        return None
    line, change = _difference(source.splitlines(), changed.splitlines())
    return Mutant(file, function, operator, occurrence, row, line, change), changed


def _difference(old: list[str], new: list[str]) -> tuple[str, str]:
    """Return the lines in which two texts differ, each joined to one line."""
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return tuple(" ".join(" ".join(lines[start : len(lines) - end]).split()) for lines in (old, new))  # type: ignore[return-value]


def draw_sample(places: dict[str, list[Place]], size: int, seed: int) -> list[tuple[str, Place]]:
    """Draw mutants at random, from each file in proportion to its number of mutants; ``size`` 0: all.

    They are in random order, so that the first ones are a sample too. The draw depends on the seed and on the mutants
    of a file alone.
    """
    total = sum(map(len, places.values()))
    size = min(size or total, total)
    shares = {file: size * len(found) / total for file, found in places.items()}
    counts = {file: int(share) for file, share in shares.items()}
    by_remainder = sorted(shares, key=lambda file: (counts[file] - shares[file], file))
    for file in by_remainder[: size - sum(counts.values())]:
        counts[file] += 1
    drawn = []
    for file, found in places.items():
        drawn += sorted((_draw(seed, file, place), file, place) for place in found)[: counts[file]]
    return [(file, place) for _, file, place in sorted(drawn)]


def _draw(seed: int, file: str, place: Place) -> str:
    return hashlib.sha256(f"{seed}/{file}/{place[0]}/{place[1]}".encode()).hexdigest()


def _is_excluded(operator: str, node: Node, exclusions: Exclusions) -> bool:
    if operator == "AddNot" and _is_plain_comparison(node):
        return True  # the comparison itself is negated
    if operator.startswith("ReplaceBinaryOperator") and node.parent.type not in BINARY_EXPRESSIONS:
        return True  # such as the ** of a dictionary
    if "BitOr" in operator and node.search_ancestor("funcdef", "lambdef") is None:
        return True  # a union of types
    child = node
    while (parent := child.parent) is not None:
        if any(rule(operator, parent, child, exclusions) for rule in RULES):
            return True
        child = parent
    return False


def _is_plain_comparison(node: Node) -> bool:
    condition = node.children[2 if node.type == "test" else 1]
    if condition.get_code().strip() == "TYPE_CHECKING":
        return True
    return bool(condition.type == "comparison" and condition.children[1].get_code().strip() not in ("in", "not in"))


def _in_decorator(operator: str, parent: Node, child: Node, exclusions: Exclusions) -> bool:
    return bool(parent.type == "decorator")


def _in_error_text(operator: str, parent: Node, child: Node, exclusions: Exclusions) -> bool:
    return bool(parent.type == "raise_stmt")


def _in_format(operator: str, parent: Node, child: Node, exclusions: Exclusions) -> bool:
    return bool(parent.type in ("fstring_format_spec", "fstring_conversion"))


def _in_annotation(operator: str, parent: Node, child: Node, exclusions: Exclusions) -> bool:
    if operator == "NumberReplacer":
        return False
    if parent.type == "funcdef":
        return bool(parent.annotation is child)
    return bool(
        (parent.type == "annassign" and parent.children[1] is child)
        or (parent.type == "tfpdef" and parent.children[2] is child)
    )


def _in_message(operator: str, parent: Node, child: Node, exclusions: Exclusions) -> bool:
    """Check whether ``child`` holds the arguments of a call that sends a message, or belongs to an ignored one."""
    if parent.type == "argument" or child.type == "argument":
        argument = child if child.type == "argument" else parent
        if argument.children[1] == "=" and argument.children[0].get_code().strip() in exclusions.ignored_arguments:
            return True
    if parent.type != "atom_expr" or child is parent.children[0]:
        return False
    name = "".join(part.get_code() for part in parent.children[: parent.children.index(child)]).strip()
    return name in exclusions.message_calls


RULES: list[Callable[[str, Node, Node, Exclusions], bool]] = [
    _in_decorator,
    _in_error_text,
    _in_format,
    _in_annotation,
    _in_message,
]
