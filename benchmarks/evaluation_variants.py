"""Metrics of RecTools, RecBole and LensKit: Segue's metric of the same kind, and a formula that gives their value.

A formula reads a case, which has lists, targets and training events, and a cutoff k. It is written from the definition,
not from the code of the library, and must give the library's value in every case.

Shapes: N queries, k positions, I items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation_cases import Case
from segue.core.types import HeldOut, Recommendations
from segue.evaluation.beyond_accuracy.training_data import TrainingData

__all__ = ["VARIANTS", "Variant"]

Formula = Callable[[Case, int], float]
Values = NDArray[Any]


@dataclass(frozen=True)
class Variant:
    """A metric of another library."""

    library: str
    name: str
    """As the library names it, without the cutoff."""
    metric: str | None
    """Segue's metric of the same kind without the cutoff; ``None``: there is none."""
    definition: str
    """What the formula computes; empty: the same as Segue's metric, which then is the formula."""
    formula: Formula | None = None
    has_cutoff: bool = True


# --- what formulas have in common -------------------------------------------------------------------------------------


def _hits(case: Case, k: int) -> NDArray[np.bool_]:
    return case.hits[:, :k]


def _found(case: Case, k: int) -> Values:
    found: Values = _hits(case, k).sum(axis=1).astype(np.float64)
    return found


def _ranks(case: Case, k: int) -> Values:
    return np.arange(1.0, 1 + min(k, case.hits.shape[1]))


def _lengths(case: Case, k: int) -> NDArray[np.int64]:
    return np.minimum(case.lengths, k)


def _over_targets(case: Case, values_N: Values) -> float:
    """Average over the queries with a target."""
    return float(values_N[case.n_relevant > 0].mean())


def _over_lists(case: Case, values_N: Values) -> float:
    """Average over the queries with a list; a query without a target has the value 0."""
    return float(np.where(case.n_relevant > 0, values_N, 0.0)[case.lengths > 0].mean())


def _ratio(numerator: Values, denominator: Values) -> Values:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, np.float64), where=denominator > 0)


def _precision_sums(case: Case, k: int) -> Values:
    """Sum the precision at the rank of each target found."""
    hits = _hits(case, k)
    sums: Values = (hits * np.cumsum(hits, axis=1) / _ranks(case, k)).sum(axis=1)
    return sums


def _gains(case: Case, k: int, weights: Values) -> Values:
    gains: Values = _hits(case, k).astype(np.float64) @ weights
    return gains


def _log_weights(ranks: Values) -> Values:
    """Return the weights 1 / log2(1 + rank)."""
    return 1.0 / np.log2(1.0 + ranks)


def _clipped_weights(ranks: Values) -> Values:
    """Return the weights of Järvelin and Kekäläinen 2002: 1 / log2(rank), and 1 for rank 1."""
    return 1.0 / np.log2(np.maximum(ranks, 2.0))


def _ideal(k: int, weights_of: Callable[[Values], Values]) -> float:
    """Return the gain of a list of k relevant items."""
    return float(weights_of(np.arange(1.0, k + 1)).sum())


def _counts(case: Case, k: int) -> NDArray[np.int64]:
    """Count the lists with each item, ``(I,)``."""
    return np.bincount(case.items[:, :k][case.is_used[:, :k]], minlength=case.n_items)


def _gini(exposure_I: Values) -> float:
    """Compute the mean absolute difference of two items, divided by twice the mean."""
    x, n = np.sort(exposure_I).astype(np.float64), len(exposure_I)
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * x.sum()))


def _mean_of_lists(case: Case, values_Nk: Values, k: int) -> float:
    """Average over the places of each list, then over the queries with a list."""
    used = case.is_used[:, :k]
    means_N = np.where(used, values_Nk, 0.0).sum(axis=1) / np.maximum(used.sum(axis=1), 1)
    return float(means_N[used.any(axis=1)].mean())


# --- RecTools ---------------------------------------------------------------------------------------------------------


def _negatives_before(case: Case, k: int) -> Values:
    """Count the places above each place that have no target, ``(N, L)`` over the whole lists."""
    return np.cumsum(case.is_used & ~case.hits, axis=1).astype(np.float64)


def _partial_auc(case: Case, k: int) -> float:
    before = _negatives_before(case, k)
    counted = case.hits & (before < k)
    return _over_targets(case, _ratio(((k - before) * counted).sum(axis=1), 1.0 * case.n_relevant * k))


def _pap(case: Case, k: int) -> float:
    before = _negatives_before(case, k)
    counted = case.hits & (before < k) & (np.cumsum(case.hits, axis=1) <= k)
    return _over_targets(case, _ratio(((k - before) * counted).sum(axis=1), 1.0 * np.minimum(case.n_relevant, k) * k))


def _accuracy(case: Case, k: int) -> float:
    found = _found(case, k)
    true_negatives = case.n_items - k - (case.n_relevant - found)
    return _over_targets(case, (found + true_negatives) / case.n_items)


def _mcc(case: Case, k: int) -> float:
    found = _found(case, k)
    wrong, missed = k - found, case.n_relevant - found
    rest = case.n_items - k - missed
    root = np.sqrt((found + wrong) * (found + missed) * (rest + wrong) * (rest + missed))
    return _over_targets(case, _ratio(found * rest - wrong * missed, root))


def _rectools_serendipity(case: Case, k: int) -> float:
    events_I = case.training.item_events
    levels = np.unique(events_I[events_I > 0])[::-1]  # items with equally many events share a rank
    place_I = 1 + np.argmax(levels[None, :] == events_I[:, None], axis=1)
    n = case.n_items
    popular_I = np.where(events_I > 0, (n + 1 - place_I) / n, 0.0)
    surplus = np.maximum((n + 1 - _ranks(case, k)) / n - popular_I[case.items[:, :k]], 0.0)
    return _mean_of_lists(case, surplus * _hits(case, k), k)


def _hamming_diversity(case: Case, k: int) -> float:
    tags = case.tags[case.items[:, :k]] & case.is_used[:, :k, None]
    with_tag = tags.sum(axis=1).astype(np.float64)
    lengths = _lengths(case, k)[:, None]
    differing = (with_tag * (lengths - with_tag)).sum(axis=1)  # pairs of which one item has the tag
    pairs = lengths[:, 0] * (lengths[:, 0] - 1) / 2
    return float(_ratio(differing, pairs)[case.lengths > 0].mean())


def _covered_users(case: Case, k: int) -> float:
    return _over_targets(case, (case.lengths > 0).astype(np.float64))


RECTOOLS = (
    Variant("RecTools", "Precision", "precision", ""),
    Variant(
        "RecTools", "Precision(r_precision=True)", "r_precision", "found among k items, divided by min(relevant, k)",
        lambda c, k: _over_targets(c, _ratio(_found(c, k), 1.0 * np.minimum(c.n_relevant, k))),
    ),
    Variant("RecTools", "Recall", "recall", ""),
    Variant("RecTools", "HitRate", "hit_rate", ""),
    Variant("RecTools", "F1Beta", "f1", ""),
    Variant("RecTools", "MRR", "mrr", ""),
    Variant(
        "RecTools", "MAP", "map", "divided by the number of relevant items",
        lambda c, k: _over_targets(c, _ratio(_precision_sums(c, k), 1.0 * c.n_relevant)),
    ),
    Variant(
        "RecTools", "MAP(divide_by_k=True)", "map", "divided by k",
        lambda c, k: _over_targets(c, _precision_sums(c, k) / k),
    ),
    Variant(
        "RecTools", "NDCG", "ndcg", "divided by the gain of k relevant items, also where there are fewer",
        lambda c, k: _over_targets(c, _gains(c, k, _log_weights(_ranks(c, k))) / _ideal(k, _log_weights)),
    ),
    Variant("RecTools", "NDCG(divide_by_achievable=True)", "ndcg", ""),
    Variant(
        "RecTools", "PartialAUC", None, "correct pairs of the relevant items and the first k others, in the list only",
        _partial_auc,
    ),
    Variant("RecTools", "PAP", None, "the same with the first k relevant items", _pap),
    Variant(
        "RecTools", "Accuracy", None, "(true positives + true negatives) / items, k positives per user", _accuracy
    ),
    Variant("RecTools", "MCC", None, "Matthews correlation of the same counts", _mcc),
    Variant("RecTools", "MeanInvUserFreq", "novelty", ""),
    Variant("RecTools", "AvgRecPopularity", "popularity", ""),
    Variant(
        "RecTools", "AvgRecPopularity(normalize=True)", "popularity", "divided by the number of training events",
        lambda c, k: _mean_of_lists(c, c.training.item_events[c.items[:, :k]] / c.training.histories.size, k),
    ),
    Variant("RecTools", "CatalogCoverage(normalize=True)", "coverage", ""),
    Variant(
        "RecTools", "CatalogCoverage", "coverage", "number of items instead of their share",
        lambda c, k: float(np.count_nonzero(_counts(c, k))),
    ),
    Variant(
        "RecTools", "Serendipity", "serendipity",
        "relevant items only: by how much the rank in the list is above the rank by popularity, divided by the items",
        _rectools_serendipity,
    ),
    Variant(
        "RecTools", "IntraListDiversity", "diversity:genres",
        "Hamming distance: number of tags that one of the two items has; 0 for a list of one item", _hamming_diversity,
    ),
    Variant("RecTools", "CoveredUsers", None, "share of users with a target who have a list", _covered_users),
    Variant(
        "RecTools", "SufficientReco", None, "share of lists with k items",
        lambda c, k: float((c.lengths >= k)[c.lengths > 0].mean()),
    ),
    Variant("RecTools", "UnrepeatedReco", None, "share of lists without a repetition; Segue refuses others",
            lambda c, k: 1.0),
)  # fmt: skip


# --- RecBole: lists that it completes, of users with a target ---------------------------------------------------------


def _completed(case: Case) -> Case:
    """Return the case of RecBole: users with a target, lists of equal length, and a padding item in the catalog.

    The padding item, -1 in ``completed``, is the last one here.
    """
    assert case.completed is not None
    rows = np.flatnonzero(case.n_relevant)
    items = np.where(case.completed < 0, case.n_items, case.completed).astype(np.int32)
    lists = Recommendations(items, np.zeros(items.shape, np.float32), np.full(len(rows), items.shape[1]))
    held_out = HeldOut(case.held_out.queries.take(rows), case.held_out.targets.take(rows))
    return Case(case.name, case.description, lists, held_out, TrainingData(case.training.histories, case.n_items + 1))


def _on_completed(metric: Formula) -> Formula:
    return lambda case, k: metric(_completed(case), k)


def _of_segue(name: str) -> Formula:
    """Return the formula of a metric of Segue, computed from the lists of a case."""

    def compute(case: Case, k: int) -> float:
        from segue.evaluation.evaluate import evaluate_lists

        result = evaluate_lists(case.lists, case.held_out, (k,), [f"{name}@{k}"], training=case.training)
        return result[f"{name}@{k}"].mean

    return compute


def _entropy(case: Case, k: int) -> float:
    counts = _counts(case, k)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / len(shares))


def _tail_percentage(case: Case, k: int) -> float:
    events_I = case.training.item_events
    trained = np.flatnonzero(events_I)
    order = trained[np.lexsort((trained, events_I[trained]))]
    is_tail = np.zeros(case.n_items)
    is_tail[order[: max(1, len(trained) // 10)]] = 1.0
    return _mean_of_lists(case, is_tail[case.items[:, :k]], k)


def _gauc(case: Case, k: int) -> float:
    """Average the AUC of the queries, weighted by their targets, from ranks among all items that have a score."""
    assert case.scores is not None
    total, weight = 0.0, 0
    for row, scores in enumerate(case.scores):
        true = case.grades[row] > 0
        ranked = np.isfinite(scores)
        n_true, n_others = int(true.sum()), int((ranked & ~true).sum())
        if n_true and n_others:
            own, others = scores[true][:, None], scores[ranked & ~true][None, :]
            total += ((own > others).sum() + 0.5 * (own == others).sum()) / n_others
            weight += n_true
    return total / weight


SAME = "the same, on lists that `torch.topk` completes to k items with removed items, which may be relevant"

RECBOLE = (
    *(
        Variant("RecBole", name, metric, SAME, _on_completed(_of_segue(metric)))
        for name, metric in (
            ("Precision", "precision"), ("Recall", "recall"), ("Hit", "hit_rate"), ("MRR", "mrr"), ("MAP", "map"),
            ("NDCG", "ndcg"),
        )
    ),
    Variant("RecBole", "GAUC", "auc", "the mean over the users, weighted by their relevant items", _gauc, False),
    Variant("RecBole", "AveragePopularity", "popularity", f"{SAME}; users with a target only",
            _on_completed(_of_segue("popularity"))),
    Variant(
        "RecBole", "ItemCoverage", "coverage",
        "its padding item counts as an item; completed lists of users with a target",
        _on_completed(_of_segue("coverage")),
    ),
    Variant(
        "RecBole", "GiniIndex", "gini", "its padding item counts as an item; completed lists of users with a target",
        _on_completed(_of_segue("gini")),
    ),
    Variant(
        "RecBole", "ShannonEntropy", "entropy",
        "natural logarithm, divided by the number of recommended items; completed lists of users with a target",
        _on_completed(_entropy),
    ),
    Variant(
        "RecBole", "TailPercentage", "tail_share",
        "the tail is the tenth of the trained items with the fewest events; completed lists of users with a target",
        _on_completed(_tail_percentage),
    ),
)  # fmt: skip


# --- LensKit: mean over the users with a list -------------------------------------------------------------------------


def _lenskit_ndcg(weights_of: Callable[[Values], Values]) -> Formula:
    def compute(case: Case, k: int) -> float:
        ideal = np.append(0.0, np.cumsum(weights_of(np.arange(1.0, k + 1))))[np.minimum(case.n_relevant, k)]
        return _over_lists(case, _ratio(_gains(case, k, weights_of(_ranks(case, k))), ideal))

    return compute


def _graded_ndcg(case: Case, k: int) -> float:
    weights = _clipped_weights(np.arange(1.0, k + 1))
    grades = np.take_along_axis(case.grades, case.items.astype(np.int64), axis=1)[:, :k] * _hits(case, k)
    ideal = -np.sort(-case.grades, axis=1)[:, :k] @ weights
    return _over_lists(case, _ratio(grades @ weights[: grades.shape[1]], ideal))


def _rbp(case: Case, k: int, patience: float) -> Values:
    return (1 - patience) * _gains(case, k, patience ** (_ranks(case, k) - 1))


def _normalized_rbp(case: Case, k: int) -> float:
    best = np.append(0.0, np.cumsum(0.85 ** np.arange(k)))[np.minimum(case.n_relevant, _lengths(case, k))]
    return _over_lists(case, _ratio(_rbp(case, k, 0.85) / 0.15, best))


def _exposure_gini(case: Case, k: int) -> float:
    weights = np.broadcast_to(0.85 ** (_ranks(case, k) - 1), (len(case.lists), len(_ranks(case, k))))
    used = case.is_used[:, :k]
    return _gini(np.bincount(case.items[:, :k][used], weights[used], case.n_items))


def _mean_popularity_rank(case: Case, k: int) -> float:
    from scipy.stats import rankdata

    users_I = case.training.item_users
    quantile_I = np.zeros(case.n_items)
    quantile_I[users_I > 0] = rankdata(users_I[users_I > 0]) / np.count_nonzero(users_I)
    return _mean_of_lists(case, quantile_I[case.items[:, :k]], k)


USERS = "mean over the users with a list, those without a relevant item have 0"

LENSKIT = (
    Variant(
        "LensKit", "Precision", "precision", f"divided by the length of the list; {USERS}",
        lambda c, k: _over_lists(c, _ratio(_found(c, k), 1.0 * _lengths(c, k))),
    ),
    Variant(
        "LensKit", "Recall", "recall", f"divided by min(relevant, k); {USERS}",
        lambda c, k: _over_lists(c, _ratio(_found(c, k), 1.0 * np.minimum(c.n_relevant, k))),
    ),
    Variant("LensKit", "Hit", "hit_rate", USERS, lambda c, k: _over_lists(c, 1.0 * (_found(c, k) > 0))),
    Variant(
        "LensKit", "RecipRank", "mrr", USERS,
        lambda c, k: _over_lists(c, (_hits(c, k) / _ranks(c, k)).max(axis=1)),
    ),
    Variant(
        "LensKit", "AveragePrecision", "map",
        "divided by min(relevant, length of the list); mean over the users with a list; fails without a relevant item",
        lambda c, k: _over_lists(c, _ratio(_precision_sums(c, k), 1.0 * np.minimum(c.n_relevant, _lengths(c, k)))),
    ),
    Variant(
        "LensKit", "NDCG", "ndcg", f"weights 1 / max(1, log2(rank)); {USERS}", _lenskit_ndcg(_clipped_weights),
    ),
    Variant("LensKit", "NDCG(weight=LogRankWeight(offset=1))", "ndcg", USERS, _lenskit_ndcg(_log_weights)),
    Variant(
        "LensKit", "NDCG(gain='rating')", "ndcg",
        f"gains are the values of the targets, weights 1 / max(1, log2(rank)); {USERS}", _graded_ndcg,
    ),
    Variant(
        "LensKit", "DCG", None, f"not divided by the ideal gain; {USERS}",
        lambda c, k: _over_lists(c, _gains(c, k, _clipped_weights(_ranks(c, k)))),
    ),
    Variant("LensKit", "RBP(patience=0.8)", "rbp", USERS, lambda c, k: _over_lists(c, _rbp(c, k, 0.8))),
    Variant("LensKit", "RBP", "rbp:0.85", f"its default patience is 0.85; {USERS}",
            lambda c, k: _over_lists(c, _rbp(c, k, 0.85))),
    Variant(
        "LensKit", "RBP(normalize=True)", "rbp:0.85", f"divided by the highest value for these targets; {USERS}",
        _normalized_rbp,
    ),
    Variant("LensKit", "ListGini", "gini", ""),
    Variant("LensKit", "ExposureGini", "gini", "each place weighs 0.85 ** (rank - 1)", _exposure_gini),
    Variant("LensKit", "MeanPopRank", "popularity", "mean rank by training users, as a quantile of the trained items",
            _mean_popularity_rank),
)  # fmt: skip

VARIANTS = (*RECTOOLS, *RECBOLE, *LENSKIT)
"""Every metric of the libraries that reads lists and needs no second list."""
