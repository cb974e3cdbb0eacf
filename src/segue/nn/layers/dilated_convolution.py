"""Residual blocks of dilated causal convolutions over right-padded sequences.

Shapes: B sequences, L positions, D width, K kernel size, P positions needed, Q positions computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.dropout import dropout

__all__ = ["DilatedConvolution", "DilatedStack"]


class DilatedConvolution(nn.Module):
    """A causal convolution with zero padding, then layer norm and ReLU.

    On a CPU ``conv1d`` beats shifted copies and one matrix product: 20 against 26 ms forward and 32 against 41 ms
    backward for a block of 128 x 200 positions of width 64. Where few positions are needed, :meth:`at_positions`
    gathers them.
    """

    def __init__(self, width: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.taps = nn.Conv1d(width, width, kernel_size, dilation=dilation)
        self.norm = nn.LayerNorm(width)
        self.lags = [tap * dilation for tap in reversed(range(kernel_size))]
        """How many positions back each tap reads."""

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return the output at every position, ``(B, L, D)``."""
        mixed: Tensor = self.taps(F.pad(x_BLD.mT, (self.lags[0], 0)))
        return F.relu(self.norm(mixed.mT))

    def at_positions(self, x_BPD: Tensor, index_QK: Tensor) -> Tensor:
        """Return the output at some positions, ``(B, Q, D)``.

        ``index_QK`` are the positions of ``x`` that the taps read.
        """
        weights = self.taps.weight.transpose(1, 2).flatten(1)
        return F.relu(self.norm(F.linear(x_BPD[:, index_QK].flatten(2), weights, self.taps.bias)))


class DilatedStack(nn.Module):
    """A stack of residual blocks of two convolutions.

    Args:
        dilations: those of all convolutions, two per block.
    """

    def __init__(self, width: int, kernel_size: int, dilations: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(DilatedConvolution(width, kernel_size, dilation) for dilation in dilations)
        self.dropout = dropout
        self.receptive_field = 1 + sum((kernel_size - 1) * dilation for dilation in dilations)
        """Number of positions that an output depends on, including its own."""
        self.needed = _needed_lags([convolution.lags for convolution in self._convolutions()])

    def _convolutions(self) -> list[DilatedConvolution]:
        return [module for module in self.convolutions if isinstance(module, DilatedConvolution)]

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(B, D)`` for the positions ``last_B`` only.

        With ``last_B``, only what these positions depend on is computed.
        """
        if last_B is not None:
            return self._at_last(x_BLD, last_B)
        convolutions = self._convolutions()
        for first, second in zip(convolutions[::2], convolutions[1::2], strict=True):
            x_BLD = x_BLD + dropout(second(first(x_BLD)), self.dropout, self.training)
        return x_BLD

    def _at_last(self, x_BLD: Tensor, last_B: Tensor) -> Tensor:
        lags_P = torch.tensor(self.needed[0], device=x_BLD.device)
        at_BP = last_B[:, None] - lags_P
        x_BPD = x_BLD.gather(1, at_BP.clamp_min(0)[..., None].expand(-1, -1, x_BLD.shape[-1]))
        exists_BP1 = (at_BP >= 0)[..., None]
        x_BPD = x_BPD * exists_BP1
        residual = x_BPD
        for number, convolution in enumerate(self._convolutions()):
            available, wanted = self.needed[number], self.needed[number + 1]
            column = {lag: index for index, lag in enumerate(available)}
            index_QK = torch.tensor([[column[lag + tap] for tap in convolution.lags] for lag in wanted])
            own_Q = index_QK[:, -1].to(x_BLD.device)  # the last tap is the position itself
            exists_BP1, residual = exists_BP1[:, own_Q], residual[:, own_Q]
            x_BPD = convolution.at_positions(x_BPD, index_QK.to(x_BLD.device))
            if number % 2:
                x_BPD = residual = residual + dropout(x_BPD, self.dropout, self.training)
            x_BPD = x_BPD * exists_BP1
        return x_BPD[:, 0]


def _needed_lags(lags: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the lags at which each convolution's input is needed, by convolution.

    The last element holds the lags of the output: ``[0]``.
    """
    needed = [[0]]
    for of_convolution in reversed(lags):
        needed.insert(0, sorted({lag + tap for lag in needed[0] for tap in of_convolution}))
    return needed
