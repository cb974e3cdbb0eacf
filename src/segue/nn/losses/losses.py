"""Losses of a next-item model over the whole catalog or sampled negatives.

All losses are pure functions.

Shapes: M targets, D width, I items, K negatives.

``loss(hidden_MD, vectors_ID, bias_I, targets_M, seen)`` returns the mean over targets; a sampled loss takes
``negatives`` before ``seen``, the items excluded as negatives. Keyword-only parameters are training settings of the
same name. Losses work with any encoder, objective and sampler, and compute in float32 regardless of the precision of
the layers before them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.seen_items import SeenItems
from segue.nn.losses.blocked_cross_entropy import blocked_cross_entropy
from segue.nn.losses.negatives import Negatives, lookup_rows
from segue.nn.precision import full_precision

__all__ = [
    "bce",
    "bpr",
    "bpr_max",
    "cross_entropy",
    "cross_entropy_pairwise",
    "focal",
    "gbce",
    "nll",
    "sampled_softmax",
    "sampled_softmax_pairwise",
]


@full_precision
def cross_entropy(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    seen: SeenItems | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute softmax cross-entropy over the whole catalog.

    It is computed in blocks, so that memory does not grow with targets x items.

    Args:
        label_smoothing: fraction of each target that is spread uniformly over the catalog (Szegedy et al. 2016,
            arXiv:1512.00567). Equivalent to adding this fraction of (target score - mean score), without a second pass.
    """
    loss = blocked_cross_entropy(hidden_MD, vectors_ID, bias_I, targets_M, seen)
    if label_smoothing:
        direction_MD = F.embedding(targets_M, vectors_ID) - vectors_ID.mean(0)
        logit_gap_M = (hidden_MD * direction_MD).sum(1)
        if bias_I is not None:
            logit_gap_M = logit_gap_M + bias_I[targets_M] - bias_I.mean()
        loss = loss + label_smoothing * logit_gap_M.mean()
    return loss


@full_precision
def focal(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    seen: SeenItems | None = None,
    *,
    focal_gamma: float,
) -> Tensor:
    """Compute the focal loss over the whole catalog, in blocks.

    It is a cross-entropy that down-weights well-predicted targets: ``-(1 - p)^gamma log p`` for a target of probability
    p (Lin et al. 2017, arXiv:1708.02002, eq. 4).
    """
    return blocked_cross_entropy(hidden_MD, vectors_ID, bias_I, targets_M, seen, focal_gamma)


@full_precision
def cross_entropy_pairwise(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None = None,
    *,
    pairwise_weight: float,
    label_smoothing: float,
) -> Tensor:
    """Compute a weighted mean of cross-entropy and :func:`bpr`.

    Cross-entropy is over the whole catalog, :func:`bpr` over the negatives.

    Args:
        pairwise_weight: weight of :func:`bpr`.
    """
    listwise = cross_entropy(hidden_MD, vectors_ID, bias_I, targets_M, seen, label_smoothing=label_smoothing)
    pairwise = bpr(hidden_MD, vectors_ID, bias_I, targets_M, negatives, seen)
    return (1.0 - pairwise_weight) * listwise + pairwise_weight * pairwise


@full_precision
def sampled_softmax_pairwise(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None = None,
    *,
    pairwise_weight: float,
) -> Tensor:
    """Compute a weighted mean of :func:`sampled_softmax` and :func:`bpr`.

    Both use the same negatives.

    Args:
        pairwise_weight: weight of :func:`bpr`.
    """
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, negatives, seen)
    listwise, pairwise = _sampled_softmax(positive_M, negative_MK, negatives), _bpr(positive_M, negative_MK)
    return (1.0 - pairwise_weight) * listwise + pairwise_weight * pairwise


@full_precision
def sampled_softmax(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None = None,
) -> Tensor:
    """Compute softmax cross-entropy over the target and the negatives.

    A negative of probability q is weighted by ``1 / (K q)``.

    This log-Q correction (Bengio & Senecal 2008) makes the sum over negatives an unbiased estimate of the sum over the
    catalog for any sampler; with every other item drawn once it is the cross-entropy.
    """
    return _sampled_softmax(*_scores(hidden_MD, vectors_ID, bias_I, targets_M, negatives, seen), negatives)


@full_precision
def nll(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None = None,
) -> Tensor:
    """Compute softmax cross-entropy over target and negatives, without correction.

    Also known as InfoNCE (van den Oord et al. 2018, arXiv:1807.03748). Over the whole catalog the negative
    log-likelihood is ``cross_entropy``. Without correction, items drawn often by the sampler get lower scores.
    """
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, negatives, seen)
    return (torch.logsumexp(torch.cat([positive_M[:, None], negative_MK], 1), 1) - positive_M).mean()


@full_precision
def bce(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None = None,
) -> Tensor:
    """Compute the binary cross-entropy of the target and of the negatives.

    The loss of the negatives is their mean (Kang & McAuley 2018, eq. 6).
    """
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, negatives, seen)
    return (F.softplus(-positive_M) + F.softplus(negative_MK).mean(1)).mean()


@full_precision
def gbce(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None = None,
    *,
    calibration: float,
) -> Tensor:
    """Compute generalized BCE, which corrects the overconfidence of negative sampling.

    Petrov & Macdonald 2023, arXiv:2308.07192, eq. 12. The exponent of the target's probability follows from the
    fraction of the catalog that is sampled; the derivation assumes uniform negatives. Scores are offset by the log-odds
    at which targets and negatives balance. The offset does not change any ranking, and an untrained model does not have
    to learn how rare targets are first. Without it, the first steps push all scores down along one common direction and
    learn little else.

    Args:
        calibration: t in [0, 1]; 0 is plain BCE, 1 makes the scores, minus the offset, estimate true probabilities.
    """
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, negatives, seen)
    rate = len(negatives.items_K) / max(len(vectors_ID) - 1, 1)
    power = rate * (calibration * (1.0 - 1.0 / rate) + 1.0 / rate)
    offset = math.log(len(negatives.items_K) / power)
    return (power * F.softplus(offset - positive_M) + F.softplus(negative_MK - offset).sum(1)).mean()


@full_precision
def bpr(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None = None,
) -> Tensor:
    """Compute the Bayesian personalized ranking loss.

    Each target is compared with each negative (Rendle et al. 2009, arXiv:1205.2618).
    """
    return _bpr(*_scores(hidden_MD, vectors_ID, bias_I, targets_M, negatives, seen))


@full_precision
def bpr_max(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None = None,
    *,
    score_penalty: float,
) -> Tensor:
    """Compute BPR with the negatives weighted by their softmax.

    The hardest negatives dominate (Hidasi & Karatzoglou 2018, arXiv:1706.03847, eq. 10).

    Args:
        score_penalty: weight of the negatives' squared scores, which are weighted by the same softmax.
    """
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, negatives, seen)
    excluded_MK = negative_MK == -math.inf
    log_weight_MK = torch.log_softmax(negative_MK.masked_fill(excluded_MK, torch.finfo(negative_MK.dtype).min), 1)
    score_MK = negative_MK.masked_fill(excluded_MK, 0.0)
    log_ahead_MK = F.logsigmoid(positive_M[:, None] - score_MK).masked_fill(excluded_MK, 0.0)
    penalty_M = (log_weight_MK.exp() * score_MK.square()).sum(1)
    return (score_penalty * penalty_M - torch.logsumexp(log_weight_MK + log_ahead_MK, 1)).mean()


def _scores(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives: Negatives,
    seen: SeenItems | None,
) -> tuple[Tensor, Tensor]:
    """Return scores of the targets ``(M,)`` and of the negatives ``(M, K)``.

    -inf for targets and seen items.
    """
    count = len(targets_M)
    both = torch.cat([targets_M, negatives.items_K])  # one lookup: its gradient may have the size of the catalog
    vectors = lookup_rows(both, vectors_ID)
    positive_M = (hidden_MD * vectors[:count]).sum(1)
    negative_MK = hidden_MD @ vectors[count:].t()
    if bias_I is not None:
        offsets = bias_I[both]
        positive_M = positive_M + offsets[:count]
        negative_MK = negative_MK + offsets[count:]
    excluded_MK = negatives.items_K == targets_M[:, None]
    if seen is not None:
        excluded_MK |= seen.mask_for_items(negatives.items_K)
    return positive_M, negative_MK.masked_fill(excluded_MK, -math.inf)


def _sampled_softmax(positive_M: Tensor, negative_MK: Tensor, negatives: Negatives) -> Tensor:
    corrected_MK = negative_MK - (negatives.log_q_K + math.log(len(negatives.items_K)))
    return (torch.logsumexp(torch.cat([positive_M[:, None], corrected_MK], 1), 1) - positive_M).mean()


def _bpr(positive_M: Tensor, negative_MK: Tensor) -> Tensor:
    return F.softplus(negative_MK - positive_M[:, None]).mean()
