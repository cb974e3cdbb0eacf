"""Rows and cells of Markdown tables that several pages share, and the names of rows that a command selects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segue.evaluation.significance import PairedTest, holm_correction

__all__ = [
    "correct",
    "difference_cells",
    "head_lines",
    "interval_cell",
    "range_cell",
    "row_line",
    "select_rows",
    "significance_mark",
]

LEVEL = 0.05


def select_rows(models: str | None, rows: Iterable[str], first: str | None = None) -> list[str]:
    """Return the rows that ``--models`` names, without repetitions; by default all.

    Args:
        first: a row that is always measured, before the others.

    Raises:
        ValueError: an unknown row.
    """
    known = list(rows)
    names = re.split(r",(?! )", models) if models else known  # the names of some rows contain a comma and a space
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--models: unknown '{unknown[0]}', expected some of {', '.join(known)}")
    return list(dict.fromkeys([*([first] if first else []), *names]))


def head_lines(labels: Sequence[str], numbers: int = 0) -> list[str]:
    """Format the head of a table; the last ``numbers`` columns are aligned to the right."""
    sides = ["---"] * (len(labels) - numbers) + ["---:"] * numbers
    return [row_line(labels), row_line(sides)]


def row_line(cells: Iterable[str]) -> str:
    """Format a row of a table."""
    return f"| {' | '.join(cells)} |"


def interval_cell(mean: float, interval: Sequence[float], mark: str = "", bold: bool = False) -> str:
    """Format a figure with its interval, and a mark between the two."""
    low, high = interval
    text = f"{mean:.4f}"
    return f"{f'**{text}**' if bold else text}{mark and ' ' + mark} [{low:.3f}, {high:.3f}]"


def range_cell(low: float, high: float, digits: int = 4, sign: str = "") -> str:
    """Format the ends of an interval."""
    return f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"


def difference_cells(test: Mapping[str, Any]) -> list[str]:
    """Format pair, difference, interval and corrected p-value of a paired test."""
    low, high = test["interval"] if "interval" in test else (test["low"], test["high"])
    return [
        f"{test['first']} − {test['second']}",
        f"{test['difference']:+.4f}",
        range_cell(low, high, sign="+"),
        f"{test['p_holm']:.4f}",
    ]


def significance_mark(test: Mapping[str, Any] | None, lower_is_better: bool = False) -> str:
    """Return ▲ or ▼ for better or worse after Holm's correction, △ or ▽ before it only, else nothing."""
    if test is None or test["p"] >= LEVEL:
        return ""
    is_better = (test["difference"] > 0) != lower_is_better
    if test["p_holm"] < LEVEL:
        return "▲" if is_better else "▼"
    return "△" if is_better else "▽"


def correct(tests: Sequence[PairedTest]) -> list[dict[str, Any]]:
    """Return the figures of tests, with Holm's correction over all of them."""
    return [
        {
            "first": test.first,
            "second": test.second,
            "difference": test.difference,
            "interval": [test.low, test.high],
            "p": test.p,
            "p_holm": p_holm,
        }
        for test, p_holm in zip(tests, holm_correction([test.p for test in tests]), strict=True)
    ]
