"""Where negatives come from: each sampler goes with any loss that takes them.

A sampler is a function of how often the training data has each item; what stands behind a ``*`` is a setting of the
training of that name. It gives ``draw(K, hidden_MD, vectors_ID, bias_I, targets_M)``, which draws with replacement for
one batch and tells the chance of what was drawn, so that a loss can correct for it.

Shapes: I items, K negatives, M targets, D width, P items of a pool, R positions that are looked at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segue.nn.losses.negatives import Draw, Negatives
from segue.nn.precision import full_precision

__all__ = ["hard", "in_batch", "mixed", "popularity", "uniform"]

LOOKED_AT = 1024
"""Positions of the batch, at most, by whose scores ``hard`` judges the items of its pool."""


def uniform(counts_I: Tensor) -> Draw:
    """Every item alike; the chance is that among the items that are not the target."""
    chance = _even(counts_I)

    def draw(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        items_K = torch.randint(len(counts_I), (k,), device=targets_M.device)
        return Negatives(items_K, torch.full((k,), chance, device=targets_M.device))

    return draw


def popularity(counts_I: Tensor, *, sampler_alpha: float) -> Draw:
    """In proportion to ``count ** alpha``: 0 is even, 1 as often as in the data (Mikolov et al. 2013, arXiv:1310.4546).

    An item that the training data does not have is never drawn, unless alpha is 0.
    """
    weights_I = counts_I.cpu().double() ** sampler_alpha
    upto_I = weights_I.cumsum(0)
    log_q_I = (weights_I / upto_I[-1]).log().float().to(counts_I.device)

    def draw(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        place_K = torch.rand(k, dtype=torch.float64) * upto_I[-1]
        # rounding may reach the end, and the last item may have no weight: the last that has is meant
        place_K = place_K.clamp_max(torch.nextafter(upto_I[-1], upto_I.new_zeros(())))
        items_K = torch.searchsorted(upto_I, place_K, right=True).to(targets_M.device)
        return Negatives(items_K, log_q_I[items_K])

    return draw


def in_batch(counts_I: Tensor) -> Draw:
    """Targets of the batch, drawn at random; their chance is taken from the whole training data."""
    log_q_I = _frequency(counts_I)

    def draw(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        items_K = targets_M[torch.randint(len(targets_M), (k,), device=targets_M.device)]
        return Negatives(items_K, log_q_I[items_K])

    return draw


def mixed(counts_I: Tensor, *, sampler_share: float) -> Draw:
    """A share of the negatives from the batch, the rest uniform (Yang et al. 2020, Mixed Negative Sampling).

    The chance is that of the mixture, so that an item counts the same whichever way it came.
    """
    batch, rest = in_batch(counts_I), uniform(counts_I)
    log_q_I, even = _frequency(counts_I), _even(counts_I)

    def draw(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        own = round(sampler_share * k)
        scene = hidden_MD, vectors_ID, bias_I, targets_M
        items_K = torch.cat([batch(own, *scene).items_K, rest(k - own, *scene).items_K])
        log_own_K = log_q_I[items_K] + (math.log(own / k) if own else -math.inf)
        log_rest = even + (math.log1p(-own / k) if own < k else -math.inf)
        return Negatives(items_K, torch.logaddexp(log_own_K, torch.full_like(log_own_K, log_rest)))

    return draw


def hard(counts_I: Tensor, *, sampler_pool: float) -> Draw:
    """Of ``pool`` times as many uniform items, those of which the model now makes most (cf. Zhang et al. 2013).

    What is made of an item is its summed share of the softmax over the pool, at some positions of the batch. The chance
    told is that of the pool: a loss that corrects by it takes what was left out for nothing, so it estimates the sum
    over the catalogue a little too low, the less so the more the few best hold of it. Other losses see a biased sample:
    wrong negatives (items that would have been chosen too) are among it more often than among uniform ones.
    """
    wide = uniform(counts_I)

    @torch.no_grad()
    @full_precision
    def made_of(hidden_RD: Tensor, vectors_PD: Tensor, bias_P: Tensor | None, hit_RP: Tensor) -> Tensor:
        score_RP = hidden_RD @ vectors_PD.t()
        score_RP = score_RP if bias_P is None else score_RP + bias_P
        score_RP.masked_fill_(hit_RP, torch.finfo(score_RP.dtype).min)
        return torch.softmax(score_RP, 1).sum(0)

    def draw(k: int, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Negatives:
        pool = wide(math.ceil(k * sampler_pool), hidden_MD, vectors_ID, bias_I, targets_M)
        seen_R = torch.arange(len(targets_M), device=targets_M.device)
        if len(seen_R) > LOOKED_AT:
            seen_R = torch.randint(len(targets_M), (LOOKED_AT,), device=targets_M.device)
        items_P = pool.items_K
        bias_P = None if bias_I is None else bias_I[items_P]
        share_P = made_of(hidden_MD[seen_R], vectors_ID[items_P], bias_P, items_P == targets_M[seen_R, None])
        best_K = share_P.topk(k).indices
        # K chances of K draws stand for P of P: each kept item for as many as it did in the pool
        return Negatives(items_P[best_K], pool.log_q_K[best_K] + math.log(len(items_P) / k))

    return draw


def _even(counts_I: Tensor) -> float:
    return -math.log(max(len(counts_I) - 1, 1))


def _frequency(counts_I: Tensor) -> Tensor:
    return (counts_I.cpu().double() / counts_I.sum().item()).log().float().to(counts_I.device)
