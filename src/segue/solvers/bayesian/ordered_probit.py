"""Ordered probit: ratings as levels in an order (Albert and Chib 1993, doi:10.1080/01621459.1993.10476321).

A rating has level k where a hidden value, normal about its score with a given variance, lies between cuts k - 1 and k;
there is no cut below the lowest level, and none above the highest. So the step from three stars to four may be another
than from four to five, and no rating lies outside the scale.

Shapes: T ratings, K levels, J = K - 1 cuts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import float32, float64, int32
from numpy.typing import NDArray
from scipy.special import ndtri

from segue.core.numba_kernels import read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["Fit", "draw_cuts", "first_cuts", "fit_of", "improve_cuts"]

Numbers = NDArray[np.float64]

PRIOR = 0.01
"""Precision of the cuts' normal prior about 0, which keeps them finite where few ratings say where they are."""

FURTHEST = 35.0
"""Standard deviations between a score and a cut beyond which there is no difference."""

SMALLEST = 1e-290
"""Probability below which logarithms are taken of this."""

TRIALS = 30


@dataclass(frozen=True, eq=False)
class Fit:
    """How well cuts fit, and what would fit better."""

    value: float
    """Logarithm of the likelihood."""
    posterior: float
    """The same with the prior of the cuts."""
    slope_J: Numbers
    """First derivatives of the latter by the cuts."""
    curve_JJ: Numbers
    """Second derivatives, negative: positive definite."""
    pulls_T: Scores
    """What is expected of each hidden value, minus its score."""


def fit_of(scores_T: Scores, levels_T: Codes, roots_T: Scores, cuts_J: Numbers) -> Fit:
    """Likelihood of the levels given the scores; in one pass over the ratings.

    Args:
        roots_T: roots of the precisions of hidden values about their scores.
    """
    edges = np.concatenate([[-np.inf], cuts_J, [np.inf]])
    pulls_T = np.empty(len(scores_T), np.float32)
    value, slope, curve, beside = np.zeros(1), *np.zeros((3, len(edges)))
    scores, roots = np.ascontiguousarray(scores_T, np.float32), np.ascontiguousarray(roots_T, np.float32)
    _terms(scores, levels_T, roots, edges, pulls_T, value, slope, curve, beside)
    curve_JJ = np.diag(curve[1:-1] + PRIOR) + np.diag(beside[1:-2], 1) + np.diag(beside[1:-2], -1)
    posterior = float(value[0]) - 0.5 * PRIOR * float(cuts_J @ cuts_J)
    return Fit(float(value[0]), posterior, slope[1:-1] - PRIOR * cuts_J, curve_JJ, pulls_T)


def first_cuts(levels_T: Codes, count: int) -> Numbers:
    """Cuts that fit the shares of ``count`` levels, each of which occurs, where all scores are 0."""
    shares_K = np.bincount(levels_T, minlength=count) / len(levels_T)
    cuts_J: Numbers = ndtri(np.cumsum(shares_K)[:-1])
    return cuts_J


def draw_cuts(
    scores_T: Scores,
    levels_T: Codes,
    roots_T: Scores,
    cuts_J: Numbers,
    at: Fit,
    rng: np.random.Generator,
    settling: bool,
) -> Numbers:
    """The next cuts of a chain whose hidden values are integrated out: a step of Metropolis and Hastings.

    The proposal is normal about where Newton's method leads from the cuts as they are, with the curvature there; so
    near to their distribution that hardly one is refused (cf. Albert and Chib 2001,
    doi:10.1111/j.0006-341X.2001.00829.x).

    Args:
        at: of the cuts as they are.
        settling: whether the chain is still on its way; then any ordered proposal is taken.
    """
    normals_J, chance = rng.standard_normal(len(cuts_J)), rng.random()
    if not len(cuts_J):
        return cuts_J
    root_JJ = np.linalg.cholesky(at.curve_JJ)
    new_J = cuts_J + np.linalg.solve(at.curve_JJ, at.slope_J) + np.linalg.solve(root_JJ.T, normals_J)
    if (np.diff(new_J) <= 0).any():
        return cuts_J
    if settling:
        return new_J
    there = fit_of(scores_T, levels_T, roots_T, new_J)
    gain = there.posterior - at.posterior + _proposal(there, new_J, cuts_J) - _proposal(at, cuts_J, new_J)
    return new_J if math.log(max(chance, SMALLEST)) < gain else cuts_J


def improve_cuts(scores_T: Scores, levels_T: Codes, roots_T: Scores, cuts_J: Numbers, at: Fit) -> Numbers:
    """Cuts that fit no worse: a step of Newton's method, made shorter where it goes too far."""
    step_J = np.linalg.solve(at.curve_JJ, at.slope_J)
    for _ in range(TRIALS):
        new_J: Numbers = cuts_J + step_J
        if (np.diff(new_J) > 0).all() and fit_of(scores_T, levels_T, roots_T, new_J).posterior >= at.posterior:
            return new_J
        step_J /= 2
    return cuts_J


def _proposal(at: Fit, from_J: Numbers, to_J: Numbers) -> float:
    """Logarithm of the chance that :func:`draw_cuts` proposes ``to`` where it stands ``from``, up to a constant."""
    apart_J = to_J - from_J - np.linalg.solve(at.curve_JJ, at.slope_J)
    return float(0.5 * np.linalg.slogdet(at.curve_JJ)[1] - 0.5 * apart_J @ at.curve_JJ @ apart_J)


@summing_kernel(
    read(float32),
    read(int32),
    read(float32),
    read(float64),
    written(float32),
    written(float64),
    written(float64),
    written(float64),
    written(float64),
)
def _terms(
    scores: Scores,
    levels: Codes,
    roots: Scores,
    edges: Numbers,
    pulls: Scores,
    value: Numbers,
    slope: Numbers,
    curve: Numbers,
    beside: Numbers,
) -> None:
    """Sums over the ratings by edge: an infinite one stands before the cuts, and one behind them."""
    half = math.sqrt(0.5)
    height = 1.0 / math.sqrt(2.0 * math.pi)
    for t in range(len(scores)):
        k = levels[t]
        root = np.float64(roots[t])
        low = max((edges[k] - scores[t]) * root, -FURTHEST)
        high = min((edges[k + 1] - scores[t]) * root, FURTHEST)
        if low >= FURTHEST or high <= -FURTHEST:  # all of it is so far away that its nearer edge is as good as all
            near = low if low >= FURTHEST else -high
            rate = near + 1.0 / near
            at_low, at_high = (rate, 0.0) if low >= FURTHEST else (0.0, rate)
            value[0] += math.log(height / near) - 0.5 * near * near
        else:
            if low + high > 0:
                mass = 0.5 * (math.erfc(low * half) - math.erfc(high * half))
            else:
                mass = 0.5 * (math.erfc(-high * half) - math.erfc(-low * half))
            mass = max(mass, SMALLEST)
            at_low = height * math.exp(-0.5 * low * low) / mass
            at_high = height * math.exp(-0.5 * high * high) / mass
            value[0] += math.log(mass)
        slope[k] -= root * at_low
        slope[k + 1] += root * at_high
        curve[k] += root * root * at_low * (at_low - low)
        curve[k + 1] += root * root * at_high * (at_high + high)
        beside[k] -= root * root * at_low * at_high
        pulls[t] = (at_low - at_high) / root
