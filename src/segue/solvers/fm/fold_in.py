"""People who were not there when a factorisation machine was trained: what each kept state says of them.

What a user has for himself, w and v, has a normal prior that the training has learned. With values in the history its
posterior is the ridge regression of these values on what they are multiplied with: where o is what is known of the
person beside (features, implicit items), and q_i, q_d are the vectors of item and period, a rating is

    known + w + v . (o + q_i + q_d)

and w, v are the posterior's mean. Levels of an ordered probit are replaced by the hidden values that are expected, and
these are expected anew, a few times (expectation and maximisation: it ends at the posterior's mode).

Shapes: M kept states, N people, F columns, T events with a value, W = 1 + D bias and vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from segue.core.types import Codes, Events, Scores
from segue.solvers.bayesian.ordered_probit import fit_of
from segue.solvers.fm.parameters import row_sums
from segue.solvers.fm.posterior_samples import Samples
from segue.solvers.ridge import solve_rows

__all__ = ["welcomed"]

ROUNDS = 6
"""Times that hidden values are expected."""

BLOCK_NUMBERS = 8_000_000
"""Numbers that histories are laid out in at once."""


def welcomed(samples: Samples, known_NF: csr_array[Any], history: Events, dates_T: Codes) -> Scores:
    """``(M, N, W)`` rows of people, like those of users.

    Args:
        known_NF: what is known of them.
        history: events with a value; may be empty.
        dates_T: period of each event.
    """
    step = max(1, BLOCK_NUMBERS // (len(samples) * samples.users.shape[2]))
    cuts = np.unique(np.searchsorted(history.offsets, np.arange(0, history.size + step, step), side="left"))
    cuts = np.unique(np.concatenate([[0], np.minimum(cuts, len(history)), [len(history)]]))
    parts = [np.zeros((len(samples), 0, samples.users.shape[2]), np.float32)]
    for first, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        inside = slice(int(history.offsets[first]), int(history.offsets[stop]))
        parts.append(_welcomed(samples, known_NF[first:stop], history.block(first, stop), dates_T[inside]))
    return np.concatenate(parts, axis=1)


def _welcomed(samples: Samples, known_NF: csr_array[Any], history: Events, dates_T: Codes) -> Scores:
    sums = [row_sums(known_NF, *_split(columns_FW)) for columns_FW in samples.columns]
    beside_MNW = np.array([np.column_stack(found) for found in sums], np.float32)
    own_MNW = np.repeat(samples.means[:, None], len(history), axis=1)
    heard = history.lengths > 0
    if heard.any():
        own_MNW[:, heard] = _regressed(samples, beside_MNW, history, dates_T)[:, heard]
    found_MNW = beside_MNW + own_MNW
    found_MNW[:, :, 0] += np.einsum("mnd,mnd->mn", beside_MNW[:, :, 1:], own_MNW[:, :, 1:])
    return found_MNW


def _split(columns_FW: Scores) -> tuple[Any, Any]:
    """Weights, and vectors by dimension."""
    return columns_FW[:, 0].astype(np.float64), columns_FW[:, 1:].T.astype(np.float64)


def _regressed(samples: Samples, beside_MNW: Scores, history: Events, dates_T: Codes) -> Scores:
    """``(M, N, W)`` what people have for themselves, w and v, given the values of their histories."""
    assert history.values is not None
    states, people, wide = beside_MNW.shape
    rows_T, items_T = history.rows, history.items
    # to an event, person, item and period without w and v are one row each; what is multiplied is their sum
    others_MTW = samples.of(samples.items[:, items_T], dates_T)
    known_MT = samples.offsets + beside_MNW[:, rows_T, 0] + others_MTW[:, :, 0]
    known_MT += np.einsum("mtd,mtd->mt", beside_MNW[:, rows_T, 1:], others_MTW[:, :, 1:])
    factors_MTW = beside_MNW[:, rows_T] + others_MTW
    factors_MTW[:, :, 0] = 1.0
    # in units of the prior's standard deviation its precision is 1, for all states and dimensions
    roots_MW: Scores = np.sqrt(samples.precisions)
    scaled_MTW = (factors_MTW / roots_MW[:, None]).astype(np.float32)
    begun_MNW = np.repeat(samples.means[:, None], people, axis=1)
    starts = np.arange(states)[:, None] * history.size + history.offsets[:-1]
    offsets = np.append(starts.ravel(), states * history.size)

    def solved(aims_MT: Scores, weights_MT: Scores) -> Scores:
        found, _ = solve_rows(
            offsets,
            np.arange(states * history.size, dtype=np.int32),
            weights_MT.ravel(),
            (weights_MT * (aims_MT - known_MT)).ravel(),
            scaled_MTW.reshape(-1, wide),
            ridge_D=np.ones(wide, np.float32),
            ridge_R=np.ones(states * people, np.float32),
            prior_RD=(begun_MNW * roots_MW[:, None]).reshape(-1, wide),
        )
        unscaled: Scores = found.reshape(states, people, wide) / roots_MW[:, None]
        return unscaled

    if not samples.ordered:
        aims_T = (history.values - samples.values[0, 0]) / samples.values[0, 1]
        aims_MT = np.repeat(aims_T[None], states, axis=0).astype(np.float32)
        return solved(aims_MT, np.broadcast_to(samples.noises, aims_MT.shape).astype(np.float32))
    levels_T = _levels(history.values, samples.values[0])
    found_MNW, ones_MT = begun_MNW, np.ones_like(known_MT)
    for _ in range(ROUNDS):
        scores_MT = known_MT + np.einsum("mtw,mtw->mt", factors_MTW, found_MNW[:, rows_T])
        fits = [fit_of(scores_MT[m], levels_T, ones_MT[m], samples.cuts[m]) for m in range(states)]
        found_MNW = solved(scores_MT + np.array([fit.pulls_T for fit in fits]), ones_MT)
    return found_MNW


def _levels(values_T: Scores, values_K: Scores) -> Codes:
    """The level of each value, of one between two levels the nearer."""
    middles = (values_K[1:] + values_K[:-1]) / 2
    return np.searchsorted(middles, values_T).astype(np.int32)
