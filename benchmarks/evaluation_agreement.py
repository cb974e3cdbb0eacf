"""The same lists evaluated by Segue, RecTools, RecBole and LensKit: every difference is explained.

Lists of models on MovieLens 100K and random lists (several graded targets per user; short and missing lists; users
without a target) are evaluated by each library's own code, in its own environment. A value that differs from that of
Segue's metric of the same kind must be reproduced by a formula of :mod:`benchmarks.evaluation_variants` in every case.
The command fails if a value is neither equal nor reproduced.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.environments import interpreter
from benchmarks.evaluation_cases import FEATURE, Case, public_cases, random_cases
from benchmarks.evaluation_variants import VARIANTS, Variant
from benchmarks.machine import describe_lines
from benchmarks.subprocess_runner import find_python, run_in_subprocess
from benchmarks.table_rows import head_lines, row_line

__all__ = ["LIBRARIES", "TOLERANCE", "compare", "page", "run", "unexplained"]

LIBRARIES = {"RecTools": "rectools", "RecBole": "recbole", "LensKit": "lenskit"}
KS = (5, 10)
TOLERANCE = 1e-6
MODELS = ("ease", "popular")
QUICK_SOURCE = "simulated?users=120&items=80&seed=1"

WITH_FEATURE = ("diversity", "serendipity")
"""Metrics of Segue that are computed from the tags of the items."""

NOTES = (
    "RecTools and LensKit read a table of recommendations and one of targets. RecBole reads scores: an item of a list "
    "has the higher a score the better its rank, other items have minus infinity. `GAUC` reads the scores of the "
    "model, where the case has any.",
    "RecBole: only users with a target are evaluated, as by its data loaders. Its `Collector.get_data_struct` fails "
    "for metrics that read counts of items (`'int' object has no attribute 'cpu'`), so the evaluator gets what the "
    "collector recorded.",
    "Not compared: metrics that need a second list or labels of single examples (RecTools' `Intersection`; LensKit's "
    "`least_item_promoted` and `rank_biased_overlap`; `AUC`, `LogLoss`, `MAE`, `RMSE`), and LensKit's functions of a "
    "matrix of categories (`entropy`, `rank_biased_entropy`).",
)

Found = dict[str, Any]


def run(options: Any) -> Found:
    """Evaluate every case in every library, and compare."""
    for library in LIBRARIES.values():
        interpreter(library, install=True)
    public, data = public_cases(options.source or (QUICK_SOURCE if options.quick else "ml-100k"), MODELS)
    size = {"users": 60, "items": 50} if options.quick else {}
    found: Found = {"data": data, "seed": options.seed, "ks": list(KS), "versions": {}, "cases": {}}
    for case in [*public, *random_cases(options.seed, **size)]:
        values, errors = {}, {}
        for title, library in LIBRARIES.items():
            python = find_python(library)
            assert python is not None
            job = {"threads": 1, "ks": list(KS)}
            figures, results = run_in_subprocess(f"agreement_{library}", python, job, case.arrays())
            values[title], errors[title] = figures["values"], figures.get("errors", {})
            found["versions"][title] = figures["version"]
            if "recommended" in results:
                case = replace(case, completed=results["recommended"])
        found["cases"][case.name] = compare(case, values, errors) | {"description": case.description}
    if names := unexplained(found):
        found["failure"] = f"{len(names)} values are neither equal nor explained: {', '.join(names)}"
    return found


def compare(
    case: Case,
    values: Mapping[str, Mapping[str, float]],
    errors: Mapping[str, Mapping[str, str]],
    ks: Sequence[int] = KS,
) -> Found:
    """Compare the values of other libraries with those of Segue, and with their formulas.

    Args:
        values: by library and name of the metric, such as ``MAP@10``.
        errors: messages of metrics that failed, likewise.

    Returns:
        The description of the case and its rows. A row is ``equal``, ``explained``, ``unexplained``, or ``failed``
        where the library gives an error.
    """
    own = _own_values(case)
    rows = []
    for variant in VARIANTS:
        for k in ks if variant.has_cutoff else (None,):
            name = variant.name if k is None else f"{variant.name}@{k}"
            row: Found = {"library": variant.library, "name": name}
            metric = _own_name(variant, k)
            segue_value = own.get(metric) if metric else None
            if name in errors.get(variant.library, {}):
                rows.append(row | {"outcome": "failed", "error": errors[variant.library][name], "segue": segue_value})
                continue
            if not variant.has_cutoff and case.scores is None:
                continue  # computed from scores
            value = values[variant.library][name]
            formula = segue_value if variant.formula is None else variant.formula(case, k or 0)
            outcome = "unexplained"
            if segue_value is not None and _is_equal(value, segue_value):
                outcome = "equal"
            elif formula is not None and _is_equal(value, formula):
                outcome = "explained"
            # a formula that holds only where the values are equal anyway explains nothing
            if formula is not None and not _is_equal(value, formula):
                outcome = "unexplained"
            rows.append(row | {"value": value, "segue": segue_value, "formula": formula, "outcome": outcome})
    return {"queries": len(case.lists), "rows": rows}


def _is_equal(a: float, b: float) -> bool:
    return math.isfinite(a) and abs(a - b) <= TOLERANCE * max(1.0, abs(b))


def _own_name(variant: Variant, k: int | None) -> str | None:
    """Return the name of Segue's metric, with its cutoff where it has one."""
    name = variant.metric
    if name is None or name in ("r_precision", "auc"):
        return name
    return f"{name}:{FEATURE}@{k}" if name in WITH_FEATURE else f"{name}@{k}"


def _own_values(case: Case) -> dict[str, float]:
    """Compute the metrics of Segue that have a counterpart."""
    from segue.core.types import Ranks
    from segue.evaluation.evaluate import evaluate_lists
    from segue.evaluation.metrics import auc

    names = {_own_name(variant, k) for variant in VARIANTS for k in KS} - {None, "auc"}
    result = evaluate_lists(case.lists, case.held_out, KS, sorted(map(str, names)), training=case.training)
    found = {name: one.mean for name, one in result.estimates.items()}
    if case.scores is not None:
        rows, items = case.held_out.targets.rows, case.held_out.targets.items
        own = case.scores[rows, items][:, None]
        higher, equal = (case.scores[rows] > own).sum(axis=1), (case.scores[rows] == own).sum(axis=1) - 1
        n_ranked = (case.scores > -math.inf).sum(axis=1)
        values = auc(Ranks(case.held_out.targets.offsets, higher, equal, n_ranked, case.lists))
        found["auc"] = float(values[case.n_relevant > 0].mean())
    return found


def unexplained(found: Found) -> list[str]:
    """Return the values that are neither equal to those of Segue nor reproduced by a formula."""
    return [
        f"{row['library']} {row['name']} ({case})"
        for case, one in found["cases"].items()
        for row in one["rows"]
        if row["outcome"] == "unexplained"
    ]


def page(found: Found) -> str:
    """Format the summary, one table per library, and the values of every case."""
    counts = Counter(row["outcome"] for one in found["cases"].values() for row in one["rows"])
    compared = sum(counts.values()) - counts["failed"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        "# The same lists under the evaluation of Segue, RecTools, RecBole and LensKit",
        "",
        f"{versions}, each with its own code. {compared:,} values of {len(VARIANTS)} metrics at k = "
        f"{' and '.join(map(str, found['ks']))} in {len(found['cases'])} cases: {counts['equal']:,} equal those of "
        f"Segue's metric of the same kind to {TOLERANCE:g}, {counts['explained']:,} differ or have no counterpart, and "
        f"are reproduced to {TOLERANCE:g} by the formula in the table, **{counts['unexplained']:,} are unexplained**. "
        f"{counts['failed']:,} times a library gave an error instead of a value.",
        "",
        *_unexplained_lines(found),
        "| case | lists and targets | users |",
        "| --- | --- | ---: |",
        *(f"| {name} | {one['description']} | {one['queries']:,} |" for name, one in found["cases"].items()),
        "",
    ]
    for library in LIBRARIES:
        lines += [f"## {library}", "", *_definition_lines(found, library), ""]
    text = "Value of the library − value of Segue = difference; `=` alone: equal; one number: Segue has no such metric."
    lines += ["## Values", "", f"k = {found['ks'][-1]}. {text}", ""]
    for library in LIBRARIES:
        lines += [f"### {library}", "", *_value_lines(found, library), ""]
    data = found["data"]
    lines += [
        *(f"* {note}" for note in NOTES),
        f"* data: {data['name']} ({data['source']}), {data['queries']:,} users, hash {data['hash']}; the test part was "
        f"read once per model; models with default settings, which were not tuned; random cases: seed {found['seed']}",
        *describe_lines(found["machine"]),
    ]
    return "\n".join([*lines, ""])


def _unexplained_lines(found: Found) -> list[str]:
    names = unexplained(found)
    return ["**UNEXPLAINED DIFFERENCES:**", "", *(f"* **{name}**" for name in names), ""] if names else []


def _definition_lines(found: Found, library: str) -> list[str]:
    """Format the metrics of a library: in how many cases they are equal, and the formula."""
    lines = head_lines(
        ["metric", "Segue", "values equal", "explained", "largest error of the formula", "definition"], 0
    )
    for variant in (one for one in VARIANTS if one.library == library):
        rows = _rows_of(found, variant)
        counts = Counter(row["outcome"] for row in rows)
        errors = [abs(row["value"] - row["formula"]) for row in rows if row.get("formula") is not None]
        failed = f"; {counts['failed']} errors" if counts["failed"] else ""
        wrong = f"; **{counts['unexplained']} unexplained**" if counts["unexplained"] else ""
        metric = _own_name(variant, None) or ""
        lines.append(
            row_line(
                [
                    f"`{variant.name}`",
                    f"`{metric.removesuffix('@None')}`" if metric else "–",
                    f"{counts['equal']} of {len(rows)}",
                    f"{counts['explained']}{failed}{wrong}",
                    f"{max(errors, default=0.0):.0e}",
                    variant.definition or "the same",
                ]
            )
        )
    return lines


def _rows_of(found: Found, variant: Variant) -> list[Found]:
    """Return the rows of a metric in all cases, at all cutoffs."""
    names = {variant.name, *(f"{variant.name}@{k}" for k in found["ks"])}
    return [
        row
        for one in found["cases"].values()
        for row in one["rows"]
        if row["library"] == variant.library and row["name"] in names
    ]


def _value_lines(found: Found, library: str) -> list[str]:
    """Format the values of a library and Segue's, one column per case."""
    cases: Sequence[str] = list(found["cases"])
    lines = head_lines(["metric", *cases], numbers=len(cases))
    for variant in (one for one in VARIANTS if one.library == library):
        name = f"{variant.name}@{found['ks'][-1]}" if variant.has_cutoff else variant.name
        cells = []
        for case in cases:
            rows = [r for r in found["cases"][case]["rows"] if r["library"] == library and r["name"] == name]
            cells.append(_value_cell(rows[0]) if rows else "")
        lines.append(row_line([f"`{variant.name}`", *cells]))
    return lines


def _value_cell(row: Found) -> str:
    if row["outcome"] == "failed":
        return str(row["error"]).partition(":")[0]
    if row["outcome"] == "equal":
        return f"{row['value']:.6g} ="
    mark = " **unexplained**" if row["outcome"] == "unexplained" else ""
    if row["segue"] is None:
        return f"{row['value']:.6g}{mark}"
    return f"{row['value']:.6g} − {row['segue']:.6g} = {row['value'] - row['segue']:+.3g}{mark}"
