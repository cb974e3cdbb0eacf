"""Terms of a variational bound: how likely a bag of items is, and how far a Gaussian is from the standard one.

Shapes: N bags, I items, T items in all bags, W dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.nn.precision import full_precision

__all__ = ["gaussian_kl", "multinomial_nll"]


@full_precision
def multinomial_nll(logits_NI: Tensor, offsets: Tensor, items_T: Tensor) -> Tensor:
    """``(N,)`` minus the logarithm of the chance that a softmax over the catalogue gives the items of each bag.

    The number of orders in which they may come, which no parameter changes, is left out.

    Args:
        offsets: int64 ``(N + 1,)`` where each bag begins in ``items_T``.
    """
    lengths_N = offsets.diff()
    rows_T = torch.repeat_interleave(torch.arange(len(lengths_N), device=items_T.device), lengths_N)
    chosen_N = logits_NI.new_zeros(len(lengths_N)).index_add(0, rows_T, logits_NI[rows_T, items_T])
    return lengths_N * torch.logsumexp(logits_NI, 1) - chosen_N


@full_precision
def gaussian_kl(mean_NW: Tensor, log_variance_NW: Tensor) -> Tensor:
    """``(N,)`` the divergence of a Gaussian of independent dimensions from the standard one, summed over these."""
    return 0.5 * (log_variance_NW.exp() + mean_NW.square() - 1.0 - log_variance_NW).sum(1)
