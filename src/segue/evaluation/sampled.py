"""Where the truth stands among a few items drawn at random: cheap, common in older papers, and another scale.

Metrics of such a ranking are called ``sampled_...``, because they are neither the metrics of the whole catalogue nor
consistent with them: they may even order models differently (Krichene and Rendle 2020, doi:10.1145/3394486.3403226).
The protocol of neural collaborative filtering (He et al. 2017, arXiv:1708.05031) ranks the target among 99 others.

Shapes: N queries, I items, R queries of one block, S drawn items.
"""

from __future__ import annotations

import numpy as np

from segue.core.model import Recommender
from segue.core.types import Codes, HeldOut, Ranks, Recommendations
from segue.evaluation.ranking import distinct

__all__ = ["draw", "rank_sampled"]

BLOCK_KEYS = 8_000_000


def rank_sampled(model: Recommender, held_out: HeldOut, negatives: int, seed: int = 0) -> Ranks:
    """The rank of every query's only target among itself and ``negatives`` items drawn for the query.

    Raises:
        ValueError: a query with several targets, too small a catalogue, or scores that are not finite.
    """
    targets = distinct(held_out.targets)
    asked = np.flatnonzero(targets.lengths)
    if targets.lengths.max(initial=0) > 1:
        row = int(np.argmax(targets.lengths))
        raise ValueError(
            f"sampled ranking: query {row} has {targets.lengths[row]} targets, expected one for each query"
        )
    drawn_NS = draw(held_out, model.domain.n_items, negatives, seed)
    scores_NS = np.zeros((len(held_out), negatives + 1), np.float32)
    step = max(1, BLOCK_KEYS // model.domain.n_items)
    for start in range(0, len(held_out), step):
        block = held_out.queries.block(start, start + step)
        scores_NS[start : start + len(block)] = model.score(block, drawn_NS[start : start + len(block)])
    if not np.isfinite(scores_NS).all():
        raise ValueError(f"{type(model).__name__}: a score is not finite, expected a number for each candidate")
    true_N1 = scores_NS[asked, :1]
    greater = np.count_nonzero(scores_NS[asked, 1:] > true_N1, axis=1)
    equal = np.count_nonzero(scores_NS[asked, 1:] == true_N1, axis=1)
    eligible = np.full(len(held_out), negatives + 1)
    return Ranks(targets.offsets, greater, equal, eligible, Recommendations.joined([], 1))


def draw(held_out: HeldOut, n_items: int, negatives: int, seed: int) -> Codes:
    """``(N, 1 + negatives)`` each query's target (item 0 where there is none), and distinct items the user never had.

    The same seed draws the same for every model.

    Raises:
        ValueError: a user has had so much that fewer than ``negatives`` items are left.
    """
    targets, history = distinct(held_out.targets), held_out.queries.history
    rng = np.random.default_rng(seed)
    drawn_NS = np.zeros((len(held_out), 1 + negatives), np.int32)
    drawn_NS[targets.rows, 0] = targets.items
    step = max(1, BLOCK_KEYS // n_items)
    for start in range(0, len(held_out), step):
        had, true = history.block(start, start + step), targets.block(start, start + step)
        keys_RI = rng.random((len(had), n_items), dtype=np.float32)
        keys_RI[had.rows, had.items] = 2.0
        keys_RI[true.rows, true.items] = 2.0
        left_R = np.count_nonzero(keys_RI < 2.0, axis=1)
        if negatives >= n_items or left_R.min(initial=n_items) < negatives:
            row = start + int(np.argmin(left_R))
            raise ValueError(
                f"sampled ranking: {negatives} items to be drawn, query {row} has {left_R.min()} left to draw"
            )
        drawn_NS[start : start + len(had), 1:] = np.argpartition(keys_RI, negatives, axis=1)[:, :negatives]
    return drawn_NS
