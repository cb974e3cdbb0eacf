"""Score of a mutation run: equivalent mutants, interval, page."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_lines

__all__ = ["Equivalents", "find_reason", "page", "read_equivalents", "score", "wilson_interval"]

FIELDS = ("file", "function", "operator", "line", "change")

Outcome = dict[str, Any]
Equivalents = dict[tuple[str, ...], str]


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Compute the 95 % interval of a proportion (Wilson 1927); (0, 1) without observations."""
    if not n:
        return 0.0, 1.0
    z, p = 1.959963984540054, successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def read_equivalents(path: Path) -> Equivalents:
    """Read the reviewed list of equivalent mutants: the reason of each by its key.

    An entry without ``change`` stands for every change of its line by its operator.

    Raises:
        ValueError: an entry lacks a field, has an empty reason or is listed twice.
    """
    found: Equivalents = {}
    for entry in tomllib.loads(path.read_text()).get("equivalent", []):
        if not {*FIELDS[:-1], "reason"} <= set(entry) <= {*FIELDS, "reason"} or not entry["reason"].strip():
            raise ValueError(f"{path.name}: got {entry}, expected the keys {', '.join(FIELDS)} and a reason")
        key = tuple(entry[name] for name in FIELDS if name in entry)
        if key in found:
            raise ValueError(f"{path.name}: listed twice: {entry}")
        found[key] = entry["reason"]
    return found


def find_reason(equivalents: Equivalents, mutant: Mapping[str, Any]) -> str:
    """Return why a mutant is equivalent; empty if it is not listed."""
    key = tuple(mutant[name] for name in FIELDS)
    return equivalents.get(key) or equivalents.get(key[:-1], "")


def score(outcomes: Sequence[Outcome], equivalents: Equivalents) -> dict[str, Any]:
    """Count killed, surviving and equivalent mutants, in all and by file.

    A mutant that is listed as equivalent is left out, unless a test kills it: then the entry is wrong, and the mutant
    counts as killed and is listed under ``wrong_equivalents``.
    """
    survivors, listed, wrong = [], [], []
    killed: Counter[str] = Counter()
    for outcome in outcomes:
        reason = find_reason(equivalents, outcome)
        if outcome["outcome"] != "survived":
            killed[outcome["file"]] += 1
            wrong += [outcome] if reason else []
        elif reason:
            listed.append(outcome | {"reason": reason})
        else:
            survivors.append(outcome)
    survived = Counter(outcome["file"] for outcome in survivors)
    n = killed.total() + survived.total()
    files = sorted({outcome["file"] for outcome in outcomes})
    return {
        "killed": killed.total(),
        "not_equivalent": n,
        "killed_share": killed.total() / n if n else 0.0,
        "interval": wilson_interval(killed.total(), n),
        "timeouts": sum(outcome["outcome"] == "timeout" for outcome in outcomes),
        "files": {
            file: {
                "killed": killed[file],
                "survived": survived[file],
                "equivalent": sum(outcome["file"] == file for outcome in listed),
            }
            for file in files
        },
        "survivors": survivors,
        "equivalents": listed,
        "wrong_equivalents": wrong,
    }


def page(found: dict[str, Any]) -> str:
    """Format the page of a mutation run."""
    low, high = found["interval"]
    total = sum(found["mutants"].values())
    is_whole = found["sample"] >= total
    drawn = "all of them" if is_whole else f"a random sample of {found['sample']:,} (seed {found['seed']})"
    n_run = found["not_equivalent"] + len(found["equivalents"])
    interval = "" if is_whole else f", 95 % Wilson interval {low:.1%} to {high:.1%}"
    lines = [
        "# Mutation run: share of small code changes that the tests notice",
        "",
        f"**{found['killed']:,} of {found['not_equivalent']:,} mutants killed: {found['killed_share']:.1%}**"
        f"{interval}; required: {found['minimum']:.0%}.",
        "",
        f"Training, evaluation, splits and `core/recommend` have {total:,} mutants: copies of the code with one small "
        f"change. Of these, {drawn} were run. A mutant is killed if a test fails, a limit of CPU time ends it "
        f"({found['timeouts']} of them), or it cannot be imported. Not counted: {len(found['equivalents'])} mutants "
        "that survived and, by review, behave like the original code, listed below with their reasons; with them, "
        f"{found['killed'] / max(n_run, 1):.1%} are killed.",
        "",
        "For each mutant, the tests that execute its line run, those written for its file first, until one fails or "
        f"the tests have used {found['test_seconds']:g} CPU seconds (as measured on the original code). A survivor may "
        "therefore be killed by the whole test suite. Tests that need archives of datasets are skipped. Property tests "
        "use the fixed examples of the ordinary run. Survivors of earlier runs were turned into tests, so a sample "
        "that was run before has a higher share than a new one (`--seed`).",
        "",
        "| file | mutants | run | killed | survived | equivalent |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for file, count in found["mutants"].items():
        part = found["files"].get(file, {"killed": 0, "survived": 0, "equivalent": 0})
        lines.append(f"| `{file}` | {count} | {sum(part.values())} | {' | '.join(str(n) for n in part.values())} |")
    lines += ["", "## Survivors", "", *_table(found["survivors"]), ""]
    lines += ["## Equivalent mutants", "", *_table(found["equivalents"], "reason"), ""]
    if found["wrong_equivalents"]:
        lines += ["## Listed as equivalent, but killed", "", *_table(found["wrong_equivalents"], "test"), ""]
    lines += [*_method(found), "", *describe_lines(found["machine"]), ""]
    return "\n".join(lines)


def _table(outcomes: Sequence[Outcome], extra: str = "") -> list[str]:
    if not outcomes:
        return ["None."]
    head = ["file, function", "code", "mutant", *([extra] if extra else [])]
    rows = [
        [
            f"`{outcome['file'].removeprefix('src/segue/')}`, `{outcome['function'] or 'module'}`",
            _code(outcome["line"]),
            _code(outcome["change"]),
            *([outcome[extra].replace("|", "\\|")] if extra else []),
        ]
        for outcome in sorted(outcomes, key=lambda outcome: (outcome["file"], outcome["row"]))
    ]
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _code(text: str) -> str:
    shown = text if len(text) <= 160 else text[:157] + "..."
    return "``" + shown.replace("|", "\\|") + "``" if shown else "(nothing)"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _method(found: dict[str, Any]) -> list[str]:
    operators = Counter(found["operators"])
    return [
        "## Method",
        "",
        f"[Cosmic Ray](https://cosmic-ray.readthedocs.io) {found['cosmic_ray']} makes the mutants; the configuration "
        "is `benchmarks/mutation.toml`. Not mutated: decorators, text of errors and messages, type annotations (but "
        "the bounds of settings in them), conditions on `TYPE_CHECKING`, and the keyword arguments "
        + ", ".join(f"`{name}`" for name in found["ignored_arguments"])
        + ". Mutants run by operator: "
        + ", ".join(f"{name} {count}" for name, count in operators.most_common())
        + ".",
    ]
