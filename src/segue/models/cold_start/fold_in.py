"""Fold new users in: combine a prior with what their first events tell.

The score of an item is a log-linear combination (Genest and Zidek 1986, doi:10.1214/ss/1177013825) of the prior, such
as the popularity or a model of profiles, and of the lifts of the base models, that is, of the factors by which they
raise the probability of the item above its popularity:

    log p(i | history) = w_0(n) log prior_n(i) + sum_b w_b(n) log lift_b(i | history) + constant

Here n is the length of the history. The prior counts what users choose after their first n events, see
:mod:`segue.solvers.popularity`. After one event, a base model deserves less trust than after ten.
They are learned from training users who are treated as new: each of :data:`FOLDS` parts of the users is left out of the
training of all models in turn. For each n, the weights first maximize the likelihood of the events of these users after
their first n. Likelihood rewards the whole distribution, not the top of the list, so the weights of the bases are then
multiplied by the smallest factor whose nDCG@10 is within one standard error of the best (Breiman et al. 1984,
"Classification and regression trees"). Which factor that is varies between samples of users, so it is the mean over
bootstrap samples (Breiman 1996, doi:10.1007/BF00058655), and is smoothed over n. Then the models are trained on all
users. Without events, the ranking is that of the prior.

Shapes: N queries, I items, C candidates, F the prior and the base models, H lengths of histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray
from pydantic import Field, model_validator

from segue.core.config import Settings
from segue.core.model import Model, Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.recommend import top_k
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Mask, Queries, Scores
from segue.solvers.popularity import later_lifts, popularity_distribution
from segue.solvers.profiles.base_models import (
    base_arrays,
    build_base,
    check_base,
    check_restorable,
    combine_schemas,
    restore_base,
)

__all__ = ["FoldIn"]

Numbers = NDArray[np.float64]

LENGTHS = (1, 2, 3, 5, 8, 12, 20, 35, 60)
"""Lengths of histories at which weights are learned; those between are interpolated by log(n)."""
FOLDS = 3
"""Parts of the users that are treated as new in turn."""
MAX_CELLS = 8_000_000
"""Scores of the users of a part that are held in memory; further users are not used."""
SMOOTHING = 1.0
"""Weight of the popularity in the probabilities of a base model that does not return logits."""
FACTORS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Factors of the weights of the bases to choose from."""
RESAMPLES = 100
"""Bootstrap samples of users that the factor is chosen from."""
TOP = 10
"""Length of the lists that the factor is chosen by."""
L2 = 0.1
"""Regularization of the weights towards those of the naive combination, in users."""


class FoldIn(Solver):
    """Trust base models more with each event of the user."""

    scale = "logit"

    class Config(Settings):
        """Settings of ``fold_in``."""

        prior: str = "popular"
        """Key of the model that ranks for users without events; ``profile_model`` if the data has user features."""
        bases: Annotated[tuple[str, ...], MinLen(1)] = ("user_knn",)
        """Keys of the models that read the history. Like the prior, they may not be trained in epochs."""
        base_settings: dict[str, dict[str, Any]] = Field(default={})
        """Settings of prior and base models that differ from their defaults, by key."""
        later_popularity: bool = True
        """Whether the prior is corrected by what users choose after their first events, as many as the query has.
        Items that are chosen at the beginning or not at all then fall with each event."""

        @model_validator(mode="after")
        def _check_bases(self) -> Self:
            keys = self.prior, *self.bases
            for where, key in (("prior", self.prior), *(("bases", base) for base in self.bases)):
                check_base(key, self.base_settings.get(key, {}), ("fold_in", "exploration", "hybrid"), where)
            if unused := self.base_settings.keys() - set(keys):
                raise ValueError(f"base_settings: got settings of {sorted(unused)}, expected some of {', '.join(keys)}")
            if len(set(keys)) < len(keys):
                raise ValueError(f"bases: got {list(self.bases)} and the prior {self.prior}, expected different models")
            return self

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.keys = config.prior, *config.bases
        self.models = self._build(schema)

    def _build(self, schema: DataSchema) -> list[Solver]:
        return [build_base(key, self.config.base_settings.get(key, {}), schema) for key in self.keys]

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Learn the weights, then train the models on all users.

        Raises:
            ValueError: a model cannot be trained on the data.
        """
        self.weights_HF = self._learn_weights(train, run)
        self.models = self._build(train.schema)
        self._train(train, run)
        self.schema = combine_schemas(train.schema, self.models)
        check_restorable(self)

    def _train(self, data: Dataset, run: Run) -> None:
        """Train the models and compute the popularity."""
        for model in self.models:
            model.fit(data, run, None)
        self.log_popularity_I = np.log(popularity_distribution(data))
        self.later_lifts_HI = np.zeros((len(LENGTHS), data.n_items), np.float32)
        if self.config.later_popularity:
            self.later_lifts_HI = later_lifts(data, LENGTHS)

    def _learn_weights(self, train: Dataset, run: Run) -> Numbers:
        """Learn the weights ``(H, F)`` from users treated as new."""
        able = run.rng("users").permutation(np.flatnonzero(train.histories.lengths > 1))
        limit = max(1, MAX_CELLS // (train.n_items * len(self.keys)))
        found: list[list[_Simulation]] = [[] for _ in LENGTHS]
        for part in np.array_split(able, FOLDS):
            is_new_U = np.zeros(train.n_users, np.bool_)
            is_new_U[part] = True
            rest = train.with_histories(train.histories.where(~is_new_U[train.histories.rows]))
            if not len(part) or not rest.histories.size:
                continue
            self.models = self._build(train.schema)
            self._train(rest, run)
            for simulations, length in zip(found, LENGTHS, strict=True):
                users = part[:limit][train.histories.lengths[part[:limit]] > length]
                if len(users):
                    simulations.append(self._simulate(train, users, length))
        weights_HF = np.tile(self._naive_weights(), (len(LENGTHS), 1))
        factors, rng = list[float](), run.rng("factors")
        for row, simulations in enumerate(found):
            if simulations:
                weights_HF[row:] = _maximize_likelihood(simulations, self._naive_weights())
                factors.append(_choose_factor(simulations, weights_HF[row], rng))
        if factors:
            factors_H = _smooth(np.array(factors))
            weights_HF[:, 1:] *= np.pad(factors_H, (0, len(LENGTHS) - len(factors_H)), "edge")[:, None]
        return weights_HF

    def _naive_weights(self) -> Numbers:
        n_bases = len(self.config.bases)
        return np.array([1.0, *[1.0 / n_bases] * n_bases])

    def _simulate(self, train: Dataset, users: NDArray[np.int64], length: int) -> _Simulation:
        """Treat the first events of some users as those of new ones."""
        history = train.histories.take(users)
        first = history.slice_rows(np.zeros(len(users), np.int64), np.full(len(users), length))
        later = history.slice_rows(np.full(len(users), length), history.lengths)
        profile = None if train.user_features is None else train.user_features.collect()[users.tolist()]
        unknown = np.zeros(len(users), np.bool_)
        queries = Queries(first, users.astype(np.int32), unknown, profile=profile)
        counts_NI = later.csr(train.n_items, np.ones(later.size, np.float32)).toarray()
        is_seen_NI = first.csr(train.n_items).toarray() > 0
        counts_NI[is_seen_NI] = 0.0
        return _Simulation(self._features(queries), counts_NI, is_seen_NI)

    def _features(self, queries: Queries) -> list[Scores]:
        """Return log-probabilities of the prior and log-lifts of the bases.

        Each has shape ``(N, I)``.
        """
        lifts = [_log_lift(model, queries, self.log_popularity_I) for model in self.models]
        prior_NI = lifts[0] + self.log_popularity_I
        for length in np.unique(queries.history.lengths):
            if length > 0:
                prior_NI[queries.history.lengths == length] += _interpolate(self.later_lifts_HI, length)
        return [prior_NI, *lifts[1:]]

    @property
    def inner_models(self) -> tuple[Model, ...]:
        """See :attr:`segue.core.model.Model.inner_models`."""
        return tuple(self.models)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return logits of the items."""
        lengths_N = queries.history.lengths
        positions_H, position_N = np.log(LENGTHS), np.log(np.maximum(lengths_N, 1))
        columns = [np.interp(position_N, positions_H, weights_H) for weights_H in self.weights_HF.T]
        weights_NF = np.stack(columns, axis=1).astype(np.float32)
        weights_NF[lengths_N == 0] = [1.0, *[0.0] * len(self.config.bases)]
        scores_NI = np.zeros((len(queries), self.schema.n_items), np.float32)
        for number, feature_NI in enumerate(self._features(queries)):
            scores_NI += weights_NF[:, number : number + 1] * feature_NI
        return select_candidates(scores_NI, candidates)

    def arrays(self) -> StateArrays:
        """Return the weights, the popularity and the arrays of the models."""
        own = {
            "weights": self.weights_HF,
            "log_popularity": self.log_popularity_I,
            "later_lifts": self.later_lifts_HI,
        }
        for key, model in zip(self.keys, self.models, strict=True):
            own |= base_arrays(model, key)
        return own

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.weights_HF = load_array(arrays, "weights", (len(LENGTHS), len(self.keys)), np.float64)
        self.log_popularity_I = load_array(arrays, "log_popularity", (self.schema.n_items,), np.float32)
        self.later_lifts_HI = load_array(arrays, "later_lifts", (len(LENGTHS), self.schema.n_items), np.float32)
        for key, model in zip(self.keys, self.models, strict=True):
            restore_base(model, self.schema, arrays, key)


@dataclass(frozen=True, eq=False)
class _Simulation:
    """Users who are treated as new, after the same number of events."""

    features: list[Scores]
    """``(N, I)`` per model."""
    counts_NI: Scores
    """Later events."""
    is_seen_NI: Mask

    def sums(self, weights_NI: Scores) -> Numbers:
        """Sum each feature over all cells with ``weights_NI``, ``(F,)``, in float64."""
        return np.array([np.einsum("ni,ni->n", weights_NI, part_NI).sum(dtype=np.float64) for part_NI in self.features])

    def logits(self, weights_F: Numbers) -> Scores:
        """Return the combined logits ``(N, I)``; minus infinity for seen items."""
        logits_NI = np.zeros_like(self.counts_NI)
        for weight, part_NI in zip(weights_F, self.features, strict=True):
            logits_NI += np.float32(weight) * part_NI
        logits_NI[self.is_seen_NI] = -np.inf
        return logits_NI

    def ndcg(self, weights_F: Numbers) -> Numbers:
        """Return nDCG of the list of each user; 0 for users without later events."""
        top = top_k(self.logits(weights_F), TOP)
        is_listed_NK = np.arange(TOP) < top.lengths[:, None]
        is_relevant_NK = np.take_along_axis(self.counts_NI, top.items, axis=1) > 0
        discounts_K = 1.0 / np.log2(np.arange(2, TOP + 2))
        n_relevant_N = np.clip((self.counts_NI > 0).sum(axis=1), 1, TOP)
        gains_N = (is_listed_NK & is_relevant_NK) @ discounts_K
        return np.asarray(gains_N / np.cumsum(discounts_K)[n_relevant_N - 1], np.float64)

    def negative_log_likelihood(self, weights_F: Numbers) -> tuple[float, Numbers]:
        """Return the value, and its gradient, for the items that are not seen."""
        logits_NI, totals_N = self.logits(weights_F), self.counts_NI.sum(axis=1)
        highest_N = np.where(self.is_seen_NI.all(axis=1), 0.0, logits_NI.max(axis=1)).astype(np.float32)
        np.exp(logits_NI - highest_N[:, None], out=logits_NI)
        sums_N = np.maximum(logits_NI.sum(axis=1, dtype=np.float64), 1e-30)
        observed_F = self.sums(self.counts_NI)
        loss = float(totals_N @ (np.log(sums_N) + highest_N)) - float(observed_F @ weights_F)
        logits_NI *= (totals_N / sums_N).astype(np.float32)[:, None]
        return loss, self.sums(logits_NI) - observed_F


def _interpolate(table_HI: Scores, length: int) -> Scores:
    """Return the row of ``length``, ``(I,)``, interpolated between the lengths."""
    number = np.interp(np.log(length), np.log(LENGTHS), np.arange(len(LENGTHS)))
    low, share = int(number), np.float32(number % 1)
    row_I: Scores = (1 - share) * table_HI[low] + share * table_HI[min(low + 1, len(LENGTHS) - 1)]
    return row_I


def _choose_factor(simulations: Sequence[_Simulation], weights_F: Numbers, rng: np.random.Generator) -> float:
    """Return the factor of the weights of the bases.

    It is the mean of the smallest good ones of samples of the users. The nDCG of a good one is within one standard
    error of the best.
    """
    candidates = [weights_F * np.array([1.0, *[factor] * (len(weights_F) - 1)]) for factor in FACTORS]
    values_CN = np.stack([np.concatenate([one.ndcg(candidate_F) for one in simulations]) for candidate_F in candidates])
    n_users = values_CN.shape[1]
    chosen = []
    for _ in range(RESAMPLES):
        sample_CN = values_CN[:, rng.integers(n_users, size=n_users)]
        losses_CN = sample_CN[sample_CN.mean(axis=1).argmax()] - sample_CN
        is_good_C = losses_CN.mean(axis=1) <= losses_CN.std(axis=1) / np.sqrt(n_users)
        chosen.append(FACTORS[int(is_good_C.argmax())])
    return float(np.mean(chosen))


def _smooth(values_H: Numbers) -> Numbers:
    """Return weighted means of each value and its neighbors.

    The weights are 1/2 and 1/4.
    """
    padded = np.pad(values_H, 1, "edge")
    smoothed_H: Numbers = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    return smoothed_H


def _maximize_likelihood(simulations: Sequence[_Simulation], naive_F: Numbers) -> Numbers:
    """Fit the weights of the models, ``(F,)``, at least 0 for bases.

    Without much evidence, they are ``naive_F``.
    """
    from scipy.optimize import minimize

    n_events = max(sum(float(one.counts_NI.sum()) for one in simulations), 1.0)
    ridge = L2 / sum(len(one.counts_NI) for one in simulations)

    def objective(weights_F: Numbers) -> tuple[float, Numbers]:
        parts = [one.negative_log_likelihood(weights_F) for one in simulations]
        deviations_F = weights_F - naive_F
        loss = sum(loss for loss, _ in parts) / n_events + 0.5 * ridge * float(deviations_F @ deviations_F)
        gradient_F = np.sum([gradient_F for _, gradient_F in parts], axis=0) / n_events + ridge * deviations_F
        return loss, gradient_F

    bounds = [(None, None), *[(0.0, None)] * (len(naive_F) - 1)]
    weights_F: Numbers = minimize(objective, naive_F, jac=True, bounds=bounds, method="L-BFGS-B").x
    return weights_F


def _log_lift(base: Solver, queries: Queries, log_popularity_I: Scores) -> Scores:
    """Return the log-lifts of a base model, ``(N, I)``.

    They are the logarithms of its probabilities divided by the popularity. Scores that are not logits are cut off at 0,
    and their shares are smoothed by the popularity.
    """
    log_shares_NI = base.score(queries)
    if base.scale == "logit":
        highest_N1 = log_shares_NI.max(axis=1, keepdims=True)
        log_shares_NI = log_shares_NI - highest_N1
        log_shares_NI -= np.log(np.exp(log_shares_NI).sum(axis=1, keepdims=True))
    else:
        popularity_I = np.exp(log_popularity_I)
        shares_NI = np.maximum(log_shares_NI, 0.0)
        shares_NI[~shares_NI.any(axis=1)] = popularity_I
        shares_NI /= shares_NI.sum(axis=1, keepdims=True)
        shares_NI += np.float32(SMOOTHING) * popularity_I
        log_shares_NI = np.log(shares_NI / np.float32(1.0 + SMOOTHING))
    lifts_NI: Scores = log_shares_NI - log_popularity_I
    return lifts_NI
