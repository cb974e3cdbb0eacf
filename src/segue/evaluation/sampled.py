"""Rank each target among a few randomly sampled items.

Such rankings are cheap and common in older papers, but their metrics are on another scale.

Metrics of such a ranking are named ``sampled_...``: they differ from the metrics over the whole catalog, are not
consistent with them, and may even order models differently (Krichene and Rendle 2020, doi:10.1145/3394486.3403226). The
protocol of neural collaborative filtering (He et al. 2017, arXiv:1708.05031) samples 99 items without interactions of
the user and ranks the target among them. No user has the same item twice in its data. In data with repetitions, a
target that is also in the history is treated as in the ranking of the whole catalog.

Shapes: N queries, I items, R queries of one block, S sampled items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Recommender
from segue.core.types import Codes, Events, HeldOut, Mask, Ranks, Recommendations
from segue.evaluation.ranking import ExcludeSeen, deduplicate, removed_events

__all__ = ["check_sampling", "rank_sampled", "sample_candidates"]

BLOCK_KEYS = 8_000_000
"""Random keys drawn at once."""


def rank_sampled(
    model: Recommender,
    held_out: HeldOut,
    negatives: int,
    seed: int = 0,
    candidates: Mask | None = None,
    exclude_seen: ExcludeSeen = True,
) -> Ranks:
    """Rank the only target of each query among ``negatives`` sampled items.

    As in the ranking of the whole catalog, items that the model cannot score are ranked last, and a target that
    ``exclude_seen`` removes cannot be found: all sampled items count as higher. With ``candidates`` ``(n_items,)`` only
    these items are sampled.

    Raises:
        ValueError: a query with several targets, too small a catalog, or scores that are not finite.
    """
    targets = deduplicate(held_out.targets)
    with_target = np.flatnonzero(targets.lengths)
    sampled_NS = sample_candidates(held_out, model.schema.n_items, negatives, seed, candidates)
    scores_NS = np.zeros((len(held_out), negatives + 1), np.float32)
    step = max(1, BLOCK_KEYS // model.schema.n_items)
    for start in range(0, len(held_out), step):
        block = held_out.queries.rows_between(start, start + step)
        scores_NS[start : start + len(block)] = model.score(block, sampled_NS[start : start + len(block)])
    if not np.isfinite(scores_NS).all():
        raise ValueError(f"{type(model).__name__}: a score is not finite, expected a number for each candidate")
    scores_NS[sampled_NS >= model.schema.n_items - model.schema.n_unscored] = -np.inf
    true_N1 = scores_NS[with_target, :1]
    greater = np.count_nonzero(scores_NS[with_target, 1:] > true_N1, axis=1)
    equal = np.count_nonzero(scores_NS[with_target, 1:] == true_N1, axis=1)
    eligible = np.full(len(held_out), negatives + 1)
    if exclude_seen:
        seen = removed_events(held_out.queries.history, exclude_seen)
        is_removed = np.isin(_pairs(targets, model.schema.n_items), _pairs(seen, model.schema.n_items))
        greater[is_removed], equal[is_removed] = negatives, 0
        eligible[targets.rows[is_removed]] -= 1
    return Ranks(targets.offsets, greater, equal, eligible, Recommendations.concat([], 1))


def sample_candidates(
    held_out: HeldOut, n_items: int, negatives: int, seed: int, candidates: Mask | None = None
) -> Codes:
    """Sample distinct unseen items for each query.

    Returns ``(N, 1 + negatives)``: the query's target, then items that are not in the user's history.

    A query without a target has item 0 in its place. The same seed draws the same items for every model.

    Raises:
        ValueError: see :func:`check_sampling`.
    """
    check_sampling(held_out, n_items, negatives, candidates)
    targets, history = deduplicate(held_out.targets), held_out.queries.history
    rng = np.random.default_rng(seed)
    sampled_NS = np.zeros((len(held_out), 1 + negatives), np.int32)
    sampled_NS[targets.rows, 0] = targets.items
    step = max(1, BLOCK_KEYS // n_items)
    for start in range(0, len(held_out), step):
        seen, true = history.rows_between(start, start + step), targets.rows_between(start, start + step)
        keys_RI = rng.random((len(seen), n_items), dtype=np.float32)
        keys_RI[seen.rows, seen.items] = 2.0
        keys_RI[true.rows, true.items] = 2.0
        if candidates is not None:
            keys_RI[:, ~candidates] = 2.0
        sampled_NS[start : start + len(seen), 1:] = np.argpartition(keys_RI, negatives, axis=1)[:, :negatives]
    return sampled_NS


def check_sampling(held_out: HeldOut, n_items: int, negatives: int | None, candidates: Mask | None = None) -> None:
    """Check that targets can be ranked among ``negatives`` sampled items.

    ``None``: nothing is sampled, and nothing is checked.

    Raises:
        ValueError: a query has several targets, or some users have too few unseen items.
    """
    if negatives is None:
        return
    if negatives >= n_items:
        raise ValueError(f"sampled: got {negatives:,}, expected fewer than the {n_items:,} items of the catalog")
    is_candidate = np.ones(n_items, np.bool_) if candidates is None else candidates
    seen, targets = (part.where(is_candidate[part.items]) for part in (held_out.queries.history, held_out.targets))
    lengths = deduplicate(targets).lengths
    if lengths.max(initial=0) > 1:
        row = int(np.argmax(lengths))
        raise ValueError(f"sampled: query {row} has {lengths[row]} targets, expected at most one")
    distinct = np.unique(np.concatenate([_pairs(part, n_items) for part in (seen, targets)]))
    n_candidates = int(is_candidate.sum())
    left_N = n_candidates - np.bincount(distinct // n_items, minlength=len(held_out))
    if short := int(np.count_nonzero(left_N < negatives)):
        raise ValueError(
            f"sampled: the users of {short:,} of {len(held_out):,} queries have fewer than {negatives:,} unseen items "
            f"among {n_candidates:,}; the fewest are {left_N.min():,}, of query {np.argmin(left_N)}; expected at least "
            f"{negatives:,} to sample; rank the whole catalog (protocol=full), or sample fewer (evaluation.sampled)"
        )


def _pairs(events: Events, n_items: int) -> NDArray[np.int64]:
    """Return one number for each pair of query and item."""
    return events.rows * n_items + events.items
