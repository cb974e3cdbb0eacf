"""What an experiment of a service has shown, in a table and in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segue.reports.quantities import count, interval, mean, p_value, signed
from segue.reports.tables import Table

__all__ = ["MISMATCH", "conclusions", "table"]

Record = Mapping[str, Any]

MISMATCH = 0.01
"""A p-value below which groups are not of the sizes they should have."""


def conclusions(comparisons: Sequence[Record], sizes_p: float, alpha: float) -> list[str]:
    """What may be concluded, in a sentence per comparison.

    Args:
        comparisons: as ``segue abtest --json`` has them.
        sizes_p: of the groups' sizes; below :data:`MISMATCH` nothing else is said.
    """
    if sizes_p < MISMATCH:
        return [
            f"The groups are not of the sizes they should have (p = {p_value(sizes_p)}): users of a variant are lost or"
            " counted twice, or shares were changed. Nothing can be concluded until it is known why."
        ]
    said = []
    for one in comparisons:
        name, against, ends = one["variant"], one["against"], interval((one["low"], one["high"]), sign=True)
        if not math.isfinite(one["low"]) or one["difference"] is None:
            said.append(f"{name}: too few users yet to say anything.")
        elif one["shown_at"] is None:
            said.append(
                f"{name}: no difference from {against} is shown yet. If there is one, it is from {ends};"
                " go on, or stop if that is too little to matter."
            )
        elif one["low"] <= 0 <= one["high"]:
            said.append(
                f"{name}: a difference from {against} was shown at {count(one['shown_at'])} users, and now none is sure"
                f" ({ends}): it changed with time, or was chance (at most {alpha:.3g})."
            )
        else:
            better = "higher" if one["low"] > 0 else "lower"
            said.append(
                f"{name}: the mean is {better} than that of {against}, by {ends}; first shown at"
                f" {count(one['shown_at'])} users. You may stop here."
            )
    return said


def table(record: Record) -> Table:
    """One row per variant, each but the control with its difference; those that are sure are brought out."""
    compared = {one["variant"]: one for one in record["comparisons"]}
    level = f"{100 * (1 - record['alpha']):.4g} %"
    head = ("variant", "share", "users", "waiting", "mean", "difference", f"{level} at any time", "p at any time")
    rows = []
    for one in record["variants"]:
        row = [one["variant"], f"{100 * one['share']:.4g} %", count(one["users"]), count(one["waiting"])]
        row.append("" if one["mean"] is None else mean(one["mean"]))
        if one["variant"] in compared:
            found = compared[one["variant"]]
            row.append("" if found["difference"] is None else signed(found["difference"]))
            ends = (found["low"], found["high"])
            row += [interval(ends, sign=True) if math.isfinite(ends[0]) else "", p_value(found["p"])]
        else:
            row += ["", "", ""]
        rows.append(tuple(row))
    title = f"{record['experiment']}: {record['outcome']}; sizes of groups as they should be: p = "
    sure = [name for name, found in compared.items() if found["p"] <= record["alpha"]]
    marked = frozenset(number for number, row in enumerate(rows) if row[0] in sure)
    return Table(title + p_value(record["sizes_p"]), head, tuple(rows), marked=marked)
