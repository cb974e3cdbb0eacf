"""A short causal convolution over positions, each channel for itself.

Shapes: B sequences, L positions, E channels, K kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CausalConvolution", "continued"]


class CausalConvolution(nn.Module):
    """Each channel mixed with its own ``kernel`` newest positions."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        bound = kernel**-0.5
        self.weight = nn.Parameter(torch.empty(width, 1, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x_BLE: Tensor) -> Tensor:
        """``(B, L, E)``, each position from itself and those before."""
        padded = F.pad(x_BLE.mT, (self.weight.shape[-1] - 1, 0))
        mixed: Tensor = F.conv1d(padded, self.weight, self.bias, groups=x_BLE.shape[-1]).mT
        return mixed

    def empty(self, rows: int) -> Tensor:
        """``(B, K - 1, E)`` what stands before the first position: zeros."""
        return self.weight.new_zeros(rows, self.weight.shape[-1] - 1, len(self.weight))


def continued(x_BLE: Tensor, lengths_B: Tensor, past_BKE: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` after the K - 1 inputs of the ``past``, and the newest inputs at each row's own length."""
    whole_BTE = torch.cat([past_BKE, x_BLE], 1)
    newest_BK = lengths_B[:, None] + torch.arange(past_BKE.shape[1], device=lengths_B.device)
    return whole_BTE, whole_BTE.gather(1, newest_BK[..., None].expand(-1, -1, x_BLE.shape[-1]))
