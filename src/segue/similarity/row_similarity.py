"""How alike two rows of a sparse table are: items by the users who had them, or users by their items; each function
here is a choice by its name.

A row with no column in common with another is not like it: 0, whatever the measure. A distance d becomes the likeness
``1 / (1 + d)``. ``shrink`` draws likeness that rests on little towards zero (Bell and Koren 2007,
doi:10.1109/ICDM.2007.90): it is added below the line of cosine, tanimoto, jaccard, dice, conditional and
log_likelihood; any other measure is multiplied by ``n / (n + shrink)``, n the columns in common.

Shapes: P pairs of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Scores
from segue.similarity.row_pairs import Pairs

__all__ = [
    "adjusted_cosine",
    "conditional",
    "cosine",
    "dice",
    "euclidean",
    "hamming",
    "jaccard",
    "log_likelihood",
    "manhattan",
    "msd",
    "pearson",
    "spearman",
    "tanimoto",
]

FLAT = 1e-9
"""A variance below this share of the mean square is rounding."""


def cosine(pairs: Pairs, shrink: float) -> Scores:
    """Cosine of the angle between two rows, absent cells being 0."""
    return _ratio(pairs.dot, pairs.own("norms") * pairs.other("norms") + np.float32(shrink))


def adjusted_cosine(pairs: Pairs, shrink: float) -> Scores:
    """Cosine over the columns in common, of values less their column's mean (Sarwar et al. 2001, eq. 2,
    doi:10.1145/371920.372071): of items without how generous each user is."""
    sums = pairs.moments("centred")
    return _ratio(sums.xy, np.sqrt(sums.xx * sums.yy)) * _support(pairs.both, shrink)


def pearson(pairs: Pairs, shrink: float) -> Scores:
    """Correlation of the values over the columns in common, 0 where one of the rows is constant there."""
    return _correlation(pairs, "values", shrink)


def spearman(pairs: Pairs, shrink: float) -> Scores:
    """Correlation, over the columns in common, of the ranks that values have among all of their row; equal values share
    their mean rank."""
    return _correlation(pairs, "ranks", shrink)


def jaccard(pairs: Pairs, shrink: float) -> Scores:
    """Columns that both have among those that any of the two has."""
    both = pairs.both
    return _ratio(both, pairs.own("counts") + pairs.other("counts") - both + np.float32(shrink))


def dice(pairs: Pairs, shrink: float) -> Scores:
    """Columns that both have against the mean of those that each has."""
    return _ratio(2 * pairs.both, pairs.own("counts") + pairs.other("counts") + np.float32(shrink))


def tanimoto(pairs: Pairs, shrink: float) -> Scores:
    """Jaccard for numbers: ``x.y / (|x|² + |y|² - x.y)`` (after Rogers and Tanimoto 1960,
    doi:10.1126/science.132.3434.1115)."""
    return _ratio(pairs.dot, pairs.own("squares") + pairs.other("squares") - pairs.dot + shrink)


def conditional(pairs: Pairs, shrink: float) -> Scores:
    """Share of the other row's columns that this row has (Deshpande and Karypis 2004, eq. 2): the one measure that
    differs by direction."""
    return _ratio(pairs.both, pairs.other("counts") + np.float32(shrink))


def log_likelihood(pairs: Pairs, shrink: float) -> Scores:
    """``G / (1 + G)`` of the log-likelihood ratio G that two rows meet more often than by chance (Dunning 1993,
    aclanthology.org/J93-1003); 0 where they meet no more often than that."""
    both = pairs.both.astype(np.float64)
    own, other = pairs.own("counts").astype(np.float64), pairs.other("counts").astype(np.float64)
    # rows that are asked about may have columns that nobody else has
    total: NDArray[np.float64] = np.maximum(float(pairs.asked.occupied), own + other - both)
    cells = _entropy(both, own - both, other - both, total - own - other + both)
    apart = _entropy(own, total - own) + _entropy(other, total - other) - _entropy(total)
    g = np.maximum(2.0 * (cells - apart), 0.0)
    g[both * total <= own * other] = 0.0
    return _ratio(g, 1.0 + g + shrink)


def euclidean(pairs: Pairs, shrink: float) -> Scores:
    """From the distance in a straight line, absent cells being 0."""
    squares = pairs.own("squares") + pairs.other("squares") - 2.0 * pairs.dot
    return _nearness(np.sqrt(np.maximum(squares, 0.0)), pairs.both, shrink)


def manhattan(pairs: Pairs, shrink: float) -> Scores:
    """From the sum of the absolute differences, absent cells being 0."""
    apart = pairs.own("sizes") + pairs.other("sizes") - pairs.terms("overlap", "values")
    return _nearness(np.maximum(apart, 0.0), pairs.both, shrink)


def hamming(pairs: Pairs, shrink: float) -> Scores:
    """From the number of columns where the rows differ; what is there differs from what is not."""
    equal = pairs.both if pairs.asked.binary and pairs.table.binary else pairs.terms("equal", "values")
    return _nearness(pairs.own("counts") + pairs.other("counts") - pairs.both - equal, pairs.both, shrink)


def msd(pairs: Pairs, shrink: float) -> Scores:
    """From the mean squared difference over the columns in common (Shardanand and Maes 1995,
    doi:10.1145/223904.223931)."""
    return _nearness(pairs.terms("apart", "values") / pairs.both, pairs.both, shrink)


def _correlation(pairs: Pairs, kind: Any, shrink: float) -> Scores:
    sums, n = pairs.moments(kind), pairs.both.astype(np.float64)
    spread_x, spread_y = sums.xx - sums.x * sums.x / n, sums.yy - sums.y * sums.y / n
    spread_x[spread_x <= FLAT * sums.xx] = 0.0
    spread_y[spread_y <= FLAT * sums.yy] = 0.0
    found = _ratio(sums.xy - sums.x * sums.y / n, np.sqrt(spread_x * spread_y)) * _support(pairs.both, shrink)
    clipped: Scores = np.clip(found, -1.0, 1.0)
    return clipped


def _entropy(*counts: NDArray[np.float64]) -> Any:
    """The sum of n ln n."""
    return sum(n * np.log(np.maximum(n, 1.0)) for n in counts)


def _nearness(distance: NDArray[Any], both: Scores, shrink: float) -> Scores:
    return (1.0 / (1.0 + distance)).astype(np.float32) * _support(both, shrink)


def _support(both: Scores, shrink: float) -> Scores:
    found: Scores = both / (both + np.float32(shrink))
    return found


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> Scores:
    found: Scores = np.divide(above, below, out=np.zeros_like(below), where=below > 0).astype(np.float32)
    return found
