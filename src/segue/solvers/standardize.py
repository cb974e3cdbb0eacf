"""Standardize values.

Settings then have the same meaning for any scale of the data.

Shapes: T values, R rows, B dimensions including the bias.
"""

from __future__ import annotations

import numpy as np

from segue.core.types import Scores

__all__ = ["standardize", "unstandardize"]

ROUNDING = 1e-6
"""Standard deviations below this share of the largest value are rounding errors."""


def standardize(values_T: Scores) -> tuple[float, float, Scores]:
    """Return the mean, the standard deviation and the standardized values ``(T,)``.

    The standard deviation is 1 if all values are equal.
    """
    values = values_T.astype(np.float64)
    mean, std = float(values.mean()), float(values.std())
    if std <= ROUNDING * float(np.abs(values).max()):
        std = 1.0
    return mean, std, ((values - mean) / std).astype(np.float32)


def unstandardize(rows_RB: Scores, std: float) -> Scores:
    """Convert rows that predict standardized values to the scale of the data.

    The bias is the first column of a row.
    """
    rows_RB = np.float32(np.sqrt(std)) * rows_RB
    rows_RB[:, 0] *= np.float32(np.sqrt(std))
    return rows_RB
