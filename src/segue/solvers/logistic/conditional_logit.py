"""Fit a conditional logit model: which of several items is chosen.

McFadden 1974, "Conditional logit analysis of qualitative choice behavior".

Shapes: T examples, C alternatives per example, F inputs, M models, N queries, I items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segue.core.recommend import exclude
from segue.core.types import Codes, Mask, Queries, Scores

__all__ = ["fit_conditional_logit", "sample_alternatives"]


def fit_conditional_logit(
    inputs_TCF: NDArray[np.float64], log_weights_TC: NDArray[np.float64], l2: float
) -> NDArray[np.float64]:
    """Return the coefficients of a conditional logit model, ``(F,)``.

    The first alternative of each example is the one that was chosen.

    Args:
        log_weights_TC: logarithm of the number of items that each alternative stands for; ``-inf``: none.
        l2: penalty of the coefficients of standardized inputs.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    scale_F = inputs_TCF.std((0, 1))
    scale_F[scale_F == 0] = 1
    scaled_TCF = inputs_TCF / scale_F

    def loss(coefficients_F: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits_TC = scaled_TCF @ coefficients_F + log_weights_TC
        log_sum_T = logsumexp(logits_TC, axis=1)
        chances_TC = np.exp(logits_TC - log_sum_T[:, None])
        expected_F = np.einsum("tc,tcf->f", chances_TC, scaled_TCF)
        n_examples = len(logits_TC)
        gradient_F = (expected_F - scaled_TCF[:, 0].sum(0)) / n_examples + 2 * l2 * coefficients_F
        return float((log_sum_T - logits_TC[:, 0]).mean() + l2 * coefficients_F @ coefficients_F), gradient_F

    found = minimize(loss, np.zeros(inputs_TCF.shape[2]), jac=True, method="L-BFGS-B")
    coefficients_F: NDArray[np.float64] = found.x / scale_F
    return coefficients_F


def sample_alternatives(
    scores_MNI: Sequence[Scores],
    queries: Queries,
    targets_N: Codes,
    is_eligible_I: Mask,
    count: int,
    rng: np.random.Generator,
) -> tuple[Codes, NDArray[np.float64]]:
    """Return alternatives ``(N, C)``, first the target, and their log weights.

    The half after the target has the highest mean score of the models, the rest is random. Alternatives are eligible
    and unseen. The random ones stand for all other such items: without their weights the best items would seem to be
    much more frequent than they are, and a model would learn that high scores make a choice unlikely.

    Args:
        scores_MNI: scores of all items by each model, ``(N, I)``.
        is_eligible_I: items that can be alternatives; the target need not be one of them.
        count: number of alternatives in addition to the target.
    """
    mean_NI: Scores = np.mean(scores_MNI, axis=0)
    exclude(mean_NI, queries.history)
    mean_NI[:, ~is_eligible_I] = -np.inf
    mean_NI[np.arange(len(targets_N)), targets_N] = -np.inf
    n_items = mean_NI.shape[1]
    n_top = min(count // 2, n_items)
    top_NC = np.argpartition(-mean_NI, n_top - 1, axis=1)[:, :n_top]
    random_NC = rng.integers(n_items, size=(len(targets_N), count - count // 2))
    top_scores_NC, random_scores_NC = (np.take_along_axis(mean_NI, one, axis=1) for one in (top_NC, random_NC))
    is_other_NC = (random_scores_NC < top_scores_NC.min(1)[:, None]) & (random_scores_NC > -np.inf)
    is_top_NC = top_scores_NC > -np.inf
    n_others_N = (mean_NI > -np.inf).sum(1) - is_top_NC.sum(1)
    weights_N = n_others_N / np.maximum(1, is_other_NC.sum(1))
    weights_NC = np.concatenate([np.ones((len(targets_N), 1)), is_top_NC, is_other_NC * weights_N[:, None]], axis=1)
    items_NC = np.concatenate([targets_N[:, None], top_NC, random_NC], axis=1).astype(np.int32)
    with np.errstate(divide="ignore"):
        return items_NC, np.log(weights_NC)
