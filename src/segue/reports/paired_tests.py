"""Tables of paired tests: p-values, effect sizes and power.

A *result* is that of :mod:`segue.reports.tables`; its ``tests`` are records of
:class:`segue.evaluation.significance.PairedTest`. Those of older versions lack effect sizes, power and the names of the
test and the correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.reports.quantities import format_interval, format_mean, format_p_value, format_signed, metric_label
from segue.reports.tables import Table

__all__ = ["describe_correction", "describe_tests", "effect_sizes_table", "power_notes", "tests_table"]

Record = Mapping[str, Any]

STAT_TESTS = {
    "randomization": "randomization tests",
    "bootstrap": "bootstrap tests",
    "wilcoxon": "Wilcoxon signed-rank tests",
    "student": "t-tests",
}
CORRECTIONS = {"holm": "Holm", "fdr_bh": "BH"}

CORRECTION_NOTES = {
    "holm": "Holm's correction accounts for the number of pairs",
    "fdr_bh": "The correction of Benjamini and Hochberg (BH) bounds the expected share of false positives among the "
    "significant pairs",
}


def tests_table(result: Record) -> Table:
    """Show one row per pair of models, the better one first.

    Significant differences are highlighted.
    """
    rows = []
    stat_test, correction = _tested(result)
    for test in result["tests"]:
        ends, difference = (test["low"], test["high"]), test["difference"]
        if difference < 0:
            ends, difference = (-ends[1], -ends[0]), -difference
        rows.append(
            (
                _pair(test),
                format_signed(difference),
                format_interval(ends, sign=True),
                format_p_value(test["p"]),
                format_p_value(test["p_t"]),
                format_p_value(test[f"p_{correction}"]),
                "significant" if test["significant"] else "not significant",
            )
        )
    head = ("pair", "difference", "95 % interval", "p", "p (t)", f"p ({CORRECTIONS[correction]})", "")
    highlighted = frozenset(number for number, test in enumerate(result["tests"]) if test["significant"])
    kind = "tests" if stat_test == "randomization" else STAT_TESTS[stat_test]
    return Table(f"Paired {kind} of {metric_label(result['metric'])}", head, tuple(rows), highlighted=highlighted)


def effect_sizes_table(result: Record) -> Table | None:
    """Show the effect sizes of each pair, the better model first, if there are any."""
    tests = [test for test in result["tests"] if test.get("d_z") is not None or test.get("rank_biserial") is not None]
    rows = tuple((_pair(test), _format_effect(test, "d_z"), _format_effect(test, "rank_biserial")) for test in tests)
    return Table("Effect sizes", ("pair", "Cohen's d_z", "rank-biserial"), rows) if rows else None


def power_notes(result: Record) -> list[str]:
    """Say what difference would be found, for pairs without a significant one."""
    return [
        f"{_pair(test)}: smallest difference that would be found with 80 % probability: "
        f"{format_mean(test['smallest_difference'])}"
        for test in result["tests"]
        if not test["significant"] and test.get("smallest_difference") is not None
    ]


def describe_tests(result: Record) -> str:
    """Describe the paired tests and the correction."""
    stat_test, correction = _tested(result)
    t_test = "" if stat_test == "student" else "; t-test beside it"
    return (
        f"paired {STAT_TESTS[stat_test]} over queries, two-sided; {CORRECTIONS[correction]} correction over all pairs"
        f"{t_test}"
    )


def describe_correction(result: Record) -> str:
    """Say in one sentence without its period what the correction does."""
    return CORRECTION_NOTES[_tested(result)[1]]


def _tested(result: Record) -> tuple[str, str]:
    """Return the test and the correction; results of older versions have the defaults."""
    first = next(iter(result.get("tests") or [{}]))
    return first.get("stat_test", "randomization"), first.get("correction", "holm")


def _pair(test: Record) -> str:
    """Name the models of a pair, the better one first."""
    names = (test["first"], test["second"])
    return " − ".join(names if test["difference"] >= 0 else names[::-1])


def _format_effect(test: Record, name: str) -> str:
    """Format an effect size in favor of the better model."""
    value = test.get(name)
    return "" if value is None else format_signed(-value if test["difference"] < 0 else value)
