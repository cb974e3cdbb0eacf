"""Fold unknown users into a trained factorization machine.

Users are folded in for each posterior sample separately.

A user's own bias w and vector v have a normal prior that was learned in training. Given values in the history, their
posterior is a ridge regression of these values: with o the vector of the user's known features (and implicit items),
and q_i, q_d the vectors of item and time bin, a rating is

    known + w + v . (o + q_i + q_d)

and w, v are the posterior mean. For an ordered probit, levels are replaced by expected hidden values, which are updated
a few times (expectation maximization, which converges to the mode of the posterior).

Shapes: M posterior samples, N users, F feature columns, T events with a value, W = 1 + D bias and vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from segue.core.types import Codes, Events, Scores
from segue.solvers.bayesian.ordered_probit import log_posterior
from segue.solvers.fm.parameters import row_sums
from segue.solvers.fm.posterior_samples import PosteriorSamples
from segue.solvers.ridge import solve_rows

__all__ = ["fold_in_users"]

EM_ITERATIONS = 6
"""Number of times that hidden values are updated."""

BLOCK_SIZE = 8_000_000
"""Array elements that histories are expanded to at a time."""


def fold_in_users(samples: PosteriorSamples, new_users_NF: csr_array[Any], history: Events, bins_T: Codes) -> Scores:
    """Compute ``(M, N, W)`` rows of unknown users, like those of training users.

    Args:
        samples: the posterior samples.
        new_users_NF: features of the users.
        history: events with a value; may be empty.
        bins_T: time bin of each event.
    """
    step = max(1, BLOCK_SIZE // (len(samples) * samples.users.shape[2]))
    cuts = np.unique(np.searchsorted(history.offsets, np.arange(0, history.size + step, step), side="left"))
    cuts = np.unique(np.concatenate([[0], np.minimum(cuts, len(history)), [len(history)]]))
    parts = [np.zeros((len(samples), 0, samples.users.shape[2]), np.float32)]
    for first, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        event_range = slice(int(history.offsets[first]), int(history.offsets[stop]))
        parts.append(
            _fold_in_block(samples, new_users_NF[first:stop], history.rows_between(first, stop), bins_T[event_range])
        )
    return np.concatenate(parts, axis=1)


def _fold_in_block(samples: PosteriorSamples, new_users_NF: csr_array[Any], history: Events, bins_T: Codes) -> Scores:
    sums = [row_sums(new_users_NF, *_split(coefficients_FW)) for coefficients_FW in samples.coefficients]
    features_MNW = np.array([np.column_stack(solutions) for solutions in sums], np.float32)
    own_rows_MNW = np.repeat(samples.means[:, None], len(history), axis=1)
    has_values = history.lengths > 0
    if has_values.any():
        own_rows_MNW[:, has_values] = _posterior_means(samples, features_MNW, history, bins_T)[:, has_values]
    users_MNW = features_MNW + own_rows_MNW
    users_MNW[:, :, 0] += np.einsum("mnd,mnd->mn", features_MNW[:, :, 1:], own_rows_MNW[:, :, 1:])
    return users_MNW


def _split(coefficients_FW: Scores) -> tuple[Any, Any]:
    """Split coefficients into biases and vectors by dimension."""
    return coefficients_FW[:, 0].astype(np.float64), coefficients_FW[:, 1:].T.astype(np.float64)


def _posterior_means(samples: PosteriorSamples, features_MNW: Scores, history: Events, bins_T: Codes) -> Scores:
    """Compute ``(M, N, W)`` posterior means of w and v.

    They are conditional on the values of the histories.
    """
    assert history.values is not None
    n_states, n_users, width = features_MNW.shape
    rows_T, items_T = history.rows, history.items
    # the item and time bin of an event are one row to the user; factors multiply the sum of vectors
    context_MTW = samples.at_times(samples.items[:, items_T], bins_T)
    known_MT = samples.intercepts + features_MNW[:, rows_T, 0] + context_MTW[:, :, 0]
    known_MT += np.einsum("mtd,mtd->mt", features_MNW[:, rows_T, 1:], context_MTW[:, :, 1:])
    factors_MTW = features_MNW[:, rows_T] + context_MTW
    factors_MTW[:, :, 0] = 1.0
    # scaled by the prior's standard deviation, all precisions of the prior are 1
    prior_scales_MW: Scores = np.sqrt(samples.precisions)
    scaled_MTW = (factors_MTW / prior_scales_MW[:, None]).astype(np.float32)
    start_MNW = np.repeat(samples.means[:, None], n_users, axis=1)
    starts = np.arange(n_states)[:, None] * history.size + history.offsets[:-1]
    offsets = np.append(starts.ravel(), n_states * history.size)

    def solve(targets_MT: Scores, weights_MT: Scores) -> Scores:
        solutions, _ = solve_rows(
            offsets,
            np.arange(n_states * history.size, dtype=np.int32),
            weights_MT.ravel(),
            (weights_MT * (targets_MT - known_MT)).ravel(),
            scaled_MTW.reshape(-1, width),
            ridge_D=np.ones(width, np.float32),
            ridge_R=np.ones(n_states * n_users, np.float32),
            prior_RD=(start_MNW * prior_scales_MW[:, None]).reshape(-1, width),
        )
        unscaled: Scores = solutions.reshape(n_states, n_users, width) / prior_scales_MW[:, None]
        return unscaled

    if not samples.ordered:
        targets_T = (history.values - samples.values[0, 0]) / samples.values[0, 1]
        targets_MT = np.repeat(targets_T[None], n_states, axis=0).astype(np.float32)
        return solve(targets_MT, np.broadcast_to(samples.noise_precisions, targets_MT.shape).astype(np.float32))
    levels_T = _levels(history.values, samples.values[0])
    users_MNW, ones_MT = start_MNW, np.ones_like(known_MT)
    for _ in range(EM_ITERATIONS):
        scores_MT = known_MT + np.einsum("mtw,mtw->mt", factors_MTW, users_MNW[:, rows_T])
        posteriors = [log_posterior(scores_MT[m], levels_T, ones_MT[m], samples.cutpoints[m]) for m in range(n_states)]
        users_MNW = solve(scores_MT + np.array([posterior.residuals_T for posterior in posteriors]), ones_MT)
    return users_MNW


def _levels(values_T: Scores, values_K: Scores) -> Codes:
    """Return the level of each value; for other values, the nearest level."""
    thresholds = (values_K[1:] + values_K[:-1]) / 2
    return np.searchsorted(thresholds, values_T).astype(np.int32)
