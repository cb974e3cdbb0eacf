"""Recommend the items nearest to those of the history by their features and text.

Lops, de Gemmis and Semeraro 2011, doi:10.1007/978-0-387-85820-3_3. The profile of a user is the recency-weighted mean
of the items of the history, after Rocchio 1971, "Relevance feedback in information retrieval".

The similarity of two items is a weighted sum of similarities by feature: shared categories, tags and people, near
numbers, and the cosine of vectors, such as those of texts; see :mod:`segue.solvers.profiles.feature_blocks`. The
weights are those of a conditional logit model (McFadden 1974) of the next item of training histories against the next
items of other users, so that they do not depend on the popularity of items. Items without events are scored like all
others.

Shapes: N queries, I items, C candidates, D width of item vectors, W columns of a block, F features, M training
positions, B positions of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import polars as pl
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack, issparse

from segue.core.config import Settings, suggest
from segue.core.features import encode_features, infer_features
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Feature, Queries, Scores
from segue.solvers.biased_factor_model import cosine_similarity
from segue.solvers.profiles.feature_blocks import FeatureBlocks
from segue.solvers.truncated_svd import truncated_svd

__all__ = ["Content"]

LOG = logging.getLogger(__name__)

POSITIONS, BATCH = 8_192, 128
"""Training positions that the weights are learned from, and positions whose next items are compared."""
L2 = 1e-3
"""Regularization of the weights."""
NO_FEATURES = "no item of the history has features: ranked as without a history"
"""Note of a query."""


class Content(Solver):
    """Compare items by features alone; new items need no events."""

    required_features = ("item_features",)

    class Config(Settings):
        """Settings of ``content``."""

        features: tuple[str, ...] = ()
        """Names of the item features to compare; empty: all usable ones."""
        weights: Literal["learned", "equal"] = "learned"
        """``learned``: weight features by how well they predict the next items of training histories. ``equal``: all
        features count the same.
        """
        half_life: Annotated[float, Gt(0)] | None = 2.0
        """Number of later events after which the weight of an event halves; none: all events of the history count the
        same.
        """
        embedding_dim: Annotated[int, Ge(1)] = 256
        """Dimensions that categories and tags are projected to, if they have more distinct values in all. Numbers and
        vectors keep theirs.
        """

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.items_ID = np.zeros((schema.n_items, 0), np.float32)
        self.weights_F = np.zeros(0, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Compute item vectors; learn the weights of the features.

        Raises:
            ValueError: the data has no usable item feature, or lacks one of the settings.
        """
        features = _usable_features(train, self.config.features)
        self.schema = replace(train.schema, item_features=features)
        assert train.item_features is not None
        encoded_IJ = encode_features(features, train.item_features.collect())
        self.blocks = FeatureBlocks.fit(features, encoded_IJ)
        blocks = self.blocks.encode(encoded_IJ)
        self.weights_F = np.ones(len(features), np.float32)
        if self.config.weights == "learned" and len(features) > 1:
            self.weights_F = self._learn_weights(train, blocks, run)
        sparse_IW = _sparse_part(blocks, self.weights_F)
        width = sparse_IW.shape[1]
        self.projection_WD: Scores | None = None
        if width > self.config.embedding_dim:
            directions_WD, lengths_D = truncated_svd(sparse_IW, self.config.embedding_dim, run.rng("projection"))
            self.projection_WD = directions_WD.astype(np.float32)
            total = float(np.square(sparse_IW.data, dtype=np.float64).sum())
            share = float(np.square(lengths_D).sum()) / total if total else 1.0
            LOG.info(
                "content: %d categories and tags projected to %d dimensions, which hold %.0f %% of their squares",
                width,
                self.config.embedding_dim,
                100 * share,
            )
        self.items_ID = self._vectors_of(blocks)
        histories = train.histories.take(np.flatnonzero(train.histories.lengths))
        weights_I = self._profile_weights(histories).sum(axis=0) / len(histories)
        self.default_profile_D = np.asarray(weights_I @ self.items_ID, np.float32)
        if not self.default_profile_D.any():
            LOG.warning("content: no item of the training histories has features; lists are in catalog order")

    def _learn_weights(self, train: Dataset, blocks: Sequence[csr_array[Any] | Scores], run: Run) -> Scores:
        """Maximize the likelihood of next items given profiles: ``(F,)``, at least 0."""
        profiles_MI, targets_M = self._training_positions(train, run)
        if len(targets_M) < 2:
            return np.ones(len(blocks), np.float32)
        n_blocks = -(-len(targets_M) // BATCH)
        parts = np.array_split(np.arange(len(targets_M)), n_blocks)
        batches = []
        for rows in parts:
            similarities = [_similarities(profiles_MI[rows] @ block, block[targets_M[rows]]) for block in blocks]
            # items of the history are most similar to it, but no alternatives to the next item
            is_seen_BB = profiles_MI[rows][:, targets_M[rows]].toarray() > 0
            is_choice_BB = ~is_seen_BB & (targets_M[rows][:, None] != targets_M[rows])
            np.fill_diagonal(is_choice_BB, True)
            batches.append((np.stack(similarities, axis=-1), np.where(is_choice_BB, 0.0, -np.inf)))
        weights_F = _conditional_logit(batches, len(blocks))
        names = [feature.name for feature in self.blocks.features]
        if not weights_F.any():
            LOG.warning("content: no feature predicts the next items of training histories; all weights are equal")
            return np.ones(len(blocks), np.float32)
        LOG.info(
            "content: weights of features: %s",
            ", ".join(f"{name} {weight:.3g}" for name, weight in zip(names, weights_F, strict=True)),
        )
        return weights_F

    def _training_positions(self, train: Dataset, run: Run) -> tuple[csr_array[Any], NDArray[np.int64]]:
        """Draw events that have an earlier event.

        Returns:
            the weights of the earlier items ``(M, I)``, and the items of the events.
        """
        events = train.histories
        position_T = np.arange(events.size) - events.offsets[:-1][events.rows]
        is_used = position_T > 0
        if train.target is not None and events.actions is not None:
            is_used &= events.actions == train.target
        positions = np.flatnonzero(is_used)
        rng = run.rng("positions")
        drawn = rng.permutation(positions)[:POSITIONS]
        users, lengths = events.rows[drawn], position_T[drawn]
        earlier = events.take(users).slice_rows(np.zeros_like(lengths), lengths)
        return self._profile_weights(earlier), events.items[drawn].astype(np.int64)

    def _profile_weights(self, history: Events) -> csr_array[Any]:
        """Return the weights ``(N, I)`` of the items of each history; they sum to 1."""
        weights_T = np.ones(history.size)
        if self.config.half_life is not None:
            steps_back = history.offsets[1:][history.rows] - 1 - np.arange(history.size)
            weights_T = np.exp2(-steps_back / self.config.half_life)
        totals_N = np.bincount(history.rows, weights_T, len(history))
        return history.csr(self.schema.n_items, (weights_T / totals_N[history.rows]).astype(np.float32))

    def _vectors_of(self, blocks: Sequence[csr_array[Any] | Scores]) -> Scores:
        """Combine the blocks of items, ``(N, D)``."""
        sparse_NW = _sparse_part(blocks, self.weights_F)
        scales = np.sqrt(self.weights_F)
        dense = [scale * block for scale, block in zip(scales, blocks, strict=True) if not issparse(block)]
        categories = sparse_NW.toarray() if self.projection_WD is None else sparse_NW @ self.projection_WD
        vectors_ND: Scores = np.concatenate([*dense, categories], axis=1).astype(np.float32)
        return vectors_ND

    def encode_items(self, table: pl.DataFrame) -> Scores:
        """Return the vectors ``(N, D)`` of items from a table of their features.

        The items need not be in the catalog.

        Raises:
            ValueError: a cell does not fit its feature.
        """
        return self._vectors_of(self.blocks.encode(encode_features(self.blocks.features, table)))

    @property
    def can_add_items(self) -> bool:
        """See :class:`segue.core.model.Extensible`."""
        return True

    def with_items(self, codes: Codes, table: pl.DataFrame) -> Self:
        """See :meth:`segue.core.model.Extensible.with_items`."""
        n_added = int((codes >= self.schema.n_items).sum())
        extended = copy(self)
        extended.schema = replace(
            self.schema,
            n_items=self.schema.n_items + n_added,
            n_without_events=self.schema.n_without_events + n_added,
        )
        added_ND = np.zeros((n_added, self.items_ID.shape[1]), np.float32)
        extended.items_ID = np.concatenate([self.items_ID, added_ND])
        extended.items_ID[codes] = self.encode_items(table)
        return extended

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the profile of each history, ``(N, D)``.

        A history that is empty, or whose items have no features, has the mean profile of all training users.
        """
        profiles_ND = self._profiles(queries.history)
        profiles_ND[~profiles_ND.any(axis=1)] = self.default_profile_D
        return profiles_ND

    def _profiles(self, history: Events) -> Scores:
        """Return the weighted mean vector of each history, ``(N, D)``.

        It is zero if no item has features.
        """
        profiles_ND: Scores = np.asarray(self._profile_weights(history) @ self.items_ID, np.float32)
        return profiles_ND

    def describe_fallbacks(self, queries: Queries) -> dict[int, str]:
        """See :class:`segue.core.model.FallbackDescriber`."""
        history = queries.history
        rows = np.flatnonzero((history.lengths > 0) & ~self._profiles(history).any(axis=1))
        return dict.fromkeys(rows.tolist(), NO_FEATURES)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the item vectors, ``(n_items, D)``."""
        return self.items_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return zeros, ``(n_items,)``."""
        return np.zeros(self.schema.n_items, np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the weighted mean similarity to the items of the history."""
        return select_candidates(self.encode(queries) @ self.items_ID.T, candidates)

    def explain_features(self, queries: Queries, item: int) -> tuple[str, dict[str, float]]:
        """Return the weighted similarity by feature.

        See :class:`segue.core.model.FeatureExplainer`.         Categories and tags that are projected are one term.
        """
        products_D = self.encode(queries)[0].astype(np.float64) * self.items_ID[item]
        features = self.schema.item_features
        dense = [(feature.name, feature) for feature in features if not feature.categories]
        sparse = [(feature.name, feature) for feature in features if feature.categories]
        sizes = dict(zip((one.name for one in features), map(len, self.blocks.statistics), strict=True))
        widths = {name: sizes[name] for name, _ in dense}
        if self.projection_WD is None:
            widths |= {name: sizes[name] for name, _ in sparse}
        else:
            widths[", ".join(name for name, _ in sparse)] = self.projection_WD.shape[1]
        ends = np.cumsum(list(widths.values()))
        parts = np.split(products_D, ends[:-1])
        return "score", {name: float(part.sum()) for name, part in zip(widths, parts, strict=True)}

    def similar(self, items: Codes) -> Scores:
        """Return cosine similarities of item vectors."""
        return cosine_similarity(self.items_ID, items)

    def arrays(self) -> StateArrays:
        """Return item vectors, weights, and what new items are encoded with."""
        projection = {} if self.projection_WD is None else {"projection": self.projection_WD}
        items = {"items": self.items_ID, "default_profile": self.default_profile_D, "weights": self.weights_F}
        return {**items, **self.blocks.arrays("statistics"), **projection}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        features = self.schema.item_features
        self.blocks = FeatureBlocks.restore(features, arrays, "statistics")
        self.weights_F = load_array(arrays, "weights", (len(features),), np.float32)
        categories = sum(len(feature.categories) for feature in features)
        width = sum(len(array) for array in self.blocks.statistics) - categories
        is_projected = categories > self.config.embedding_dim
        width += self.config.embedding_dim if is_projected else categories
        self.items_ID = load_array(arrays, "items", (self.schema.n_items, width), np.float32)
        self.default_profile_D = load_array(arrays, "default_profile", (width,), np.float32)
        shape = (categories, self.config.embedding_dim)
        self.projection_WD = load_array(arrays, "projection", shape, np.float32) if is_projected else None


def _usable_features(train: Dataset, names: tuple[str, ...]) -> tuple[Feature, ...]:
    """Return the features to compare.

    Raises:
        ValueError: none is usable, or one of ``names`` is not.
    """
    features, unused = infer_features(train.item_features)
    known = [feature.name for feature in features]
    for name in names:
        if name in unused:
            raise ValueError(f"content.features: '{name}' is not usable as a feature: {unused[name]}")
        if name not in known:
            raise ValueError(f"content.features: {train.name} has no item feature '{name}'{suggest(name, known)}")
    chosen = tuple(feature for feature in features if not names or feature.name in names)
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unused.items()) or "it has no item features"
        raise ValueError(
            f"content: compares item features, of which {train.name} has none that is usable ({reasons}); expected "
            "item_features with categories, tags, numbers or vectors"
        )
    return chosen


def _sparse_part(blocks: Sequence[csr_array[Any] | Scores], weights_F: Scores) -> csr_array[Any]:
    """Join the weighted blocks of categories and tags, ``(N, W)``."""
    parts = [np.sqrt(weight) * block for weight, block in zip(weights_F, blocks, strict=True) if issparse(block)]
    n_rows = blocks[0].shape[0]
    return csr_array(hstack([csr_array((n_rows, 0), dtype=np.float32), *parts], format="csr", dtype=np.float32))


def _similarities(profiles_BW: Any, targets_BW: Any) -> Scores:
    """Return the inner products of all pairs, ``(B, B)``."""
    products_BB: Any = profiles_BW @ targets_BW.T
    return np.asarray(products_BB.toarray() if issparse(targets_BW) else products_BB, np.float32)


def _conditional_logit(batches: Sequence[tuple[Scores, NDArray[np.float64]]], n_features: int) -> Scores:
    """Fit the weights ``(F,)``, at least 0, of a softmax over the items of a batch.

    Row b of a batch chose item b.

    Args:
        batches: similarities ``(B, B, F)`` of profile and item, and minus infinity for excluded items ``(B, B)``.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    n_rows = sum(len(mask_BB) for _, mask_BB in batches)

    def objective(weights_F: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, gradient_F = 0.5 * L2 * float(weights_F @ weights_F), L2 * weights_F
        for similarities_BBF, mask_BB in batches:
            log_p_BB = log_softmax(similarities_BBF @ weights_F + mask_BB, axis=1)
            loss -= float(np.trace(log_p_BB)) / n_rows
            residuals_BB = np.exp(log_p_BB) - np.eye(len(mask_BB))
            gradient_F = gradient_F + np.einsum("bc,bcf->f", residuals_BB, similarities_BBF) / n_rows
        return loss, gradient_F

    found = minimize(objective, np.ones(n_features), jac=True, bounds=[(0, None)] * n_features, method="L-BFGS-B")
    weights_F: Scores = found.x.astype(np.float32)
    return weights_F
