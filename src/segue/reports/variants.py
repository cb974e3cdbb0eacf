"""Results of an A/B test, as a table and as plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segue.reports.quantities import format_count, format_interval, format_mean, format_p_value, format_signed
from segue.reports.tables import Table

__all__ = ["MISMATCH_LEVEL", "draw_conclusions", "variants_table"]

Record = Mapping[str, Any]

MISMATCH_LEVEL = 0.01
"""The p-value of the sample ratio below which the sizes of the groups are wrong."""


def draw_conclusions(comparisons: Sequence[Record], mismatch_p: float, alpha: float) -> list[str]:
    """State what may be concluded, one sentence per comparison.

    Args:
        comparisons: as in ``segue abtest --json``.
        mismatch_p: p-value of the sample ratio; below :data:`MISMATCH_LEVEL` there are no other conclusions.
    """
    if mismatch_p < MISMATCH_LEVEL:
        return [
            f"Sample ratio mismatch (p = {format_p_value(mismatch_p)}): the groups do not have the intended sizes, so "
            "users of a variant are lost or counted twice, or shares were changed. Find the cause before drawing any "
            "conclusion."
        ]
    sentences = []
    for one in comparisons:
        name, control, ends = one["variant"], one["control"], format_interval((one["low"], one["high"]), sign=True)
        if not math.isfinite(one["low"]) or one["difference"] is None:
            sentences.append(f"{name}: too few users for a conclusion yet.")
        elif one["significant_at"] is None:
            sentences.append(
                f"{name}: no significant difference from {control} yet; the difference is between {ends}. Continue, or "
                "stop if that is too small to matter."
            )
        elif one["low"] <= 0 <= one["high"]:
            sentences.append(
                f"{name}: the difference from {control} was significant at {format_count(one['significant_at'])} users "
                f"and no longer is ({ends}): it changed over time, or was a false positive (probability at most "
                f"{alpha:.3g})."
            )
        else:
            direction = "higher" if one["low"] > 0 else "lower"
            sentences.append(
                f"{name}: the mean is {direction} than that of {control}, by {ends}; significant since "
                f"{format_count(one['significant_at'])} users. You may stop here."
            )
    return sentences


def variants_table(record: Record) -> Table:
    """Show one row per variant, with its difference from the control.

    Significant differences are highlighted.
    """
    by_variant = {one["variant"]: one for one in record["comparisons"]}
    level = f"{100 * (1 - record['alpha']):.4g} %"
    head = ("variant", "share", "users", "waiting", "mean", "difference", f"{level} interval", "p")
    rows = []
    for one in record["variants"]:
        row = [one["variant"], f"{100 * one['share']:.4g} %", format_count(one["users"]), format_count(one["waiting"])]
        row.append("" if one["mean"] is None else format_mean(one["mean"]))
        if one["variant"] in by_variant:
            found = by_variant[one["variant"]]
            row.append("" if found["difference"] is None else format_signed(found["difference"]))
            ends = (found["low"], found["high"])
            row += [format_interval(ends, sign=True) if math.isfinite(ends[0]) else "", format_p_value(found["p"])]
        else:
            row += ["", "", ""]
        rows.append(tuple(row))
    significant = [name for name, found in by_variant.items() if found["p"] <= record["alpha"]]
    highlighted = frozenset(number for number, row in enumerate(rows) if row[0] in significant)
    mismatch = format_p_value(record["sample_ratio_mismatch_p"])
    title = f"{record['experiment']}: {record['outcome']}; always valid; sample ratio mismatch: p = {mismatch}"
    return Table(title, head, tuple(rows), highlighted=highlighted)
