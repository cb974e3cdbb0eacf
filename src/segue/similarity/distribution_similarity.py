"""How alike two distributions are: rows of a table taken as shares of their sum, such as how often an item got each
rating, or how much of a history each genre has; each function here is a choice by its name.

A measure is multiplied by ``n / (n + shrink)``, n the smaller of the two rows' sums: the events behind a distribution.

Shapes: P pairs of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Scores
from segue.similarity.row_pairs import Pairs

__all__ = ["bhattacharyya", "jensen_shannon", "kullback_leibler"]


def bhattacharyya(pairs: Pairs, shrink: float) -> Scores:
    """The sum of the roots of p q: 1 for equal distributions (Bhattacharyya 1943; between ratings: Patra et al. 2015,
    doi:10.1016/j.knosys.2015.03.001)."""
    return _supported(pairs.products("roots", "roots"), pairs, shrink)


def jensen_shannon(pairs: Pairs, shrink: float) -> Scores:
    """1 less the divergence from the mean of the two, in bits (Lin 1991, doi:10.1109/18.61115)."""
    return _supported(np.maximum(pairs.terms("shared", "shares"), 0.0), pairs, shrink)


def kullback_leibler(pairs: Pairs, shrink: float) -> Scores:
    """``exp(-d)``, d the mean of the divergences in both directions (Kullback and Leibler 1951,
    doi:10.1214/aoms/1177729694), a tenth of each distribution being spread evenly over the columns before."""
    # over an empty cell e, log(p/e) and p - e are 0: what is left are sums over the cells that are there
    crossed = pairs.products("lifts", "logs") + pairs.products("logs", "lifts")
    apart = pairs.own("information") + pairs.other("information") - crossed
    return _supported(np.exp(-0.5 * np.maximum(apart, 0.0)), pairs, shrink)


def _supported(likeness: NDArray[np.float64], pairs: Pairs, shrink: float) -> Scores:
    behind: NDArray[Any] = np.minimum(pairs.own("sums"), pairs.other("sums"))
    part = np.divide(behind, behind + shrink, out=np.zeros_like(behind), where=behind > 0)
    found: Scores = (likeness * part).astype(np.float32)
    return found
