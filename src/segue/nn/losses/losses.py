"""Losses of a next-item model over the whole catalogue or a sample of it; each is a pure function.

Shapes: M targets, D width, I items, K negatives.

``loss(hidden_MD, vectors_ID, bias_I, targets_M)`` gives the mean over targets; one that samples takes ``drawn``, the
negatives, as a fifth argument. Last comes what was ``seen``, where that is left out: items that are no wrong answers.
What stands behind a ``*`` is a setting of the training of that name. Encoder, objective and sampler are any. All
compute in float32 at least, whatever the precision of the layers before.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.seen_items import Seen
from segue.nn.losses.blocked_cross_entropy import blocked
from segue.nn.losses.negatives import Negatives
from segue.nn.precision import full_precision
from segue.nn.sparse_embedding import look_up

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
    seen: Seen | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax cross-entropy over the whole catalogue, in blocks: memory does not grow with targets x items.

    Args:
        label_smoothing: share of each target that is spread evenly over the catalogue (Szegedy et al. 2016,
            arXiv:1512.00567). It adds this share of the target's score less the mean score: no second pass.
    """
    loss = blocked(hidden_MD, vectors_ID, bias_I, targets_M, seen)
    if label_smoothing:
        wanted_MD = F.embedding(targets_M, vectors_ID) - vectors_ID.mean(0)
        ahead_M = (hidden_MD * wanted_MD).sum(1)
        if bias_I is not None:
            ahead_M = ahead_M + bias_I[targets_M] - bias_I.mean()
        loss = loss + label_smoothing * ahead_M.mean()
    return loss


@full_precision
def focal(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    seen: Seen | None = None,
    *,
    focal_gamma: float,
) -> Tensor:
    """Cross-entropy over the whole catalogue, in blocks, in which what is already found counts less.

    Of a target of probability p it is ``-(1 - p)^gamma log p`` (Lin et al. 2017, arXiv:1708.02002, eq. 4).
    """
    return blocked(hidden_MD, vectors_ID, bias_I, targets_M, seen, focal_gamma)


@full_precision
def cross_entropy_pairwise(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    drawn: Negatives,
    seen: Seen | None = None,
    *,
    pairwise_share: float,
    label_smoothing: float,
) -> Tensor:
    """Cross-entropy over the whole catalogue and :func:`bpr` over negatives, the latter with ``pairwise_share``."""
    whole = cross_entropy(hidden_MD, vectors_ID, bias_I, targets_M, seen, label_smoothing=label_smoothing)
    pairs = bpr(hidden_MD, vectors_ID, bias_I, targets_M, drawn, seen)
    return (1.0 - pairwise_share) * whole + pairwise_share * pairs


@full_precision
def sampled_softmax_pairwise(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    drawn: Negatives,
    seen: Seen | None = None,
    *,
    pairwise_share: float,
) -> Tensor:
    """:func:`sampled_softmax` and :func:`bpr` over the same negatives, the latter with ``pairwise_share``."""
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, drawn, seen)
    listed, pairs = _sampled_softmax(positive_M, negative_MK, drawn), _bpr(positive_M, negative_MK)
    return (1.0 - pairwise_share) * listed + pairwise_share * pairs


@full_precision
def sampled_softmax(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    drawn: Negatives,
    seen: Seen | None = None,
) -> Tensor:
    """Softmax over the target and the negatives, each of which stands for ``1 / (K q)`` items of chance q.

    This log-Q correction (Bengio & Senecal 2008) makes the sum over negatives an unbiased estimate of the sum over the
    catalogue, whatever the sampler; with every other item drawn once it is the cross-entropy.
    """
    return _sampled_softmax(*_scores(hidden_MD, vectors_ID, bias_I, targets_M, drawn, seen), drawn)


@full_precision
def nll(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    drawn: Negatives,
    seen: Seen | None = None,
) -> Tensor:
    """Negative log-likelihood of the target in a softmax over it and the negatives as they are, without correction.

    Also known as InfoNCE (van den Oord et al. 2018, arXiv:1807.03748). Over the whole catalogue the negative
    log-likelihood is ``cross_entropy``. Uncorrected, what the sampler draws often is learned to be scored lower.
    """
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, drawn, seen)
    return (torch.logsumexp(torch.cat([positive_M[:, None], negative_MK], 1), 1) - positive_M).mean()


@full_precision
def bce(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    drawn: Negatives,
    seen: Seen | None = None,
) -> Tensor:
    """Binary cross-entropy: the target against the mean of the sampled negatives (Kang & McAuley 2018, eq. 6)."""
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, drawn, seen)
    return (F.softplus(-positive_M) + F.softplus(negative_MK).mean(1)).mean()


@full_precision
def gbce(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    drawn: Negatives,
    seen: Seen | None = None,
    *,
    calibration: float,
) -> Tensor:
    """Generalised BCE against overconfidence of negative sampling (Petrov & Macdonald 2023, arXiv:2308.07192, eq. 12).

    The power of the target's probability follows from the share of the catalogue that is drawn; the derivation is for
    uniform negatives. Scores are read as above the log-odds at which targets and negatives balance, which changes no
    ranking: a model that knows nothing has nothing to learn about how rare targets are. Without it the first steps
    push all scores down by one direction in common, and what is learned next to that is little.

    Args:
        calibration: t in [0, 1]; 0 is plain BCE, 1 makes the scores, less that constant, estimate true probabilities.
    """
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, drawn, seen)
    rate = len(drawn.items_K) / max(len(vectors_ID) - 1, 1)
    power = rate * (calibration * (1.0 - 1.0 / rate) + 1.0 / rate)
    rare = math.log(len(drawn.items_K) / power)
    return (power * F.softplus(rare - positive_M) + F.softplus(negative_MK - rare).sum(1)).mean()


@full_precision
def bpr(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    drawn: Negatives,
    seen: Seen | None = None,
) -> Tensor:
    """Bayesian personalised ranking: the target ahead of each negative (Rendle et al. 2009, arXiv:1205.2618)."""
    return _bpr(*_scores(hidden_MD, vectors_ID, bias_I, targets_M, drawn, seen))


@full_precision
def bpr_max(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    drawn: Negatives,
    seen: Seen | None = None,
    *,
    score_penalty: float,
) -> Tensor:
    """BPR against the negatives by their own softmax, so that the hardest count (Hidasi & Karatzoglou 2018,
    arXiv:1706.03847, eq. 10).

    Args:
        score_penalty: weight of the negatives' squared scores, weighted by the same softmax.
    """
    positive_M, negative_MK = _scores(hidden_MD, vectors_ID, bias_I, targets_M, drawn, seen)
    hit_MK = negative_MK == -math.inf
    log_share_MK = torch.log_softmax(negative_MK.masked_fill(hit_MK, torch.finfo(negative_MK.dtype).min), 1)
    score_MK = negative_MK.masked_fill(hit_MK, 0.0)
    ahead_MK = F.logsigmoid(positive_M[:, None] - score_MK).masked_fill(hit_MK, 0.0)
    penalty_M = (log_share_MK.exp() * score_MK.square()).sum(1)
    return (score_penalty * penalty_M - torch.logsumexp(log_share_MK + ahead_MK, 1)).mean()


def _scores(
    hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor, drawn: Negatives, seen: Seen | None
) -> tuple[Tensor, Tensor]:
    """``(M,)`` scores of the targets and ``(M, K)`` of the negatives; what is no wrong answer is at minus infinity."""
    count = len(targets_M)
    both = torch.cat([targets_M, drawn.items_K])  # one look-up: its gradient may be as large as the catalogue
    vectors = look_up(both, vectors_ID)
    positive_M = (hidden_MD * vectors[:count]).sum(1)
    negative_MK = hidden_MD @ vectors[count:].t()
    if bias_I is not None:
        offsets = bias_I[both]
        positive_M = positive_M + offsets[:count]
        negative_MK = negative_MK + offsets[count:]
    none_MK = drawn.items_K == targets_M[:, None]
    if seen is not None:
        none_MK |= seen.among(drawn.items_K)
    return positive_M, negative_MK.masked_fill(none_MK, -math.inf)


def _sampled_softmax(positive_M: Tensor, negative_MK: Tensor, drawn: Negatives) -> Tensor:
    corrected_MK = negative_MK - (drawn.log_q_K + math.log(len(drawn.items_K)))
    return (torch.logsumexp(torch.cat([positive_M[:, None], corrected_MK], 1), 1) - positive_M).mean()


def _bpr(positive_M: Tensor, negative_MK: Tensor) -> Tensor:
    return F.softplus(negative_MK - positive_M[:, None]).mean()
