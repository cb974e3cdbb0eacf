"""Diversity within a list, and its distance to what the user knows.

Every function takes lists and, optionally, the item feature that the distance is computed from; without one, items are
close if the same training users have both (:mod:`segue.evaluation.beyond_accuracy.item_distance`). It returns one value
per query, ``(N,)``.

Shapes: N queries, k positions.
"""

from __future__ import annotations

import numpy as np

from segue.evaluation.beyond_accuracy.item_distance import item_distance
from segue.evaluation.beyond_accuracy.lists import Lists, Values

__all__ = ["diversity", "serendipity", "unexpectedness"]


def diversity(lists: Lists, feature: str | None = None) -> Values:
    """Compute the intra-list diversity: the mean distance of two items of the list.

    Items whose feature is not known are left out; NaN with fewer than two others. Ziegler et al. 2005,
    doi:10.1145/1060745.1060754; Vargas and Castells 2011, doi:10.1145/2043932.2043955.

    Args:
        feature: name of an item feature with categories, tags or vectors; ``None``: co-occurrence in training.
    """
    return item_distance(lists.training, feature).within(lists)


def unexpectedness(lists: Lists, feature: str | None = None) -> Values:
    """Compute the unexpectedness: the mean distance of the list to the history.

    Every distinct item of the history counts once. NaN where the history is empty. It is the distance-based novelty of
    Vargas and Castells 2011, doi:10.1145/2043932.2043955, without discounts by rank and relevance.

    Args:
        feature: as for :func:`diversity`.
    """
    return lists.mean(_distances_to_history(lists, feature))


def serendipity(lists: Lists, feature: str | None = None) -> Values:
    """Compute the serendipity: the mean unexpectedness of the true items of a list.

    The mean is over all items of the list. Other items count as 0: only what is both unexpected and relevant is
    serendipitous (Ge, Delgado-Battenfeld and Jannach 2010, doi:10.1145/1864708.1864761). It is the distance-based
    novelty of Vargas and Castells 2011 with binary relevance. NaN where the history is empty or the query has no true
    item. Items without a known feature are left out, whether they are true or not.

    Args:
        feature: as for :func:`diversity`.
    """
    distances_Nk = _distances_to_history(lists, feature)
    counted_Nk = lists.is_relevant | np.isnan(distances_Nk)  # items without the feature are left out, true or not
    values = lists.mean(np.where(counted_Nk, distances_Nk, 0.0))
    is_defined = (lists.held_out.targets.lengths > 0) & (lists.held_out.queries.history.lengths > 0)
    return np.where(is_defined, values, np.nan)


def _distances_to_history(lists: Lists, feature: str | None) -> Values:
    """Return the mean distance of each item to those of the history, ``(N, k)``."""
    if feature not in lists.history_distances:
        lists.history_distances[feature] = item_distance(lists.training, feature).to_history(lists.whole or lists)
    return lists.history_distances[feature][:, : lists.items.shape[1]]
