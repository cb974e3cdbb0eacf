"""The residual blocks of xLSTM (arXiv:2405.04517, section 2.4 and appendix figures 10 and 11).

Shapes: B sequences, L positions, D width, E inner width, H heads, P width of a head, K kernel of the convolution.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.models.parts import mlstm, slstm
from segue.models.parts.attention import at
from segue.models.parts.dropout import dropout

__all__ = ["MLSTMBlock", "SLSTMBlock"]

PARALLEL_LENGTH = 256
"""Up to this length ``auto`` takes the parallel form."""


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


class HeadNorm(nn.Module):
    """Layer norm within each head, then a weight for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        """``(..., H, P)`` to ``(..., H * P)``."""
        return F.layer_norm(h, h.shape[-1:]).flatten(-2) * self.weight


def _blocks(count: int, width: int, out: int, scale: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width, out) * scale)


def _round_up(width: float, multiple: int) -> int:
    return math.ceil(width / multiple) * multiple


class MLSTMBlock(nn.Module):
    """Pre up-projection: wide, mixed by a short convolution and the mLSTM cell, gated, narrow again."""

    def __init__(
        self,
        width: int,
        heads: int,
        blocks: int,
        kernel: int,
        qkv_block: int,
        proj_factor: float,
        soft_cap: float,
        dropout: float,
        form: Literal["auto", "parallel", "chunkwise"],
        chunk: int,
    ) -> None:
        super().__init__()
        inner = _round_up(width * proj_factor, math.lcm(heads, qkv_block))
        small = math.sqrt(2 / (5 * width))
        self.heads, self.soft_cap, self.dropout, self.form, self.chunk = heads, soft_cap, dropout, form, chunk
        self.norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = CausalConvolution(inner, kernel)
        self.query_key = _blocks(inner // qkv_block, qkv_block, 2 * qkv_block, small)
        self.value = _blocks(inner // qkv_block, qkv_block, qkv_block, small)
        self.gates = nn.Linear(3 * inner, 2 * heads)
        self.head_norm = HeadNorm(inner)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, width, bias=False)
        nn.init.normal_(self.up.weight, std=small)
        nn.init.normal_(self.down.weight, std=2 / blocks / math.sqrt(width))
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[:heads].normal_(std=0.1)
            self.gates.bias[heads:] = torch.linspace(3.0, 6.0, heads)

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """``(B, L, D)``, or ``(B, D)`` for the positions ``last`` alone."""
        wide_BLE, gate_BLE = self.up(self.norm(x_BLD)).chunk(2, -1)
        mixed_BLE = F.silu(self.convolution(wide_BLE))
        query, key = self._blockwise(mixed_BLE, self.query_key).chunk(2, -1)
        query, key, value = query.flatten(-2), key.flatten(-2), self._blockwise(wide_BLE, self.value).flatten(-2)
        gates_BHL = self.gates(torch.cat([query, key, value], -1)).mT
        if self.soft_cap:
            gates_BHL = mlstm.soft_cap(gates_BHL, self.soft_cap)
        i_BHL, f_BHL = gates_BHL.chunk(2, 1)
        k_BHLP, v_BHLP = self._split(key), self._split(value)
        if last_B is None:
            h_BLHP = self._cell(self._split(query), k_BHLP, v_BHLP, i_BHL, f_BHL).transpose(1, 2)
        else:
            q_BHP = at(query, last_B).unflatten(-1, (self.heads, -1))
            h_BLHP = mlstm.final(q_BHP, k_BHLP, v_BHLP, i_BHL, f_BHL, last_B)
            x_BLD, mixed_BLE, gate_BLE = at(x_BLD, last_B), at(mixed_BLE, last_B), at(gate_BLE, last_B)
        out = self.down((self.head_norm(h_BLHP) + self.skip * mixed_BLE) * F.silu(gate_BLE))
        return x_BLD + dropout(out, self.dropout, self.training)

    def _cell(self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
        if self.form == "parallel" or (self.form == "auto" and q.shape[2] <= PARALLEL_LENGTH):
            return mlstm.parallel(q, k, v, i, f)
        return mlstm.chunkwise(q, k, v, i, f, self.chunk)[0]

    def _split(self, x_BLE: Tensor) -> Tensor:
        split: Tensor = x_BLE.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split

    @staticmethod
    def _blockwise(x_BLE: Tensor, weight: Tensor) -> Tensor:
        """Small blocks of channels, each through a matrix of its own: ``(B, L, blocks, out)``."""
        out: Tensor = torch.einsum("blni,nio->blno", x_BLE.unflatten(-1, weight.shape[:2]), weight)
        return out


class SLSTMBlock(nn.Module):
    """Post up-projection: the sLSTM cell, then a gated position-wise network."""

    def __init__(
        self, width: int, heads: int, blocks: int, index: int, kernel: int, feed_factor: float, dropout: float
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared evenly by {heads} heads")
        part = width // heads
        small = math.sqrt(2 / (5 * width))
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width, bias=False)
        self.convolution = CausalConvolution(width, kernel)
        self.input_forget = _blocks(heads, part, 2 * part, small)
        self.input_output = _blocks(heads, part, 2 * part, small)
        self.recurrent = nn.Parameter(torch.zeros(heads, part, 4 * part))
        self.bias = nn.Parameter(torch.zeros(heads, 1, 4 * part))
        with torch.no_grad():
            # forget gates from 5 (remembers long) down to -7, more of them short in later blocks
            rate = 0.3 + 1.3 * index / max(blocks - 1, 1)
            self.bias[:, :, part : 2 * part] = 5.0 - 12.0 * torch.linspace(0, 1, part) ** rate
        self.head_norm = HeadNorm(width)
        inner = _round_up(width * feed_factor, 64)
        self.norm_feed = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        nn.init.normal_(self.up.weight, std=small)
        nn.init.normal_(self.down.weight, std=2 / blocks / math.sqrt(width))

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """``(B, L, D)``, or ``(B, D)`` for the positions ``last`` alone."""
        normed_BLD = self.norm(x_BLD)
        mixed_BLD = F.silu(self.convolution(normed_BLD))
        raw_LHBG = torch.cat(
            [self._gates(mixed_BLD, self.input_forget), self._gates(normed_BLD, self.input_output)], -1
        )
        y_LHBP, _ = slstm.sequence(raw_LHBG + self.bias, self.recurrent)
        y_BLHP = y_LHBP.permute(2, 0, 1, 3)
        if last_B is not None:
            x_BLD, y_BLHP = at(x_BLD, last_B), at(y_BLHP, last_B)
        x_BLD = x_BLD + self.head_norm(dropout(y_BLHP, self.dropout, self.training))
        gate, up = self.up(self.norm_feed(x_BLD)).chunk(2, -1)
        return x_BLD + dropout(self.down(F.gelu(gate) * up), self.dropout, self.training)

    def _gates(self, x_BLD: Tensor, weight_HPG: Tensor) -> Tensor:
        x_HTP = x_BLD.unflatten(-1, (self.heads, -1)).permute(2, 1, 0, 3)
        return torch.matmul(x_HTP, weight_HPG[:, None]).transpose(0, 1)
