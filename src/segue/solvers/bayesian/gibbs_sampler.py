"""Gibbs sampler for Bayesian matrix factorization.

Values are normal with mean ``b_u + b_i + p_u . q_i``. A user's row (b_u, p_u), and an item's, is normal with a mean and
a precision matrix that have a normal-Wishart prior (Salakhutdinov and Mnih 2008). With links, the mean of a row also
depends on its features, which are the rows of the other side that it interacted with, through sampled vectors: SVD++ in
both directions (Rendle, Zhang and Koren 2019, arXiv:1905.01395).

Shapes: U users, I items, T ratings, R rows of a side, F features (rows of the other side), B dimensions including the
bias, if there is one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.ratings import Ratings
from segue.core.types import Codes, Scores
from segue.solvers.bayesian.gibbs_kernels import GaussianHyperprior, sample_factor_rows, sample_hyperparameters
from segue.solvers.bayesian.side_information import sample_link_matrix

__all__ = ["GibbsSampler", "PosteriorSample", "fixed_columns"]

INITIAL_VARIANCE = 0.5
"""Variance of the products of factors at the start."""
LINK_PRIOR_SHAPE, LINK_PRIOR_RATE = 0.5, 0.5
"""Gamma prior of the precision of links, relative to that of rows."""


class PosteriorSample(NamedTuple):
    """One state of the chain, with the conditional means of user rows."""

    users_UB: Scores
    items_IB: Scores
    mean_B: Scores
    """Mean of user rows."""
    precision_BB: Scores
    """Precision of user rows."""
    noise_precision: NDArray[np.float32]
    """``(1,)`` precision of values."""
    links_IB: Scores
    """What each item adds to the mean of its users; without links, no rows."""


class _Side:
    """Rows of users or of items, with their events."""

    def __init__(
        self, offsets: NDArray[np.int64], columns: Codes, targets_T: Scores, features_RF: csr_array[Any] | None
    ) -> None:
        self.offsets, self.columns, self.targets_T = offsets, columns, targets_T
        self.features_RF, self.has_events_R = features_RF, np.diff(offsets) > 0
        if features_RF is not None:
            by_feature = csr_array(features_RF.T)
            self.weights_R = (1.0 / np.sqrt(np.maximum(np.diff(features_RF.indptr), 1))).astype(np.float32)
            # rows without events are not used to sample links
            event_weights_R = (self.weights_R * self.has_events_R).astype(np.float32)
            self.by_feature = by_feature.indptr.astype(np.int64), by_feature.indices.astype(np.int32), event_weights_R

    def sample(
        self,
        rows_RB: Scores,
        links_FB: Scores,
        link_precision: float,
        others_CB: Scores,
        biased: bool,
        noise_precision: float,
        rng: np.random.Generator,
    ) -> tuple[Scores, Scores, float, GaussianHyperprior, Scores, float]:
        """Sample hyperparameters, links and rows in turn, each given the others.

        Rows without events do not affect the hyperparameters and are set to their conditional means.

        Returns:
            Samples and conditional means of the rows, their squared error, hyperparameters, links, precision of the
            links.
        """
        implied_RB = np.zeros((1, rows_RB.shape[1]), np.float32)
        if self.features_RF is not None:
            implied_RB = self._implied(links_FB)
            outer_BB = link_precision * (links_FB.T.astype(np.float64) @ links_FB)
            mean_B, precision_BB = sample_hyperparameters(
                (rows_RB - implied_RB)[self.has_events_R], rng, outer_BB, len(links_FB)
            )
            links_FB, link_precision = self._sample_links(
                rows_RB - implied_RB - mean_B.astype(np.float32), links_FB, link_precision, precision_BB, rng
            )
            implied_RB = self._implied(links_FB)
        else:
            mean_B, precision_BB = sample_hyperparameters(rows_RB[self.has_events_R], rng)
        residuals_T, vectors_CB = fixed_columns(self.targets_T, self.columns, others_CB, biased)
        samples_RB, expected_RB, errors_R, _ = sample_factor_rows(
            self.offsets,
            self.columns,
            residuals_T,
            vectors_CB,
            noise_precision=noise_precision,
            precision_DD=precision_BB,
            means_RD=implied_RB + mean_B,
            normals_RD=rng.standard_normal(rows_RB.shape, np.float32),
        )
        samples_RB[~self.has_events_R] = expected_RB[~self.has_events_R]
        total = float(errors_R.sum(dtype=np.float64))
        return samples_RB, expected_RB, total, (mean_B, precision_BB), links_FB, link_precision

    def _implied(self, links_FB: Scores) -> Scores:
        assert self.features_RF is not None
        implied_RB: Scores = (self.features_RF @ links_FB) * self.weights_R[:, None]
        return implied_RB

    def _sample_links(
        self,
        residuals_RB: Scores,
        links_FB: Scores,
        precision: float,
        precision_BB: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> tuple[Scores, float]:
        upper_BB = np.linalg.cholesky(precision_BB).T
        noise_FB = np.linalg.solve(upper_BB, rng.standard_normal(links_FB.shape).T).T
        links_FB, residuals_RB = links_FB.copy(), np.ascontiguousarray(residuals_RB, np.float32)
        noise_precision = np.ascontiguousarray(noise_FB, np.float32)
        sample_link_matrix(*self.by_feature, np.float32(precision), noise_precision, residuals_RB, links_FB)
        squares = float(np.square(links_FB @ upper_BB.T).sum())
        return links_FB, rng.gamma(LINK_PRIOR_SHAPE + links_FB.size / 2) / (LINK_PRIOR_RATE + squares / 2)


class GibbsSampler:
    """Sampler that draws all unknowns in turn.

    Args:
        ratings: the ratings.
        targets_T: standardized values.
        width: number of factors.
        biased: whether rows have biases.
        noise_precision: precision of values; none: it is sampled.
        seen_UI: items of each user, for links; none: no links.
        rng: source of the initial state.
    """

    def __init__(
        self,
        ratings: Ratings,
        targets_T: Scores,
        width: int,
        biased: bool,
        noise_precision: float | None,
        seen_UI: csr_array[Any] | None,
        rng: np.random.Generator,
    ) -> None:
        self.biased, self.noise_precision, order = biased, noise_precision, ratings.order
        seen_IU = None if seen_UI is None else csr_array(seen_UI.T)
        self.users = _Side(ratings.offsets, ratings.items, targets_T, seen_UI)
        self.items = _Side(ratings.item_offsets, ratings.users[order], targets_T[order], seen_IU)
        counts = {"users": len(ratings.counts), "items": len(ratings.item_counts)}
        scale = (INITIAL_VARIANCE / width) ** 0.25
        self.state = {
            name: (scale * rng.standard_normal((count, width + biased))).astype(np.float32)
            for name, count in counts.items()
        }
        n_link_sides = 0 if seen_UI is None else 1
        self.state["user_links"] = np.zeros((n_link_sides * counts["items"], width + biased), np.float32)
        self.state["item_links"] = np.zeros((n_link_sides * counts["users"], width + biased), np.float32)
        self.state["precisions"] = np.array([noise_precision or 1.0, 1.0, 1.0])
        if biased:
            self.state["users"][:, 0], self.state["items"][:, 0] = 0.0, 0.0

    def step(self, rng: np.random.Generator) -> tuple[list[PosteriorSample], float]:
        """Sample everything once.

        Return the state between the updates of users and items as a sample, and the mean squared error at the end.
        """
        state = self.state
        noise_precision, user_links, item_links = state["precisions"].tolist()
        items_IB = state["items"]
        state["users"], expected_UB, _, hyperparameters, state["user_links"], user_links = self.users.sample(
            state["users"], state["user_links"], user_links, items_IB, self.biased, noise_precision, rng
        )
        mean_B, precision_BB = (parameter.astype(np.float32) for parameter in hyperparameters)
        noise_1 = np.array([noise_precision], np.float32)
        sample = PosteriorSample(expected_UB, items_IB, mean_B, precision_BB, noise_1, state["user_links"])
        state["items"], _, total, _, state["item_links"], item_links = self.items.sample(
            items_IB, state["item_links"], item_links, state["users"], self.biased, noise_precision, rng
        )
        if not np.isfinite(total):
            raise ValueError("Gibbs sampling: samples are not finite; check for extreme values in the ratings")
        count = len(self.users.targets_T)
        if self.noise_precision is None:
            noise_precision = rng.gamma((1 + count) / 2) / ((1 + total) / 2)
        state["precisions"] = np.array([noise_precision, user_links, item_links])
        return [sample], total / count


def fixed_columns(targets_T: Scores, columns: Codes, vectors_CB: Scores, biased: bool) -> tuple[Scores, Scores]:
    """Return the targets and vectors that the rows of one side are fitted to.

    The biases of the other side are subtracted from the targets; its vectors have ones in place of biases.
    """
    if not biased:
        return targets_T, vectors_CB
    ones_CB = vectors_CB.copy()
    ones_CB[:, 0] = 1.0
    return targets_T - vectors_CB[columns, 0], ones_CB
