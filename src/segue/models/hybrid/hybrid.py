"""Combinations of other models: weighted, fused by rank, switching and stacked.

Burke 2002, doi:10.1023/A:1021240730564, names the strategies. Weights are chosen on validation by coordinate ascent
(Metzler and Croft 2007, doi:10.1007/s10791-006-9019-z): starting from the best member alone, the weight of one member
after the other is set to the value that is best for the validation metric, until none improves it. Reciprocal rank
fusion is that of Cormack et al. 2009, doi:10.1145/1571941.1572114.

Members are trained by their own settings, as if alone. Their scores have different scales, so they are normalized for
each query. An item that a member cannot score, as it is new, gets the member's lowest score; the stacked model expects
the score that a regression on the scores of the other members predicts, and a mean number of events.

Shapes: N queries, I items, M members, T examples, C items per example, F inputs of the stacked model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, MinLen
from numpy.typing import NDArray
from pydantic import Field, model_validator

from segue.core.config import Settings, reject_unused
from segue.core.model import Model, Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Mask, Queries, Scores
from segue.solvers.logistic.conditional_logit import fit_conditional_logit, sample_alternatives
from segue.solvers.profiles.base_models import base_arrays, check_restorable, combine_schemas, restore_member

__all__ = ["Hybrid"]

RRF_CONSTANT = 60
"""Constant k of reciprocal rank fusion, as in the paper: the rank at which an item counts half as much as the first."""

WEIGHTS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)
"""Weights among which validation chooses, relative to that of the best member.

Small ones are for members with few positive scores, such as neighbors, whose normalized scores are large.
"""

MAX_ITERATIONS = 3
"""Maximum number of times that coordinate ascent goes through the members."""

THRESHOLDS = (1, 2, 3, 5, 10, 20, 50, 100)
"""Thresholds among which validation chooses."""

CACHE_BYTES = 2_000_000_000
"""Size of the members' scores that are kept while weights are chosen; beyond it they are computed again."""

N_NEGATIVES, L2 = 100, 1e-3
"""Other items per example of the stacked model, and its L2 penalty.

Half of the items are those that the members rank highest, so that it learns to order the top of the list.
"""

MAX_EXAMPLES = 20_000
"""Maximum number of examples of the stacked model."""


class Hybrid(Solver):
    """Combines the scores of several models."""

    class Config(Settings):
        """Settings of ``hybrid``."""

        members: Annotated[tuple[str, ...], MinLen(1)] = ("ease", "item_knn")
        """Keys of the models; for ``switching`` the model for many events first, then that for few."""
        settings: dict[str, dict[str, Any]] = Field(default={})
        """Settings of members by key, those of the model and those of its training, such as ``{"sasrec": {"epochs":
        5}}``."""
        method: Literal["weighted", "rrf", "switching", "stacked"] = "weighted"
        """``weighted``: weighted sum of normalized scores; ``rrf``: weighted sum of reciprocal ranks; ``switching``:
        one of two members, depending on the number of events; ``stacked``: a linear model of all scores, the length of
        the history and the number of events of the item, trained on validation, or without it on the last event of each
        training user."""
        weights: tuple[Annotated[float, Ge(0)], ...] | None = None
        """Weight of each member; ``None``: chosen on validation, or equal without it."""
        switch_by: Literal["history", "item"] = "history"
        """What ``switching`` depends on: the events of the query's history, or the training events of each item."""
        switch_at: Annotated[int, Ge(1)] | None = None
        """Number of events from which the first member is used; ``None``: chosen on validation, or 5 without it."""
        normalization: Literal["zscore", "minmax"] = "zscore"
        """How the scores of a query are brought to one scale: zero mean and unit variance, or from 0 to 1."""

        @model_validator(mode="after")
        def _check_members(self) -> Self:
            unknown = [key for key in self.settings if key not in self.members]
            if unknown:
                raise ValueError(f"settings: got settings of '{unknown[0]}', which is not among the members")
            if "llm" in self.members:
                raise ValueError(
                    "members: got 'llm', which has a time limit only as the outermost model; rerank the hybrid "
                    "instead: llm with base=hybrid"
                )
            if "hybrid" in self.members or len(set(self.members)) < len(self.members):
                raise ValueError(f"members: got {list(self.members)}, expected different models other than hybrid")
            if self.method == "switching" and len(self.members) != 2:
                raise ValueError(f"members: got {len(self.members)}, switching needs 2")
            if self.weights is not None and (len(self.weights) != len(self.members) or not any(self.weights)):
                raise ValueError(
                    f"weights: got {list(self.weights)}, expected one per member, of which one is positive"
                )
            has_weights, switches = self.method in ("weighted", "rrf"), self.method == "switching"
            by_history = switches and self.switch_by == "history"
            reject_unused(
                self,
                {
                    "weights": (has_weights, "method='weighted' and method='rrf'"),
                    "switch_by": (switches, "method='switching'"),
                    "switch_at": (switches, "method='switching'"),
                    "normalization": (self.method != "rrf" and not by_history, "a sum of scores"),
                },
            )
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.members: tuple[Model, ...] = ()
        n_members = len(config.members)
        self.weights_M = np.full(n_members, 1 / n_members, np.float64)
        if config.weights is not None:
            self.weights_M[:] = np.array(config.weights) / sum(config.weights)
        self.switch_at = 5 if config.switch_at is None else config.switch_at
        self.item_events_I = np.zeros(schema.n_items, np.int64)
        self.coefficients_F = np.zeros(_n_inputs(n_members))
        self._cache: dict[bytes, Scores] | None = None

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Train the members, then choose their weights.

        Raises:
            ValueError: a member or its settings are invalid, or it cannot be trained on this data.
        """
        config = self.config
        if config.method == "stacked" and not hasattr(validate, "held_out"):
            self._fit_without_validation(train, run)
        self._train_members(train, run, validate)
        if validate is not None:
            self.choose(validate)
        final = {} if validate is None else {f"valid/{name}": value for name, value in validate(self).items()}
        run.log(
            1, {**{f"weight/{key}": float(w) for key, w in zip(config.members, self.weights_M, strict=True)}, **final}
        )
        check_restorable(self)

    def choose(self, validate: Validate) -> None:
        """Choose the weights, the threshold or the coefficients on validation.

        Those that the settings give are not changed. The coefficients of the stacked model need the queries of
        ``validate``, which :func:`segue.evaluation.evaluate.make_validator` provides.
        """
        config = self.config
        if config.method == "stacked" and (held_out := getattr(validate, "held_out", None)) is not None:
            self._fit_coefficients(held_out.queries, held_out.targets, np.random.default_rng(0))
        with self._cached_scores():
            if config.method == "switching" and config.switch_at is None:
                self.switch_at = self._choose_threshold(validate)
            if config.method in ("weighted", "rrf") and config.weights is None:
                self.weights_M = self._choose_weights(validate)

    @property
    def inner_models(self) -> tuple[Model, ...]:
        """See :attr:`segue.core.model.Model.inner_models`."""
        return tuple(self.members[index] for index in self._used_members())

    def uses_inner_model(self, inner: Model, queries: Queries) -> Mask:
        """See :meth:`segue.core.model.Model.uses_inner_model`."""
        if self.config.method != "switching" or self.config.switch_by != "history":
            return super().uses_inner_model(inner, queries)
        is_first_N: Mask = queries.history.lengths >= self.switch_at
        return is_first_N if inner is self.members[0] else ~is_first_N

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Combine the scores of the members."""
        scores_MNI = [self._member_scores(index, queries) for index in self._used_members()]
        return select_candidates(self._combine(scores_MNI, queries), candidates)

    def arrays(self) -> StateArrays:
        """Return the arrays of the members, each with its key as prefix, and own ones."""
        found = dict(self.own_arrays())
        for key, member in zip(self.config.members, self.members, strict=True):
            found |= base_arrays(member, key)
        return found

    def own_arrays(self) -> StateArrays:
        """Return the arrays that are not of members."""
        return {
            "weights": self.weights_M,
            "switch_at": np.array([self.switch_at], np.int64),
            "item_events": self.item_events_I,
            "coefficients": self.coefficients_F,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_members = len(self.config.members)
        self.weights_M = load_array(arrays, "weights", (n_members,), np.float64)
        self.switch_at = int(load_array(arrays, "switch_at", (1,), np.int64)[0])
        self.item_events_I = load_array(arrays, "item_events", (self.schema.n_items,), np.int64)
        self.coefficients_F = load_array(arrays, "coefficients", (_n_inputs(n_members),), np.float64)
        self.members = tuple(restore_member(key, self.schema, arrays) for key in self.config.members)

    def _train_members(self, train: Dataset, run: Run, validate: Validate | None, part: str = "members") -> None:
        """Train all members."""
        settings = self.config.settings
        self.use_members(
            [
                run.train_part(key, settings.get(key, {}), train, validate, f"{part}/{key}")
                for key in self.config.members
            ],
            train,
        )

    def use_members(self, members: Sequence[Model], train: Dataset) -> None:
        """Combine members that were trained on ``train``, in the order of the settings."""
        self.members = tuple(members)
        self.item_events_I = np.bincount(train.histories.items, minlength=train.n_items)
        self.schema = combine_schemas(train.schema, self.members)

    def _used_members(self) -> list[int]:
        """Return the members whose weight is not zero."""
        has_weights = self.config.method in ("weighted", "rrf")
        return [index for index in range(len(self.members)) if not has_weights or self.weights_M[index] > 0]

    def _member_scores(self, index: int, queries: Queries) -> Scores:
        """Return the normalized scores or reciprocal ranks of a member, ``(N, I)``."""
        if self._cache is None:
            return self._normalize(index, queries)
        key = bytes([index]) + _digest(queries)
        if key not in self._cache:
            scores_NI = self._normalize(index, queries)
            if sum(one.nbytes for one in self._cache.values()) + scores_NI.nbytes > CACHE_BYTES:
                return scores_NI
            self._cache[key] = scores_NI
        return self._cache[key]

    def _normalize(self, index: int, queries: Queries) -> Scores:
        member = self.members[index]
        scores_NI = np.array(member.score(queries))
        n_scored = self.schema.n_items - member.schema.n_unscored
        if n_scored < self.schema.n_items:
            lowest_N = scores_NI[:, :n_scored].min(1) if n_scored else np.zeros(len(queries))
            scores_NI[:, n_scored:] = lowest_N[:, None]
        if self.config.method == "rrf":
            return np.reciprocal(RRF_CONSTANT + _ranks(scores_NI))
        if self.config.method == "switching" and self.config.switch_by == "history":
            return scores_NI  # only one member scores a query
        if self.config.normalization == "minmax":
            low_N1, high_N1 = scores_NI.min(1, keepdims=True), scores_NI.max(1, keepdims=True)
            scores_NI -= low_N1
            scores_NI /= np.where(high_N1 > low_N1, high_N1 - low_N1, np.float32(1))
            return scores_NI
        deviation_N1 = scores_NI.std(1, keepdims=True)
        scores_NI -= scores_NI.mean(1, keepdims=True)
        scores_NI /= np.where(deviation_N1 > 0, deviation_N1, np.float32(1))
        return scores_NI

    def _combine(self, scores_MNI: list[Scores], queries: Queries) -> Scores:
        """Return the combined scores, ``(N, I)``."""
        method = self.config.method
        if method == "stacked":
            inputs = self._stacked_inputs(scores_MNI, queries.history.lengths)
            weighted = [
                one * weight for one, weight in zip(inputs, self.coefficients_F.astype(np.float32), strict=True)
            ]
        elif method == "switching":
            is_first = queries.history.lengths[:, None] if self.config.switch_by == "history" else self.item_events_I
            return np.where(is_first >= self.switch_at, scores_MNI[0], scores_MNI[1])
        else:
            used_M = self.weights_M[self.weights_M > 0]
            weighted = [one * np.float32(weight) for one, weight in zip(scores_MNI, used_M, strict=True)]
        scores_NI: Scores = np.sum(weighted, axis=0, dtype=np.float32)
        return scores_NI

    def _stacked_inputs(self, scores_MNI: list[Scores], lengths_N: NDArray[np.int64]) -> list[Scores]:
        """Return the inputs of the stacked model, ``(N, I)`` each.

        They are the scores of each member; the same times the logarithm of the history's length, and times that of the
        item's number of events, so that the weight of a member depends on both; and the latter alone. The popularity of
        new items is unknown, so they have the mean logarithm.
        """
        length_N1 = np.log1p(lengths_N)[:, None].astype(np.float32)
        events_I = np.log1p(self.item_events_I).astype(np.float32)
        n_warm = self.schema.n_items - self.schema.n_without_events
        if n_warm:
            events_I[n_warm:] = events_I[:n_warm].mean()
        products = [
            part for one in self._impute_new_items(scores_MNI) for part in (one, one * length_N1, one * events_I)
        ]
        return [*products, np.broadcast_to(events_I, scores_MNI[0].shape)]

    def _impute_new_items(self, scores_MNI: list[Scores]) -> list[Scores]:
        """Predict the scores of new items that a member cannot score.

        The prediction is a linear regression on the mean score of the other members over the other items of the query.
        """
        is_able_M = [not member.schema.n_unscored for member in self.members]
        n_warm = self.schema.n_items - self.schema.n_without_events
        if all(is_able_M) or not any(is_able_M) or not n_warm:
            return scores_MNI
        able_NI = np.mean([one for one, is_able in zip(scores_MNI, is_able_M, strict=True) if is_able], axis=0)
        able_NI -= able_NI[:, :n_warm].mean(axis=1, keepdims=True)
        warm_NI, new_NI = able_NI[:, :n_warm], able_NI[:, n_warm:]
        variances_N1 = np.square(warm_NI).mean(axis=1, keepdims=True)
        imputed_MNI = []
        for one_NI, is_able in zip(scores_MNI, is_able_M, strict=True):
            if not is_able:
                one_NI = one_NI.copy()
                covariances_N1 = (warm_NI * one_NI[:, :n_warm]).mean(axis=1, keepdims=True)
                slopes_N1 = covariances_N1 / np.where(variances_N1 > 0, variances_N1, np.float32(1))
                one_NI[:, n_warm:] = one_NI[:, :n_warm].mean(axis=1, keepdims=True) + slopes_N1 * new_NI
            imputed_MNI.append(one_NI)
        return imputed_MNI

    @contextmanager
    def _cached_scores(self) -> Iterator[None]:
        """Keep the members' scores within the context.

        The same queries are scored many times in it.
        """
        self._cache = {}
        try:
            yield
        finally:
            self._cache = None

    def _choose_threshold(self, validate: Validate) -> int:
        """Return the number of events at which to switch that is best on validation."""
        values = {}
        for self.switch_at in THRESHOLDS:
            values[self.switch_at] = _metric(validate(self))
        return max(values, key=lambda threshold: values[threshold])

    def _choose_weights(self, validate: Validate) -> NDArray[np.float64]:
        """Return the weights of coordinate ascent, ``(M,)``, which sum to 1."""

        def value(weights_M: NDArray[np.float64]) -> float:
            self.weights_M = weights_M / weights_M.sum()
            return _metric(validate(self))

        singles = np.eye(len(self.members))
        values = [value(weights_M) for weights_M in singles]
        order = np.argsort(values, kind="stable")[::-1]
        best_M, best = singles[order[0]], values[order[0]]
        for _ in range(MAX_ITERATIONS):
            before = best
            for index in order[1:]:
                for weight in WEIGHTS:
                    changed_M = np.where(np.arange(len(best_M)) == index, weight, best_M)
                    if weight != best_M[index] and (found := value(changed_M)) > best:
                        best_M, best = changed_M, found
            if best == before:
                break
        weights_M: NDArray[np.float64] = best_M / best_M.sum()
        return weights_M

    def _fit_without_validation(self, train: Dataset, run: Run) -> None:
        """Fit the stacked model on the last events of the training users.

        The members are trained on the others.
        """
        lengths_U = train.histories.lengths
        users = np.flatnonzero(lengths_U >= 2)
        rng = run.rng("stacked")
        users = np.sort(rng.permutation(users)[:MAX_EXAMPLES])
        if not len(users):
            return
        is_held_out_U = np.zeros(train.n_users, np.bool_)
        is_held_out_U[users] = True
        earlier = train.histories.slice_rows(np.zeros_like(lengths_U), lengths_U - is_held_out_U)
        last = train.histories.slice_rows(lengths_U - is_held_out_U, lengths_U).take(users)
        self._train_members(train.with_histories(earlier), run, None, "stacked")
        self._fit_coefficients(Queries.of_users(users.astype(np.int32), earlier.take(users)), last, rng)

    def _fit_coefficients(self, queries: Queries, targets: Events, rng: np.random.Generator) -> None:
        """Fit the stacked model.

        The coefficients maximize the likelihood of the targets among other items (McFadden 1974): those that the
        members rank highest, and random ones. Items of the history are not among them, nor are new items unless they
        are targets, as items that cannot be chosen say nothing about what users choose.
        """
        events_T = np.sort(rng.permutation(targets.size)[:MAX_EXAMPLES])
        n_warm = self.schema.n_items - self.schema.n_without_events
        is_eligible_I = (np.arange(self.schema.n_items) < n_warm) | (targets.items >= n_warm).any()
        examples = []
        for start in range(0, len(events_T), block := max(1, 4_000_000 // self.schema.n_items)):
            chosen_T = events_T[start : start + block]
            rows, targets_T = queries.take(targets.rows[chosen_T]), targets.items[chosen_T]
            scores_MNI = [self._normalize(index, rows) for index in range(len(self.members))]
            items_TC, log_weights_TC = sample_alternatives(scores_MNI, rows, targets_T, is_eligible_I, N_NEGATIVES, rng)
            inputs = self._stacked_inputs(scores_MNI, rows.history.lengths)
            inputs_TCF = np.stack([np.take_along_axis(one, items_TC, axis=1) for one in inputs], axis=2)
            examples.append((inputs_TCF, log_weights_TC))
        if examples:
            inputs_TCF, log_weights_TC = (np.concatenate(parts) for parts in zip(*examples, strict=True))
            self.coefficients_F = fit_conditional_logit(inputs_TCF.astype(np.float64), log_weights_TC, L2)


def _metric(values: Mapping[str, float]) -> float:
    """Return the validation metric, which is the first of the values."""
    return next(iter(values.values()))


def _digest(queries: Queries) -> bytes:
    """Identify queries by their content."""
    digest = hashlib.blake2b(digest_size=16)
    columns = [
        *queries.history.columns().values(),
        queries.history.offsets,
        queries.users,
        queries.known,
        queries.times,
        queries.time_known,
        *(queries.context[name] for name in sorted(queries.context)),
    ]
    for column in columns:
        digest.update(b"-" if column is None else np.ascontiguousarray(column).data)
    if queries.profile is not None:
        digest.update(queries.profile.hash_rows().to_numpy().data)
    return digest.digest()


def _ranks(scores_NI: Scores) -> Scores:
    """Return the rank of each item, from 1.

    Items with equal scores have their mean rank.
    """
    order_NI = np.argsort(-scores_NI, axis=1)
    sorted_NI = np.take_along_axis(scores_NI, order_NI, axis=1)
    is_next_NI = np.ones(sorted_NI.shape, np.bool_)  # a rank whose score is below that of the rank before
    is_next_NI[:, 1:] = sorted_NI[:, 1:] < sorted_NI[:, :-1]
    positions_I = np.arange(1, scores_NI.shape[1] + 1, dtype=np.int32)
    first_NI = np.maximum.accumulate(np.where(is_next_NI, positions_I, 1), axis=1)
    is_last_NI = np.roll(is_next_NI, -1, axis=1)
    last_NI = np.where(is_last_NI, positions_I, positions_I[-1])
    last_NI = np.minimum.accumulate(last_NI[:, ::-1], axis=1)[:, ::-1]
    ranks_NI = np.empty_like(scores_NI)
    np.put_along_axis(ranks_NI, order_NI, ((first_NI + last_NI) / 2).astype(np.float32), axis=1)
    return ranks_NI


def _n_inputs(n_members: int) -> int:
    """Return the number of inputs of the stacked model, F."""
    return 3 * n_members + 1
