"""Samplers of negatives; each works with every sampled loss.

A sampler is a function of the item counts in the training data; its keyword-only parameters are training settings of
the same name. It returns ``sample(K, hidden_MD, vectors_ID, bias_I, targets_M)``, which draws with replacement for one
batch and returns the probability of each item drawn, so that a loss can correct for it.

Shapes: I items, K negatives, M targets, D width, P items of a pool, R targets that judge the pool.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segue.nn.losses.negatives import Negatives, SampleNegatives
from segue.nn.precision import full_precision

__all__ = ["hard", "in_batch", "mixed", "popularity", "uniform"]

MAX_JUDGES = 1024
"""Maximum number of targets whose scores rank the pool of ``hard``."""


def uniform(counts_I: Tensor) -> SampleNegatives:
    """Draw all items with equal probability.

    The probability returned is that among the items that are not the target.
    """
    log_q = _uniform_log_q(counts_I)

    def sample(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        items_K = torch.randint(len(counts_I), (k,), device=targets_M.device)
        return Negatives(items_K, torch.full((k,), log_q, device=targets_M.device))

    return sample


def popularity(counts_I: Tensor, *, sampler_alpha: float) -> SampleNegatives:
    """Draw in proportion to ``count ** alpha`` (Mikolov et al. 2013, arXiv:1310.4546).

    Items that do not occur in the training data are never drawn, unless alpha is 0.

    Args:
        sampler_alpha: 0 is uniform, 1 is proportional to the counts.
    """
    weights_I = counts_I.cpu().double() ** sampler_alpha
    cumulative_I = weights_I.cumsum(0)
    log_q_I = (weights_I / cumulative_I[-1]).log().float().to(counts_I.device)

    def sample(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        point_K = torch.rand(k, dtype=torch.float64) * cumulative_I[-1]
        # rounding may reach the end, where the last item may have no weight: use the last one that has
        point_K = point_K.clamp_max(torch.nextafter(cumulative_I[-1], cumulative_I.new_zeros(())))
        items_K = torch.searchsorted(cumulative_I, point_K, right=True).to(targets_M.device)
        return Negatives(items_K, log_q_I[items_K])

    return sample


def in_batch(counts_I: Tensor) -> SampleNegatives:
    """Draw random targets of the batch.

    Their probability is their frequency in the training data.
    """
    log_q_I = _log_frequencies(counts_I)

    def sample(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        items_K = targets_M[torch.randint(len(targets_M), (k,), device=targets_M.device)]
        return Negatives(items_K, log_q_I[items_K])

    return sample


def mixed(counts_I: Tensor, *, in_batch_fraction: float) -> SampleNegatives:
    """Draw a fraction of the negatives from the batch, the rest uniformly.

    Mixed Negative Sampling: Yang et al. 2020. The probability returned is that of the mixture, so that it does not
    depend on which of the two drew an item.
    """
    from_batch, from_catalog = in_batch(counts_I), uniform(counts_I)
    log_q_I, uniform_log_q = _log_frequencies(counts_I), _uniform_log_q(counts_I)

    def sample(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        n_batch = round(in_batch_fraction * k)
        inputs = hidden_MD, vectors_ID, bias_I, targets_M
        items_K = torch.cat([from_batch(n_batch, *inputs).items_K, from_catalog(k - n_batch, *inputs).items_K])
        log_batch_K = log_q_I[items_K] + (math.log(n_batch / k) if n_batch else -math.inf)
        log_catalog = uniform_log_q + (math.log1p(-n_batch / k) if n_batch < k else -math.inf)
        return Negatives(items_K, torch.logaddexp(log_batch_K, torch.full_like(log_batch_K, log_catalog)))

    return sample


def hard(counts_I: Tensor, *, hard_pool_factor: float) -> SampleNegatives:
    """Draw a uniform pool and keep the items with the highest scores.

    The scores are those of the current model (cf. Zhang et al. 2013). Items are ranked by their softmax probability
    over the pool, summed over some targets of the batch. The probability returned is that of drawing an item into the
    pool. A loss that corrects for it neglects the rest of the pool and slightly underestimates the sum over the
    catalog; the error is small if the highest scores dominate the sum. Other losses see a biased sample, with more
    false negatives (items the user would also have chosen) than a uniform one.

    Args:
        hard_pool_factor: size of the pool, as a multiple of the number of negatives.
    """
    sample_pool = uniform(counts_I)

    @torch.no_grad()
    @full_precision
    def total_probability(hidden_RD: Tensor, vectors_PD: Tensor, bias_P: Tensor | None, hit_RP: Tensor) -> Tensor:
        score_RP = hidden_RD @ vectors_PD.t()
        score_RP = score_RP if bias_P is None else score_RP + bias_P
        score_RP.masked_fill_(hit_RP, torch.finfo(score_RP.dtype).min)
        return torch.softmax(score_RP, 1).sum(0)

    def sample(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        pool = sample_pool(math.ceil(k * hard_pool_factor), hidden_MD, vectors_ID, bias_I, targets_M)
        judges_R = torch.arange(len(targets_M), device=targets_M.device)
        if len(judges_R) > MAX_JUDGES:
            judges_R = torch.randint(len(targets_M), (MAX_JUDGES,), device=targets_M.device)
        items_P = pool.items_K
        bias_P = None if bias_I is None else bias_I[items_P]
        total_P = total_probability(
            hidden_MD[judges_R], vectors_ID[items_P], bias_P, items_P == targets_M[judges_R, None]
        )
        best_K = total_P.topk(k).indices
        # each of the K kept items has the weight it had among the P items of the pool
        return Negatives(items_P[best_K], pool.log_q_K[best_K] + math.log(len(items_P) / k))

    return sample


def _uniform_log_q(counts_I: Tensor) -> float:
    return -math.log(max(len(counts_I) - 1, 1))


def _log_frequencies(counts_I: Tensor) -> Tensor:
    return (counts_I.cpu().double() / counts_I.sum().item()).log().float().to(counts_I.device)
