"""Similarity of two ranked lists.

It compares, for example, the list of a shadow model with the list that was shown.

Shapes: k positions of the longer list.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["rank_biased_overlap"]


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], persistence: float = 0.9) -> float:
    """Return the extrapolated rank-biased overlap of two lists, from 0 to 1.

    Webber, Moffat and Zobel 2010, doi:10.1145/1852102.1852106, equation 32. The weight of agreement at depth d
    decreases as ``persistence ** d``: at 0.9 the first ten positions have 86 % of the weight.

    Args:
        first: best first, without duplicates.
        second: likewise; may have another length.
        persistence: between 0 and 1, exclusive; the closer to 1, the more lower positions count.
    """
    short, long = sorted((len(first), len(second)))
    if short == 0:
        return float(long == 0)
    positions = {item: position for position, item in enumerate(first, 1)}
    shared_depths = [max(position, positions[item]) for position, item in enumerate(second, 1) if item in positions]
    depth = np.arange(1, long + 1)
    n_shared = np.cumsum(np.bincount(shared_depths, minlength=long + 1)[1:])
    at_short, at_long = n_shared[short - 1], n_shared[-1]
    agreement = n_shared / depth + np.where(depth > short, at_short * (depth - short) / (short * depth), 0.0)
    observed = (1 - persistence) / persistence * np.sum(agreement * persistence**depth)
    return float(observed + ((at_long - at_short) / long + at_short / short) * persistence**long)
