"""The Markov chain of Bayesian matrix factorisation: users, items and what is believed of them, drawn in turns.

Every value is normal about ``b_u + b_i + p_u . q_i``; a user's row (b_u, p_u), and an item's, is normal with a mean and
a precision matrix that have a normal-Wishart distribution in turn (Salakhutdinov and Mnih 2008). With links a row's
mean also depends on what the row has: a user's on his items and an item's on its users, by vectors that are drawn
too. That is SVD++, told from both sides (Rendle, Zhang and Koren 2019, arXiv:1905.01395).

Shapes: U users, I items, T ratings, R rows of a side, F features of its rows: the rows of the other side, B width with
the bias, where there is one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.ratings import Ratings
from segue.core.types import Codes, Scores
from segue.solvers.bayesian.gibbs_kernels import Beliefs, believe, draw_rows
from segue.solvers.bayesian.side_information import draw_links

__all__ = ["Chain", "Sample", "fixed"]

SIZE = 0.5
"""Variance of the products of factors at the start."""
LINK_SHAPE, LINK_RATE = 0.5, 0.5
"""Gamma prior of the links' precision, in units of that of the rows."""


class Sample(NamedTuple):
    """One state of the chain, with the users' rows as they are expected given all else."""

    users_UB: Scores
    items_IB: Scores
    mean_B: Scores
    """Of users."""
    precision_BB: Scores
    """Of users."""
    noise: NDArray[np.float32]
    """``(1,)`` precision of values."""
    links_IB: Scores
    """What having an item adds to a user's mean; no rows without links."""


class _Side:
    """The rows of users or of items, and the events that tell of them."""

    def __init__(
        self, offsets: NDArray[np.int64], columns: Codes, targets_T: Scores, had_RF: csr_array[Any] | None
    ) -> None:
        self.offsets, self.columns, self.targets_T = offsets, columns, targets_T
        self.had_RF, self.told_R = had_RF, np.diff(offsets) > 0
        if had_RF is not None:
            by_feature = csr_array(had_RF.T)
            self.weights_R = (1.0 / np.sqrt(np.maximum(np.diff(had_RF.indptr), 1))).astype(np.float32)
            # rows without events know nothing of features
            told_R = (self.weights_R * self.told_R).astype(np.float32)
            self.by_feature = by_feature.indptr.astype(np.int64), by_feature.indices.astype(np.int32), told_R

    def draw(
        self,
        rows_RB: Scores,
        links_FB: Scores,
        link_precision: float,
        others_CB: Scores,
        biased: bool,
        noise: float,
        rng: np.random.Generator,
    ) -> tuple[Scores, Scores, float, Beliefs, Scores, float]:
        """Rows, as drawn and as expected, their squared error, beliefs, links and their precision; each given the last.

        A row without events says nothing of what is believed of all, and is as it is expected.
        """
        implied_RB = np.zeros((1, rows_RB.shape[1]), np.float32)
        if self.had_RF is not None:
            implied_RB = self._implied(links_FB)
            outer_BB = link_precision * (links_FB.T.astype(np.float64) @ links_FB)
            mean_B, precision_BB = believe((rows_RB - implied_RB)[self.told_R], rng, outer_BB, len(links_FB))
            links_FB, link_precision = self._draw_links(
                rows_RB - implied_RB - mean_B.astype(np.float32), links_FB, link_precision, precision_BB, rng
            )
            implied_RB = self._implied(links_FB)
        else:
            mean_B, precision_BB = believe(rows_RB[self.told_R], rng)
        sides_T, vectors_CB = fixed(self.targets_T, self.columns, others_CB, biased)
        drawn_RB, expected_RB, errors_R, _ = draw_rows(
            self.offsets,
            self.columns,
            sides_T,
            vectors_CB,
            noise=noise,
            precision_DD=precision_BB,
            means_RD=implied_RB + mean_B,
            normals_RD=rng.standard_normal(rows_RB.shape, np.float32),
        )
        drawn_RB[~self.told_R] = expected_RB[~self.told_R]
        total = float(errors_R.sum(dtype=np.float64))
        return drawn_RB, expected_RB, total, (mean_B, precision_BB), links_FB, link_precision

    def _implied(self, links_FB: Scores) -> Scores:
        assert self.had_RF is not None
        implied_RB: Scores = (self.had_RF @ links_FB) * self.weights_R[:, None]
        return implied_RB

    def _draw_links(
        self,
        apart_RB: Scores,
        links_FB: Scores,
        precision: float,
        precision_BB: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> tuple[Scores, float]:
        upper_BB = np.linalg.cholesky(precision_BB).T
        noise_FB = np.linalg.solve(upper_BB, rng.standard_normal(links_FB.shape).T).T
        links_FB, apart_RB = links_FB.copy(), np.ascontiguousarray(apart_RB, np.float32)
        noise = np.ascontiguousarray(noise_FB, np.float32)
        draw_links(*self.by_feature, np.float32(precision), noise, apart_RB, links_FB)
        squares = float(np.square(links_FB @ upper_BB.T).sum())
        return links_FB, rng.gamma(LINK_SHAPE + links_FB.size / 2) / (LINK_RATE + squares / 2)


class Chain:
    """Draws all that is not known, again and again.

    Args:
        ratings: who rated what.
        targets_T: values, standardised.
        width: of the factors.
        biased: whether rows have biases.
        noise: precision of the values; none: it is drawn too.
        had_UI: what each user has, where links are drawn; else none.
    """

    def __init__(
        self,
        ratings: Ratings,
        targets_T: Scores,
        width: int,
        biased: bool,
        noise: float | None,
        had_UI: csr_array[Any] | None,
        rng: np.random.Generator,
    ) -> None:
        self.biased, self.noise, order = biased, noise, ratings.order
        had_IU = None if had_UI is None else csr_array(had_UI.T)
        self.users = _Side(ratings.offsets, ratings.items, targets_T, had_UI)
        self.items = _Side(ratings.item_offsets, ratings.users[order], targets_T[order], had_IU)
        counts = {"users": len(ratings.counts), "items": len(ratings.item_counts)}
        size = (SIZE / width) ** 0.25
        self.state = {
            name: (size * rng.standard_normal((count, width + biased))).astype(np.float32)
            for name, count in counts.items()
        }
        linked = 0 if had_UI is None else 1
        self.state["user_links"] = np.zeros((linked * counts["items"], width + biased), np.float32)
        self.state["item_links"] = np.zeros((linked * counts["users"], width + biased), np.float32)
        self.state["precisions"] = np.array([noise or 1.0, 1.0, 1.0])
        if biased:
            self.state["users"][:, 0], self.state["items"][:, 0] = 0.0, 0.0

    def sweep(self, rng: np.random.Generator) -> tuple[list[Sample], float]:
        """Draw everything once; the state met on the way, and the mean squared error at the end."""
        it = self.state
        noise, user_links, item_links = it["precisions"].tolist()
        items_IB = it["items"]
        it["users"], expected_UB, _, beliefs, it["user_links"], user_links = self.users.draw(
            it["users"], it["user_links"], user_links, items_IB, self.biased, noise, rng
        )
        mean_B, precision_BB = (belief.astype(np.float32) for belief in beliefs)
        noise_1 = np.array([noise], np.float32)
        sample = Sample(expected_UB, items_IB, mean_B, precision_BB, noise_1, it["user_links"])
        it["items"], _, total, _, it["item_links"], item_links = self.items.draw(
            items_IB, it["item_links"], item_links, it["users"], self.biased, noise, rng
        )
        if not np.isfinite(total):
            raise ValueError("the draws are no longer finite: values of a smaller scale keep the equations apart")
        count = len(self.users.targets_T)
        if self.noise is None:
            noise = rng.gamma((1 + count) / 2) / ((1 + total) / 2)
        it["precisions"] = np.array([noise, user_links, item_links])
        return [sample], total / count


def fixed(targets_T: Scores, columns: Codes, others_CB: Scores, biased: bool) -> tuple[Scores, Scores]:
    """What is left of the targets given the other side's biases, and what a row is multiplied with."""
    if not biased:
        return targets_T, others_CB
    ones_CB = others_CB.copy()
    ones_CB[:, 0] = 1.0
    return targets_T - others_CB[columns, 0], ones_CB
