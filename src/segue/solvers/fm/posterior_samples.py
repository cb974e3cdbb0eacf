"""Posterior samples of a factorization machine, and their mean prediction.

For each sample, only rows are stored: a bias and a vector for each user, item and time bin (see
:mod:`segue.solvers.fm.parameters`), and what is needed to fold in unknown users. A prediction is the mean over samples
of the expected rating, which is the posterior mean. A model with the mean parameters would predict different values.

Shapes: M samples, U users, I items, P time bins, F feature columns of users, W = 1 + D bias and vector, J cutpoints, K
levels, N queries, T pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numba import float32, int32

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.numba_kernels import fastmath_kernel, input_array, output_array, parallel_rows
from segue.core.types import Codes, DataSchema, Mask, Scores
from segue.solvers.bayesian.probit_expectation import NORMAL_CDF, add_expected_ratings, normal_cdf

__all__ = ["PosteriorSamples"]


@dataclass(frozen=True, eq=False)
class PosteriorSamples:
    """Any number of samples, as float32 arrays."""

    intercepts: Scores
    """``(M, 1)``"""
    noise_precisions: Scores
    """``(M, 1)`` precision of ratings around their scores."""
    users: Scores
    """``(M, U, W)``"""
    items: Scores
    """``(M, I, W)``"""
    time_bins: Scores
    """``(M, P, W)``; without times, no rows, else the last is that of other and unknown times."""
    user_noise_scales: Scores
    """``(M, U)`` square roots of each user's relative noise precision; no columns if all are 1 or do not matter."""
    cutpoints: Scores
    """``(M, J)``"""
    values: Scores
    """``(1, K)`` values of the levels, or ``(1, 2)`` mean and standard deviation of the ratings."""
    coefficients: Scores
    """``(M, F, W)`` coefficients of the features of users."""
    means: Scores
    """``(M, W)`` means of the prior of a user's own bias and vector."""
    precisions: Scores
    """``(M, W)`` precisions of the same prior."""
    ordered: bool

    @classmethod
    def concatenate(cls, parts: Sequence[PosteriorSamples]) -> PosteriorSamples:
        """Concatenate samples of the same training."""
        names = [field.name for field in fields(cls) if field.name not in ("values", "ordered")]
        joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **joined)

    def arrays(self) -> StateArrays:
        """Return all arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "ordered"}

    @classmethod
    def from_arrays(cls, arrays: StateArrays, schema: DataSchema, n_factors: int, ordered: bool) -> PosteriorSamples:
        """Load what :meth:`arrays` returned.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        n_samples = load_array(arrays, "intercepts", (None, 1), np.float32).shape[0]
        n_levels = load_array(arrays, "values", (1, None), np.float32).shape[1]
        width = n_factors + 1
        shapes: dict[str, tuple[int | None, ...]] = {
            "intercepts": (n_samples, 1),
            "noise_precisions": (n_samples, 1),
            "users": (n_samples, schema.n_users, width),
            "items": (n_samples, schema.n_items, width),
            "time_bins": (n_samples, None, width),
            "user_noise_scales": (n_samples, None),
            "cutpoints": (n_samples, n_levels - 1 if ordered else 0),
            "values": (1, n_levels if ordered else 2),
            "coefficients": (n_samples, None, width),
            "means": (n_samples, width),
            "precisions": (n_samples, width),
        }
        loaded = {name: load_array(arrays, name, shape, np.float32) for name, shape in shapes.items()}
        return cls(**loaded, ordered=ordered)

    def __len__(self) -> int:
        """Return M."""
        return len(self.intercepts)

    def noise_scales(self, users: Codes, known: Mask) -> Scores:
        """Return ``(M, N)`` noise scales of users; 1 for users who are not ``known``."""
        if not self.user_noise_scales.shape[1]:
            return np.ones((len(self), len(users)), np.float32)
        return np.where(known, self.user_noise_scales[:, users], np.float32(1.0))

    def at_times(self, users_MNW: Scores, bins_N: Codes) -> Scores:
        """Combine the rows of users with those of time bins: ``(M, N, W)``."""
        if not self.time_bins.shape[1]:
            return users_MNW
        bins_MNW = self.time_bins[:, bins_N]
        rows_MNW = users_MNW + bins_MNW
        rows_MNW[:, :, 0] += np.einsum("mnd,mnd->mn", users_MNW[:, :, 1:], bins_MNW[:, :, 1:])
        return rows_MNW

    def expected_ratings(self, users_MNW: Scores, noise_scales_MN: Scores) -> Scores:
        """Compute the ``(N, I)`` expected ratings of all items."""
        totals_NI = np.zeros((users_MNW.shape[1], self.items.shape[1]), np.float32)
        for m in range(len(self)):
            scores_NI = users_MNW[m, :, 1:] @ self.items[m, :, 1:].T
            scores_NI += users_MNW[m, :, :1] + self.intercepts[m]
            scores_NI += self.items[m, :, 0]
            if self.ordered:
                add_expected_ratings(scores_NI, noise_scales_MN[m], self.cutpoints[m], self.values[0], totals_NI)
            else:
                totals_NI += scores_NI
        return self._average(totals_NI)

    def predict_pairs(self, users: Codes, items: Codes, bins_T: Codes) -> Scores:
        """Compute the ``(T,)`` expected rating of each user, item and time bin."""
        user_codes, item_codes, bin_codes = (np.ascontiguousarray(code, np.int32) for code in (users, items, bins_T))
        tables = self.users, self.items, self.time_bins, self.user_noise_scales
        levels = NORMAL_CDF, self.cutpoints, self.values[0] if self.ordered else np.zeros(0, np.float32)
        intercepts = np.ascontiguousarray(self.intercepts[:, 0])
        totals_T = np.zeros(len(users), np.float32)

        def process_rows(first: int, stop: int) -> None:
            block = slice(first, stop)
            _predict_kernel(
                user_codes[block], item_codes[block], bin_codes[block], intercepts, *tables, *levels, totals_T[block]
            )

        parallel_rows(process_rows, np.arange(len(users) + 1))
        return self._average(totals_T)

    def _average(self, totals: Scores) -> Scores:
        """Divide by the number of samples and convert to the scale of the data, in place."""
        totals /= len(self)
        if not self.ordered:
            totals *= self.values[0, 1]
            totals += self.values[0, 0]
        return totals


@fastmath_kernel(
    input_array(int32),
    input_array(int32),
    input_array(int32),
    input_array(float32),
    input_array(float32, 3),
    input_array(float32, 3),
    input_array(float32, 3),
    input_array(float32, 2),
    input_array(float32),
    input_array(float32, 2),
    input_array(float32),
    output_array(float32),
)
def _predict_kernel(
    users: Codes,
    items: Codes,
    bins: Codes,
    intercepts: Scores,
    user_rows: Scores,
    item_rows: Scores,
    bin_rows: Scores,
    user_noise_scales: Scores,
    cdf_table: Scores,
    cutpoints: Scores,
    values: Scores,
    totals: Scores,
) -> None:
    width = user_rows.shape[2]
    for m in range(len(intercepts)):
        for t in range(len(users)):
            user, item = user_rows[m, users[t]], item_rows[m, items[t]]
            score = intercepts[m] + user[0] + item[0]
            for d in range(1, width):
                score += user[d] * item[d]
            if bin_rows.shape[1]:
                bin_row = bin_rows[m, bins[t]]
                score += bin_row[0]
                for d in range(1, width):
                    score += bin_row[d] * (user[d] + item[d])
            if len(values):
                noise_scale = user_noise_scales[m, users[t]] if user_noise_scales.shape[1] else np.float32(1.0)
                total = values[0]
                for j in range(cutpoints.shape[1]):
                    total += normal_cdf(cdf_table, (score - cutpoints[m, j]) * noise_scale) * (
                        values[j + 1] - values[j]
                    )
                score = total
            totals[t] += score
