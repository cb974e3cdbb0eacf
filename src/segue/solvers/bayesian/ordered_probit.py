"""Ordered probit model of ratings as ordered levels.

Albert and Chib 1993, doi:10.1080/01621459.1993.10476321. A rating has level k if a hidden value, normal around its
score with given variance, lies between cutpoints k - 1 and k; the lowest level has no lower cutpoint, the highest no
upper one. Steps between levels may have different sizes, and predictions never leave the scale.

Shapes: T ratings, K levels, J = K - 1 cutpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import float32, float64, int32
from numpy.typing import NDArray
from scipy.special import ndtri

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Scores

__all__ = ["ProbitLogPosterior", "initial_cutpoints", "log_posterior", "newton_step_cutpoints", "sample_cutpoints"]

Numbers = NDArray[np.float64]

PRIOR_PRECISION = 0.01
"""Precision of the normal prior of cutpoints around 0, which keeps them finite with few ratings."""

MAX_DISTANCE = 35.0
"""Distance of a score from a cutpoint, in standard deviations, beyond which asymptotics are used."""

MIN_PROBABILITY = 1e-290
"""Lower bound of probabilities before logarithms are taken."""

MAX_HALVINGS = 30
"""Maximum number of times that a Newton step is halved."""


@dataclass(frozen=True, eq=False)
class ProbitLogPosterior:
    """Log-posterior of cutpoints with its derivatives."""

    value: float
    """Log-likelihood."""
    posterior: float
    """Log-likelihood plus log-prior of the cutpoints."""
    gradient_J: Numbers
    """First derivatives of ``posterior``."""
    neg_hessian_JJ: Numbers
    """Negative second derivatives of ``posterior``; positive definite."""
    residuals_T: Scores
    """Expected hidden values minus scores."""


def log_posterior(scores_T: Scores, levels_T: Codes, noise_scales_T: Scores, cuts_J: Numbers) -> ProbitLogPosterior:
    """Evaluate the log-posterior of cutpoints in one pass over the ratings.

    Args:
        scores_T: scores.
        levels_T: levels.
        noise_scales_T: square roots of the precisions of hidden values.
        cuts_J: ascending cutpoints.
    """
    edges = np.concatenate([[-np.inf], cuts_J, [np.inf]])
    residuals_T = np.empty(len(scores_T), np.float32)
    value, gradient, diagonal, off_diagonal = np.zeros(1), *np.zeros((3, len(edges)))
    scores, noise_scales = np.ascontiguousarray(scores_T, np.float32), np.ascontiguousarray(noise_scales_T, np.float32)
    _posterior_kernel(scores, levels_T, noise_scales, edges, residuals_T, value, gradient, diagonal, off_diagonal)
    neg_hessian_JJ = (
        np.diag(diagonal[1:-1] + PRIOR_PRECISION) + np.diag(off_diagonal[1:-2], 1) + np.diag(off_diagonal[1:-2], -1)
    )
    posterior = float(value[0]) - 0.5 * PRIOR_PRECISION * float(cuts_J @ cuts_J)
    return ProbitLogPosterior(
        float(value[0]), posterior, gradient[1:-1] - PRIOR_PRECISION * cuts_J, neg_hessian_JJ, residuals_T
    )


def initial_cutpoints(levels_T: Codes, count: int) -> Numbers:
    """Return cutpoints that fit the frequencies of the levels if all scores are 0.

    Each level must occur.
    """
    shares_K = np.bincount(levels_T, minlength=count) / len(levels_T)
    cuts_J: Numbers = ndtri(np.cumsum(shares_K)[:-1])
    return cuts_J


def sample_cutpoints(
    scores_T: Scores,
    levels_T: Codes,
    noise_scales_T: Scores,
    cuts_J: Numbers,
    current: ProbitLogPosterior,
    rng: np.random.Generator,
    is_burn_in: bool,
) -> Numbers:
    """Sample cutpoints with hidden values integrated out: a Metropolis-Hastings step.

    The proposal is normal around a Newton step from the current cutpoints, with the curvature there. It is so close to
    the conditional distribution that it is rarely rejected (cf. Albert and Chib 2001,
    doi:10.1111/j.0006-341X.2001.00829.x).

    Args:
        scores_T: scores.
        levels_T: levels.
        noise_scales_T: square roots of the precisions of hidden values.
        cuts_J: current cutpoints.
        current: log-posterior of the current cutpoints.
        rng: source of random numbers.
        is_burn_in: accept any ordered proposal.
    """
    normals_J, uniform = rng.standard_normal(len(cuts_J)), rng.random()
    if not len(cuts_J):
        return cuts_J
    lower_JJ = np.linalg.cholesky(current.neg_hessian_JJ)
    new_J = (
        cuts_J + np.linalg.solve(current.neg_hessian_JJ, current.gradient_J) + np.linalg.solve(lower_JJ.T, normals_J)
    )
    if (np.diff(new_J) <= 0).any():
        return cuts_J
    if is_burn_in:
        return new_J
    proposed = log_posterior(scores_T, levels_T, noise_scales_T, new_J)
    log_ratio = (
        proposed.posterior
        - current.posterior
        + _log_proposal_density(proposed, new_J, cuts_J)
        - _log_proposal_density(current, cuts_J, new_J)
    )
    return new_J if math.log(max(uniform, MIN_PROBABILITY)) < log_ratio else cuts_J


def newton_step_cutpoints(
    scores_T: Scores, levels_T: Codes, noise_scales_T: Scores, cuts_J: Numbers, current: ProbitLogPosterior
) -> Numbers:
    """Take a Newton step, halved until the posterior does not decrease."""
    step_J = np.linalg.solve(current.neg_hessian_JJ, current.gradient_J)
    for _ in range(MAX_HALVINGS):
        new_J: Numbers = cuts_J + step_J
        if (np.diff(new_J) > 0).all() and log_posterior(
            scores_T, levels_T, noise_scales_T, new_J
        ).posterior >= current.posterior:
            return new_J
        step_J /= 2
    return cuts_J


def _log_proposal_density(start: ProbitLogPosterior, from_J: Numbers, to_J: Numbers) -> float:
    """Return the log-density of proposing ``to_J`` from ``from_J``, up to a constant.

    ``start`` is the log-posterior at ``from_J``; see :func:`sample_cutpoints`.
    """
    deviation_J = to_J - from_J - np.linalg.solve(start.neg_hessian_JJ, start.gradient_J)
    return float(
        0.5 * np.linalg.slogdet(start.neg_hessian_JJ)[1] - 0.5 * deviation_J @ start.neg_hessian_JJ @ deviation_J
    )


@fastmath_kernel(
    input_array(float32),
    input_array(int32),
    input_array(float32),
    input_array(float64),
    output_array(float32),
    output_array(float64),
    output_array(float64),
    output_array(float64),
    output_array(float64),
)
def _posterior_kernel(
    scores: Scores,
    levels: Codes,
    noise_scales: Scores,
    edges: Numbers,
    residuals: Scores,
    value: Numbers,
    gradient: Numbers,
    diagonal: Numbers,
    off_diagonal: Numbers,
) -> None:
    """Add terms of all ratings by edge: minus infinity, the cutpoints, infinity."""
    half = math.sqrt(0.5)
    height = 1.0 / math.sqrt(2.0 * math.pi)
    for t in range(len(scores)):
        k = levels[t]
        scale = np.float64(noise_scales[t])
        low = max((edges[k] - scores[t]) * scale, -MAX_DISTANCE)
        high = min((edges[k + 1] - scores[t]) * scale, MAX_DISTANCE)
        if low >= MAX_DISTANCE or high <= -MAX_DISTANCE:
            # the interval is so far in the tail that only its nearer edge matters
            distance = low if low >= MAX_DISTANCE else -high
            hazard = distance + 1.0 / distance
            at_low, at_high = (hazard, 0.0) if low >= MAX_DISTANCE else (0.0, hazard)
            value[0] += math.log(height / distance) - 0.5 * distance * distance
        else:
            if low + high > 0:
                mass = 0.5 * (math.erfc(low * half) - math.erfc(high * half))
            else:
                mass = 0.5 * (math.erfc(-high * half) - math.erfc(-low * half))
            mass = max(mass, MIN_PROBABILITY)
            at_low = height * math.exp(-0.5 * low * low) / mass
            at_high = height * math.exp(-0.5 * high * high) / mass
            value[0] += math.log(mass)
        gradient[k] -= scale * at_low
        gradient[k + 1] += scale * at_high
        diagonal[k] += scale * scale * at_low * (at_low - low)
        diagonal[k + 1] += scale * scale * at_high * (at_high + high)
        off_diagonal[k] -= scale * scale * at_low * at_high
        residuals[t] = (at_low - at_high) / scale
