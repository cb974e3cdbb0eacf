"""The residual blocks of xLSTM (arXiv:2405.04517, section 2.4 and appendix figures 10 and 11).

Shapes: B sequences, L positions, D width, E inner width, H heads, P width of a head, K kernel of the convolution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.attention import at
from segue.nn.layers.causal_convolution import CausalConvolution, continued
from segue.nn.layers.dropout import dropout
from segue.nn.xlstm import mlstm, onnx_ops, slstm
from segue.nn.xlstm.mlstm_inputs import mixing
from segue.nn.xlstm.mlstm_output import gated
from segue.nn.xlstm.triton_kernels import OPEN, OWN, SHUT, Kernels

if TYPE_CHECKING:
    from segue.nn.streaming_model import Memory

__all__ = ["MLSTMBlock", "SLSTMBlock"]

PARALLEL_LENGTH = 512
"""Up to this length ``auto`` takes the parallel form, which is then the faster one on a CPU."""


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
        kernels: Kernels = OWN,
    ) -> None:
        super().__init__()
        self.kernels = kernels
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
        normed_BLD = self.norm(x_BLD)
        (q, k, v, gates), skipped = self._mixed(self._wide(normed_BLD))
        i, f = self._capped(gates)
        if last_B is None:
            return self._out(x_BLD, normed_BLD, self._cell(q, k, v, i, f), skipped)
        h_BHP = mlstm.final(at(q.transpose(1, 2), last_B), k, v, i, f, last_B)
        skipped = tuple(at(part, last_B) for part in skipped)
        return self._out(at(x_BLD, last_B), at(normed_BLD, last_B), h_BHP.unbind(1), skipped)

    def empty(self, rows: int) -> Memory:
        """The memory before the first position: inputs of the convolution, and ``C``, ``n``, ``m`` of the cell."""
        C, n, m = mlstm.empty(rows, self.heads, len(self.skip) // self.heads, self.skip)
        return {"inputs": self.convolution.empty(rows), "C": C, "n": n, "m": m}

    def advance(self, x_BLD: Tensor, lengths_B: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """``(B, L, D)`` from ``memory`` on, and the memory after each row's own length, at least 1."""
        normed_BLD = self.norm(x_BLD)
        whole_BTE, inputs = continued(self._wide(normed_BLD).permute(1, 2, 0), lengths_B, memory["inputs"])
        # the past comes along for the convolution's sake and is cut off after it
        (q, k, v, gates), skipped = self._mixed(whole_BTE.permute(2, 0, 1).contiguous())
        past = inputs.shape[1]
        q, k, v, gates = (y[:, :, past:] for y in (q, k, v, gates))
        i, f = self._capped(gates)
        before = memory["C"], memory["n"], memory["m"]
        if x_BLD.shape[1] == 1:
            q, k, v, i, f = (y[:, :, 0] for y in (q, k, v, i, f))
            heads, (C, n, m) = self.kernels.once(q, k, v, i, f, before) or mlstm.step_heads(q, k, v, i, f, before)
            heads = tuple(h_BP[:, None] for h_BP in heads)
        else:
            # beyond a row's length nothing is added and nothing forgotten
            after = torch.arange(x_BLD.shape[1], device=x_BLD.device) >= lengths_B[:, None, None]
            i, f = i.masked_fill(after, SHUT), f.masked_fill(after, OPEN)
            heads, (C, n, m) = self.kernels.onwards(q, k, v, i, f, before) or mlstm.chunkwise_heads(
                q, k, v, i, f, self.chunk, before
            )
        skipped = tuple(part[:, past:] for part in skipped)
        return self._out(x_BLD, normed_BLD, heads, skipped), {"inputs": inputs, "C": C, "n": n, "m": m}

    def _wide(self, normed_BLD: Tensor) -> Tensor:
        """``(E, B, L)`` the half of the up-projection that is mixed."""
        wide_ET = self.up.weight[: len(self.skip)] @ normed_BLD.flatten(0, 1).T
        return wide_ET.view(-1, *normed_BLD.shape[:2])

    def _mixed(self, wide_EBL: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        conv, skip_HP = self.convolution, self.skip.view(self.heads, -1)
        gates = self.gates.weight, self.gates.bias
        mix = onnx_ops.mixing if torch.compiler.is_exporting() else mixing
        return mix(wide_EBL, conv.weight[:, 0], conv.bias, self.query_key, self.value, *gates, skip_HP)

    def _capped(self, gates_BGL: Tensor) -> tuple[Tensor, ...]:
        """Pre-activations ``(B, H, L)`` of input and forget gates."""
        return (mlstm.soft_cap(gates_BGL, self.soft_cap) if self.soft_cap else gates_BGL).chunk(2, 1)

    def _cell(self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, ...]:
        """Outputs ``(B, L, P)`` by head."""
        if torch.compiler.is_exporting():
            return onnx_ops.parallel_heads(q, k, v, i, f)
        if self.form != "parallel" and (heads := self.kernels.heads(q, k, v, i, f)) is not None:
            return heads
        if self.form == "parallel" or (self.form == "auto" and q.shape[2] <= PARALLEL_LENGTH):
            return mlstm.parallel_heads(q, k, v, i, f)
        return mlstm.chunkwise_heads(q, k, v, i, f, self.chunk)[0]

    def _out(self, x: Tensor, normed: Tensor, heads: tuple[Tensor, ...], skipped: tuple[Tensor, ...]) -> Tensor:
        """The residual stream ``(..., D)`` with the cell's outputs ``(..., P)``, through the output gate."""
        gate = F.linear(normed, self.up.weight[len(self.skip) :]).unflatten(-1, (self.heads, -1))
        norm = onnx_ops.gated if torch.compiler.is_exporting() else gated
        y = norm(gate, self.head_norm.weight.view(self.heads, -1), *heads, *skipped)
        return x + dropout(self.down(y.flatten(-2)), self.dropout, self.training)


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
        raw_LHBG = self._raw(normed_BLD, F.silu(self.convolution(normed_BLD)))
        if torch.compiler.is_exporting():
            y_LHBP = onnx_ops.sequence(raw_LHBG, self.recurrent)
        else:
            y_LHBP, _ = slstm.sequence(raw_LHBG, self.recurrent)
        y_BLHP = y_LHBP.permute(2, 0, 1, 3)
        if last_B is not None:
            x_BLD, y_BLHP = at(x_BLD, last_B), at(y_BLHP, last_B)
        return self._out(x_BLD, y_BLHP)

    def empty(self, rows: int) -> Memory:
        """The memory before the first position: inputs of the convolution, and ``y, c, n, m`` of the cell."""
        cell = slstm.empty(self.heads, rows, self.recurrent.shape[1], self.recurrent)
        named = {name: part.transpose(0, 1) for name, part in zip("ycnm", cell, strict=True)}
        return {"inputs": self.convolution.empty(rows), **named}

    def advance(self, x_BLD: Tensor, lengths_B: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """``(B, L, D)`` from ``memory`` on, and the memory after each row's own length, at least 1."""
        normed_BLD = self.norm(x_BLD)
        whole_BTD, inputs = continued(normed_BLD, lengths_B, memory["inputs"])
        mixed_BLD = self.convolution(whole_BTD)[:, inputs.shape[1] :]
        raw_LHBG = self._raw(normed_BLD, F.silu(mixed_BLD))
        y, c, n, m = (memory[name].transpose(0, 1) for name in "ycnm")
        # beyond a row's length nothing is added and nothing forgotten; the output goes on, and is read where it ended
        after = torch.arange(len(raw_LHBG), device=x_BLD.device)[:, None, None, None] >= lengths_B[:, None]
        i, f, rest = raw_LHBG.split((y.shape[-1], y.shape[-1], 2 * y.shape[-1]), -1)
        raw_LHBG = torch.cat([i.masked_fill(after, -math.inf), f.masked_fill(after, math.inf), rest], -1)
        y_LHBP, (_, c, n, m) = slstm.sequence(raw_LHBG, self.recurrent, (y, c, n, m))
        y_BLHP = y_LHBP.permute(2, 0, 1, 3)
        cell = at(y_BLHP, lengths_B - 1), *(part.transpose(0, 1) for part in (c, n, m))
        return self._out(x_BLD, y_BLHP), {"inputs": inputs, **dict(zip("ycnm", cell, strict=True))}

    def _raw(self, normed_BLD: Tensor, mixed_BLD: Tensor) -> Tensor:
        """``(L, H, B, 4 P)`` pre-activations without what comes back from the last output."""
        parts = self._gates(mixed_BLD, self.input_forget), self._gates(normed_BLD, self.input_output)
        return torch.cat(parts, -1) + self.bias

    def _out(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual stream ``(..., D)`` with the cell's output ``(..., H, P)``, and the network after it."""
        x = x + self.head_norm(dropout(y, self.dropout, self.training))
        gate, up = self.up(self.norm_feed(x)).chunk(2, -1)
        return x + dropout(self.down(F.gelu(gate) * up), self.dropout, self.training)

    def _gates(self, x_BLD: Tensor, weight_HPG: Tensor) -> Tensor:
        x_HTP = x_BLD.unflatten(-1, (self.heads, -1)).permute(2, 1, 0, 3)
        return torch.matmul(x_HTP, weight_HPG[:, None]).transpose(0, 1)
