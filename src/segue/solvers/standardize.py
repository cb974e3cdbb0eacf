"""Values in units in which settings mean the same, whatever the scale of the data.

Shapes: T values, R rows, B width with the bias.
"""

from __future__ import annotations

import numpy as np

from segue.core.types import Scores

__all__ = ["in_units", "standardised"]

ROUNDING = 1e-6
"""Values that differ by no more than this share of the largest are equal, but for rounding."""


def standardised(values_T: Scores) -> tuple[float, float, Scores]:
    """Mean, standard deviation (1 where all values are equal), and ``(T,)`` what is left of the values without them."""
    values = values_T.astype(np.float64)
    mean, spread = float(values.mean()), float(values.std())
    if spread <= ROUNDING * float(np.abs(values).max()):
        spread = 1.0
    return mean, spread, ((values - mean) / spread).astype(np.float32)


def in_units(rows_RB: Scores, spread: float) -> Scores:
    """Rows whose sums and products are standardised values, bias first, as rows for values in the scale of the data."""
    rows_RB = np.float32(np.sqrt(spread)) * rows_RB
    rows_RB[:, 0] *= np.float32(np.sqrt(spread))
    return rows_RB
