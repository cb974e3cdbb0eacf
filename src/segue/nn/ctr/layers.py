"""Towers and interactions of fields.

Shapes: B examples, F fields, D width of an embedding, N width of an input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.dropout import dropout

__all__ = ["EPSILON", "BatchNorm", "Dice", "Tower", "TowerDropout", "pairwise_interactions", "sum_of_products"]


EPSILON = 1e-5
"""Added to the variance in batch normalization."""


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy 2015, arXiv:1502.03167).

    Unlike that of torch, it stores no count of batches, which nothing would read.

    Args:
        affine: whether a learned scale and shift follow.
    """

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x_BN: Tensor) -> Tensor:
        """Return normalized columns.

        In training the statistics are those of the batch; for a batch of one row, those of earlier batches.
        """
        uses_batch = self.training and len(x_BN) > 1
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x_BN, *statistics, self.weight, self.bias, uses_batch, eps=EPSILON)


class Tower(nn.Sequential):
    """Fully connected layers with normalization, activation and dropout.

    Args:
        width: of the input.
        hidden: widths of the layers.
        out: width of a last linear layer; ``None``: none.
        activation: returns the activation of a layer of a width; ``None``: ReLU.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        dropout: float,
        batch_norm: bool,
        out: int | None = None,
        activation: Callable[[int], nn.Module] | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        for one in hidden:
            layers.append(nn.Linear(width, one))
            if batch_norm:
                layers.append(BatchNorm(one))
            layers.append(nn.ReLU() if activation is None else activation(one))
            if dropout:
                layers.append(TowerDropout(dropout))
            width = one
        if out is not None:
            layers.append(nn.Linear(width, out))
        super().__init__(*layers)
        self.width = width if out is None else out


class TowerDropout(nn.Module):
    """Dropout with a cheap mask on CPUs; see :mod:`segue.nn.layers.dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements with probability ``p``."""
        return dropout(x, self.p, self.training)


class Dice(nn.Module):
    """Activation that adapts to the distribution of its input.

    Zhou et al. 2018, arXiv:1706.06978, eq. 5.

    ``p(x) x + (1 - p(x)) a x`` with ``p(x) = sigmoid((x - mean) / sqrt(variance))`` and a learned ``a`` per column. In
    training, mean and variance are those of the batch; of a batch of one row, those of earlier batches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = BatchNorm(width, affine=False)
        self.slope_N = nn.Parameter(torch.zeros(width))

    def forward(self, x_BN: Tensor) -> Tensor:
        """Return activations, ``(B, N)``."""
        p_BN = torch.sigmoid(self.norm(x_BN))
        return x_BN * (p_BN + (1 - p_BN) * self.slope_N)


def sum_of_products(x_BFD: Tensor) -> Tensor:
    """Return the sum over pairs of fields of their products, ``(B, D)``.

    It is the second-order part of a factorization machine (Rendle 2010) before the sum over D.
    """
    return 0.5 * (x_BFD.sum(1).square() - x_BFD.square().sum(1))


def pairwise_interactions(x_BFD: Tensor) -> Tensor:
    """Return the dot products of all pairs of different fields.

    Their shape is ``(B, F (F - 1) / 2)``.
    """
    rows, columns = torch.triu_indices(x_BFD.shape[1], x_BFD.shape[1], 1, device=x_BFD.device)
    return torch.bmm(x_BFD, x_BFD.transpose(1, 2))[:, rows, columns]
