"""Differences in accuracy between groups of users.

Ekstrand et al. 2018, "All the cool kids, how do they fit in?", PMLR 81:172-186, compare the accuracy of recommendations
by gender and age.

Shapes: N queries.
"""

from __future__ import annotations

import numpy as np

from segue.evaluation.beyond_accuracy.lists import Lists, Values

__all__ = ["gap"]

UNKNOWN = "unknown"
"""Label of users whose feature is not known; they are left out."""


def gap(lists: Lists, groups: str) -> Values:
    """Compute the gap of an accuracy metric between groups of users.

    It is the mean of the best group minus that of the worst. Returns one value per query whose mean is the gap: the gap
    plus the contribution of the query to first order, so that intervals and paired tests over queries hold. NaN where
    the group of the user is not known, or the query has no true item. Groups that differ only by chance have a gap
    above 0 too, and the more so, the smaller they are: read it beside its interval. Lower values are better.

    Args:
        groups: a user feature or ``history_length``, ``:``, and a ranking metric, such as ``gender:ndcg@10``. Numbers
            with many values are grouped by quartiles.

    Raises:
        ValueError: no such feature or metric, or fewer than two groups with a value.
    """
    feature, colon, metric = groups.partition(":")
    if not colon:
        raise ValueError(f"got '{groups}', expected a user feature and a metric, such as 'gender:ndcg@10'")
    if lists.labels is None or lists.accuracy is None:
        raise ValueError("needs user features; evaluate on a split")
    labels = np.asarray(lists.labels(feature), np.str_)
    values = lists.accuracy(metric)
    has_value = ~np.isnan(values) & (labels != UNKNOWN)
    names, codes = np.unique(labels[has_value], return_inverse=True)
    if len(names) < 2:
        found = f"only '{names[0]}'" if len(names) else "none"
        raise ValueError(f"needs two groups of users with a true item, got {found} by '{feature}'")
    sizes = np.bincount(codes)
    means = np.bincount(codes, values[has_value]) / sizes
    best, worst = int(np.argmax(means)), int(np.argmin(means))
    found_gap = means[best] - means[worst]
    if best == worst:  # all groups have the same mean
        best, worst = 0, 1
    signs = (codes == best).astype(np.float64) - (codes == worst)
    contributions = signs * (values[has_value] - means[codes]) * len(codes) / sizes[codes]
    result = np.full(len(lists), np.nan)
    result[has_value] = found_gap + contributions
    return result
