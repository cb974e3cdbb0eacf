"""The mutation run: which changes it makes, how it draws them, chooses tests and computes the score."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutation import ROOT, Selector, expand, function_rows, statement_rows
from benchmarks.mutation_operators import (
    DeleteStatement,
    DropArgument,
    Exclusions,
    Mutant,
    apply,
    draw_sample,
    find_mutants,
)
from benchmarks.mutation_report import page, read_equivalents, score, wilson_interval

CONFIG = tomllib.loads((ROOT / "benchmarks/mutation.toml").read_text())
EXCLUSIONS = Exclusions(CONFIG["message_calls"], CONFIG["ignored_arguments"])


def changes(source: str, *operators: str) -> list[tuple[str, str]]:
    places = find_mutants("a.py", source, operators or CONFIG["operators"], EXCLUSIONS)
    made = [apply("a.py", source, place) for place in places]
    return [(one[0].line, one[0].change) for one in made if one]


def outcome(result: str, change: str = "b", file: str = "src/segue/a.py") -> dict[str, Any]:
    key = {"file": file, "function": "f", "operator": "o", "line": "a | 0", "change": change}
    return key | {"outcome": result, "row": 1, "test": "t"}


def test_wilson_interval_has_the_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_deleted_statements_and_dropped_arguments() -> None:
    source = "def f(a):\n    a.append(1)\n    a[0] += 2\n    b = 3\n    a.c = b\n    return g(a, b=b, c=1)\n"
    deleted = [("a.append(1)", "pass"), ("a[0] += 2", "pass"), ("a.c = b", "pass")]
    assert changes(source, "DeleteStatement") == deleted
    dropped = [("return g(a, b=b, c=1)", "return g(a, c=1)"), ("return g(a, b=b, c=1)", "return g(a, b=b)")]
    assert changes(source, "DropArgument") == dropped


@pytest.mark.parametrize("operator", [DeleteStatement, DropArgument])
def test_examples_of_the_operators(operator: type[DeleteStatement] | type[DropArgument]) -> None:
    for example in operator.examples():
        found = apply("a.py", example.pre_mutation_code, (operator.__name__, example.occurrence, 1, ""))
        assert found is not None
        assert found[1] == example.post_mutation_code


@pytest.mark.parametrize(
    "source",
    [
        "Name = int | str\n",
        "def f(a: int | None) -> float | None: ...\n",
        "@cache(n=1)\ndef f(): ...\n",
        "def f(a):\n    raise ValueError(f'{a + 1} of {len(a) - 1}', 2)\n",
        "def f(a):\n    log(f'{a + 1:.3f}', b=True)\n",
        "if TYPE_CHECKING:\n    import a\n",
        "def f(a):\n    return zip(a, a, strict=True)\n",
        "def f(*, a, **b):\n    return {**b}, g(*a, **b)\n",
    ],
)
def test_types_decorators_and_messages_are_not_mutated(source: str) -> None:
    operators = [name for name in CONFIG["operators"] if name != "DeleteStatement"]
    assert changes(source, *operators) == []


def test_bounds_of_settings_and_conditions_are_mutated() -> None:
    assert changes("class A:\n    a: Annotated[float, Gt(0)] = 2\n", "NumberReplacer") == [
        ("a: Annotated[float, Gt(0)] = 2", "a: Annotated[float, Gt( 1)] = 2"),
        ("a: Annotated[float, Gt(0)] = 2", "a: Annotated[float, Gt( -1)] = 2"),
        ("a: Annotated[float, Gt(0)] = 2", "a: Annotated[float, Gt(0)] = 3"),
        ("a: Annotated[float, Gt(0)] = 2", "a: Annotated[float, Gt(0)] = 1"),
    ]
    assert changes("if a:\n    b()\n", "AddNot") == [("if a:", "if not a:")]
    assert changes("if a < b:\n    b()\n", "AddNot") == []  # the comparison itself is negated
    assert ("if a < b:", "if a >= b:") in changes("if a < b:\n    b()\n")


def test_sample_is_proportional_and_repeatable() -> None:
    places = {name: [("o", at, at, "f") for at in range(n)] for name, n in (("a", 60), ("b", 30), ("c", 10))}
    drawn = draw_sample(places, 21, seed=3)
    counts = {name: sum(file == name for file, _ in drawn) for name in places}
    assert counts == {"a": 13, "b": 6, "c": 2}
    assert drawn == draw_sample(places, 21, seed=3)
    assert drawn != draw_sample(places, 21, seed=4)
    assert len(set(drawn)) == 21
    assert set(draw_sample(places, 0, seed=0)) == {(file, place) for file, some in places.items() for place in some}


def test_tests_of_the_mutated_line_run_first_and_within_the_limit() -> None:
    source = "a = 1\n\n\ndef f(b):\n    c = [\n        b,\n    ]\n    return c\n"
    config = {"test_seconds": 3.0, "specific_tests": {"x.py": []}}
    tests = {
        f"t.py::{name}": {"passed": name != "d", "seconds": seconds}
        for name, seconds in zip("abcd", (2, 1, 9, 1), strict=True)
    }
    lines = {"x.py": {"1": [], "5": ["t.py::b|call"], "6": ["t.py::a|call", "t.py::d|call"], "8": ["t.py::c|call"]}}
    chosen = Selector(config, {"x.py": source}, {"t.py": {"tests": tests, "lines": lines}})

    def choose(row: int, function: str = "f") -> list[str]:
        groups = chosen.choose(Mutant("x.py", function, "o", 0, row, "", ""))
        return [name.partition("::")[2] for _, names in groups for name in names]

    assert choose(6) == ["a", "b"]  # b executes another line of the statement; d fails without mutation
    assert choose(8) == ["c"]  # one test runs, however slow
    assert choose(1, "") == ["b", "a"]  # executed at import
    assert choose(7) == ["b", "a"]


def test_lines_of_statements_and_functions() -> None:
    source = (
        "class A:\n    b = 1\n\n    def f(\n        self,\n    ):\n        if self:\n            g(\n            1)\n"
    )
    rows = statement_rows(source)
    assert (rows[2], rows[5], rows[7], rows[9]) == (range(2, 3), range(4, 7), range(7, 8), range(8, 10))
    assert function_rows(source) == {7, 8, 9}


def test_equivalent_mutants_are_left_out_of_the_score_unless_killed() -> None:
    outcomes = [outcome("killed", str(n)) for n in range(6)] + [outcome("timeout", "t"), outcome("survived", "s")]
    outcomes += [outcome("survived", "e", "src/segue/b.py"), outcome("killed", "w")]
    reasons = {
        ("src/segue/b.py", "f", "o", "a | 0", "e"): "same sum",
        ("src/segue/a.py", "f", "o", "a | 0", "w"): "wrong",
    }
    found = score(outcomes, reasons)
    assert (found["killed"], found["not_equivalent"], found["timeouts"]) == (8, 9, 1)
    assert found["killed_share"] == 8 / 9
    assert found["files"]["src/segue/b.py"] == {"killed": 0, "survived": 0, "equivalent": 1}
    assert [one["change"] for one in found["survivors"]] == ["s"]
    assert [(one["change"], one["reason"]) for one in found["equivalents"]] == [("e", "same sum")]
    assert [one["change"] for one in found["wrong_equivalents"]] == ["w"]


def test_page_states_score_sample_survivors_and_equivalents() -> None:
    outcomes = [outcome("killed"), outcome("survived", "s"), outcome("survived", "e")]
    found = score(outcomes, {("src/segue/a.py", "f", "o", "a | 0", "e"): "same sum"})
    machine = dict.fromkeys(("processor", "cores", "memory_gib", "system", "python", "torch", "segue", "commit"), "x")
    found |= {"mutants": {"src/segue/a.py": 40}, "sample": 3, "seed": 5, "minimum": 0.95, "test_seconds": 12.0}
    found |= {"cosmic_ray": "8", "operators": {"o": 3}, "ignored_arguments": ["repr"]}
    text = page(found | {"machine": machine | {"command": "c", "date": "d"}})
    assert "**1 of 2 mutants killed: 50.0%**, 95 % Wilson interval 9.5% to 90.5%; required: 95%." in text
    assert "a random sample of 3 (seed 5)" in text
    assert "| `src/segue/a.py` | 40 | 3 | 1 | 1 | 1 |" in text
    assert "| `a.py`, `f` | ``a \\| 0`` | ``s`` |" in text
    assert "| `a.py`, `f` | ``a \\| 0`` | ``e`` | same sum |" in text


def test_entries_of_equivalent_mutants_are_checked(tmp_path: Path) -> None:
    entry = '[[equivalent]]\nfile = "a"\nfunction = "f"\noperator = "o"\nline = "l"\nchange = "c"\n'
    path = tmp_path / "equivalents.toml"
    path.write_text(entry + 'reason = "r"\n')
    assert read_equivalents(path) == {("a", "f", "o", "l", "c"): "r"}
    path.write_text(entry.replace('change = "c"\n', "") + 'reason = "r"\n')
    every_change = read_equivalents(path)
    assert every_change == {("a", "f", "o", "l"): "r"}
    listed = outcome("survived") | {"file": "a", "line": "l"}
    assert len(score([listed], every_change)["equivalents"]) == 1
    for text, message in ((entry, "and a reason"), ((entry + 'reason = "r"\n') * 2, "listed twice")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_equivalents(path)


def test_listed_equivalent_mutants_exist() -> None:
    """An entry whose code has changed must be reviewed again."""
    words = {file: " ".join((ROOT / file).read_text().split()) for file in expand(CONFIG["sources"])}
    gone = [
        key for key in read_equivalents(ROOT / "benchmarks/mutation_equivalents.toml") if key[3] not in words[key[0]]
    ]
    assert not gone


def test_configured_files_and_operators_exist() -> None:
    assert len(expand(CONFIG["sources"])) > 20
    for tests in (CONFIG["tests"], *CONFIG["specific_tests"].values()):
        assert expand(tests)
    find_mutants("a.py", "a = 1\n", CONFIG["operators"], EXCLUSIONS)
