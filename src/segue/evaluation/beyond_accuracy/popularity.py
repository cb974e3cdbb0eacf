"""Novelty, popularity and popularity bias of the recommended items.

Every function takes lists and returns one value per query, ``(N,)``: a mean over the items of its list. NaN marks a
list without items.

Shapes: N queries, k positions, I items.
"""

from __future__ import annotations

import numpy as np

from segue.evaluation.beyond_accuracy.lists import Lists, Values
from segue.evaluation.popularity_groups import popularity_groups

__all__ = ["head_share", "middle_share", "novelty", "popularity", "popularity_lift", "tail_share"]


def novelty(lists: Lists) -> Values:
    """Compute novelty: the mean self-information of the recommended items, in bits.

    It is -log2 of the share of training users who have the item. An item without training users counts as one with a
    single user. Vargas and Castells 2011, doi:10.1145/2043932.2043955; Zhou et al. 2010, doi:10.1073/pnas.1000488107.
    """
    training = lists.training
    share_I = np.maximum(training.item_users, 1) / max(training.n_users, 1)
    return lists.mean(-np.log2(share_I)[lists.items])


def popularity(lists: Lists) -> Values:
    """Compute the average popularity: the mean number of training events of the items.

    Also known as ARP; lower values mean less popular items. Yin et al. 2012, arXiv:1205.6700.
    """
    return lists.mean(lists.training.item_events[lists.items].astype(np.float64))


def popularity_lift(lists: Lists) -> Values:
    """Compute the popularity lift: how much more popular the list is than the history.

    It is the average popularity of the list divided by that of the items in the history, minus 1: 0 where the model
    amplifies no popularity, negative where its items are less popular. NaN where the history is empty or its items have
    no training events. Abdollahpouri et al. 2020, doi:10.1145/3383313.3418487, here per user.
    """
    history = lists.held_out.queries.history
    events_T = lists.training.item_events[history.items]
    own = np.bincount(history.rows, events_T, len(lists)) / np.maximum(history.lengths, 1)
    return np.where(own > 0, popularity(lists) / np.where(own > 0, own, 1.0) - 1.0, np.nan)


def head_share(lists: Lists) -> Values:
    """Compute the share of the list in the head.

    The head are the most popular items with a fifth of the training events.
    """
    return _group_share(lists, "head")


def middle_share(lists: Lists) -> Values:
    """Compute the share of the list that is neither in the head nor in the tail."""
    return _group_share(lists, "middle")


def tail_share(lists: Lists) -> Values:
    """Compute the share of the list in the tail.

    The tail are the least popular items with a fifth of the training events. Also known as APLT. Abdollahpouri, Burke
    and Mobasher 2019, arXiv:1901.07555.
    """
    return _group_share(lists, "tail")


def _group_share(lists: Lists, group: str) -> Values:
    """Return the share of each list that is in a group of :func:`popularity_groups`."""
    masks = {name: mask_I for name, _, mask_I in popularity_groups(lists.training.item_events)}
    return lists.mean(masks[group][lists.items].astype(np.float64))
