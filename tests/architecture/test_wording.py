"""The words of the package: standard terms, American spelling in code, no archaic or private vocabulary."""

import ast
import re
import tokenize
from pathlib import Path

import pytest
from sources import FILES, ROOT, SOURCE, tree

BANNED_NAMES = {
    "told": "say what it holds: metadata, logged, response",
    "asked": "requested, query",
    "heard": "",
    "likeness": "similarity",
    "alike": "similar",
    "beside": "compared with, reference",
    "newcomer": "new user, unknown user",
    "newcomers": "new users, unknown users",
    "welcomed": "fold_in",
    "opinion": "prediction, rating",
    "opinions": "predictions, ratings",
    "ladder": "fallback chain",
    "shelf": "model registry",
    "desk": "dependencies",
    "publication": "artifact",
    "publications": "artifacts",
    "person": "user",
    "persons": "users",
    "people": "users",
    "verdict": "",
    "patience_": "",
    "sweep": "iteration",
    "sweeps": "iterations",
    "mind": "warning",
    "fault_": "error",
    "bystander": "",
    "neighbour": "neighbor",
    "neighbours": "neighbors",
    "catalogue": "catalog",
    "catalogues": "catalogs",
    "centre": "center",
    "centred": "centered",
    "analyse": "analyze",
    "normalise": "normalize",
    "normalised": "normalized",
    "optimiser": "optimizer",
    "regularised": "regularized",
    "behaviour": "behavior",
    "colour": "color",
    "licence": "license",
    "favour": "favor",
    "artefact": "artifact",
    "initialise": "initialize",
    "serialise": "serialize",
    "minimise": "minimize",
    "maximise": "maximize",
    "factorisation": "factorization",
    "generalisation": "generalization",
    "recognise": "recognize",
    "summarise": "summarize",
    "weigh": "weight",
}
"""Words that may not be part of a name, and the term to use instead."""

BANNED_PROSE = re.compile(
    r"\b(nobody|somebody|he(?! et al)|him|his|himself|she|her|likeness|alike|heed|dear|unheard|at hand|mind:|who asks|"
    r"is asked|are asked|is told|are told|tells of|people that|people who|newcomers?|question[s]?|"
    r"neighbour(s|ing|hood)?|catalogue(s)?|centre[ds]?|behaviour|colour(s)?|favour|normalis\w+|optimis\w+|regularis\w+|"
    r"factoris\w+|generalis\w+|initialis\w+|minimis\w+|maximis\w+|analys(e|ed|er|ing)|recognis\w+|summaris\w+|serialis\w+|"
    r"artefacts?|whilst|upon|thereof|hitherto|ere|betwixt)\b",
    re.IGNORECASE,
)
"""Words that may not stand in docstrings, comments and messages of the package."""


DATA = frozenset({"Neighbour"})
"""Words of the simulated catalog's titles: data, not prose."""


def words(name: str) -> list[str]:
    """Split an identifier into its lower-case words."""
    return [word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", part)]


def defined_names(module: ast.Module) -> set[str]:
    """Return the names a module defines: classes, functions, parameters, variables, attributes."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def prose(path: Path) -> list[tuple[int, str]]:
    """Return the comments and strings of a file with their lines."""
    with tokenize.open(path) as file:
        found = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
        return [
            (token.start[0], token.string) for token in tokenize.generate_tokens(file.readline) if token.type in found
        ]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_names_are_standard_terms(path: Path) -> None:
    faults = {
        name: BANNED_NAMES[word]
        for name in defined_names(tree(SOURCE / path))
        for word in words(name)
        if word in BANNED_NAMES
    }
    faults |= {
        part: BANNED_NAMES[word] for part in path.parts for word in words(Path(part).stem) if word in BANNED_NAMES
    }
    assert not faults


@pytest.mark.parametrize("path", FILES, ids=str)
def test_prose_is_plain(path: Path) -> None:
    faults = [
        f"{path}:{line + text[: found.start()].count(chr(10))}: {found[0]}"
        for line, text in prose(SOURCE / path)
        for found in BANNED_PROSE.finditer(text)
        if found[0] not in DATA and not (is_about_studies(path) and found[0].lower() in ("question", "questions"))
    ]
    assert not faults


def is_about_studies(path: Path) -> bool:
    """Return whether a file is about studies, which answer research questions."""
    return path.parts[0] == "studies" or path == Path("cli/study.py")


def test_the_words_of_names_are_found() -> None:
    assert words("is_newOffer_NI") == ["is", "new", "offer", "ni"]
    assert words("HTTPServer") == ["http", "server"]
    assert BANNED_PROSE.search("what is asked for")
    assert not BANNED_PROSE.search("the other thesis: here, there")


def test_no_words_of_the_workplace() -> None:
    pattern = re.compile(r"/(work|farm|root|home)/")
    for path in (*(SOURCE / path for path in FILES), ROOT / "README.md", ROOT / "CHANGELOG.md"):
        assert not pattern.search(path.read_text(encoding="utf-8")), path
