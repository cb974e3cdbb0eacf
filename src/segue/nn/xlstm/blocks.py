"""Residual blocks of xLSTM.

arXiv:2405.04517, section 2.4 and appendix figures 10 and 11.

Shapes: B sequences, L positions, D width, E inner width, H heads, P width of a head, K kernel size of the convolution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.attention import gather_positions
from segue.nn.layers.dropout import dropout
from segue.nn.xlstm import mlstm, onnx_ops, slstm
from segue.nn.xlstm.mlstm_inputs import project_inputs
from segue.nn.xlstm.mlstm_output import gated_head_norm
from segue.nn.xlstm.triton_kernels import CLOSED_GATE, NATIVE, OPEN_GATE, Kernels

if TYPE_CHECKING:
    from segue.nn.streaming_model import RecurrentState

__all__ = ["MLSTMBlock", "SLSTMBlock"]

PARALLEL_LENGTH = 512
"""Maximum length for which ``auto`` uses the parallel form, which is then faster on a CPU."""


class HeadNorm(nn.Module):
    """Layer norm within each head, then one weight per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(..., H, P)`` to ``(..., H * P)``."""
        return F.layer_norm(h, h.shape[-1:]).flatten(-2) * self.weight


class CausalConvolution(nn.Module):
    """Depthwise causal convolution.

    Each channel combines its own ``kernel_size`` newest positions.
    """

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        bound = kernel_size**-0.5
        self.weight = nn.Parameter(torch.empty(width, 1, kernel_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x_BLE: Tensor) -> Tensor:
        """Return ``(B, L, E)``, each position computed from itself and earlier ones."""
        padded = F.pad(x_BLE.mT, (self.weight.shape[-1] - 1, 0))
        mixed: Tensor = F.conv1d(padded, self.weight, self.bias, groups=x_BLE.shape[-1]).mT
        return mixed

    def initial_state(self, rows: int) -> Tensor:
        """Return the inputs before the first position: zeros ``(B, K - 1, E)``."""
        return self.weight.new_zeros(rows, self.weight.shape[-1] - 1, len(self.weight))


def append_inputs(x_BLE: Tensor, lengths_B: Tensor, past_BKE: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` preceded by the K - 1 past inputs, and the newest K - 1 inputs.

    The newest inputs are those at each row's own length.
    """
    extended_BTE = torch.cat([past_BKE, x_BLE], 1)
    newest_BK = lengths_B[:, None] + torch.arange(past_BKE.shape[1], device=lengths_B.device)
    return extended_BTE, extended_BTE.gather(1, newest_BK[..., None].expand(-1, -1, x_BLE.shape[-1]))


def _block_diagonal(count: int, width: int, out: int, scale: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width, out).mul_(scale))


def _round_up(width: float, multiple: int) -> int:
    return math.ceil(width / multiple) * multiple


class MLSTMBlock(nn.Module):
    """Pre up-projection block with an mLSTM cell.

    It consists of up-projection, convolution, mLSTM cell, output gate and down-projection.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_blocks: int,
        kernel_size: int,
        qkv_block_size: int,
        proj_factor: float,
        soft_cap: float,
        dropout: float,
        form: Literal["auto", "parallel", "chunkwise"],
        chunk_size: int,
        kernels: Kernels = NATIVE,
    ) -> None:
        super().__init__()
        self.kernels = kernels
        inner = _round_up(width * proj_factor, math.lcm(num_heads, qkv_block_size))
        small = math.sqrt(2 / (5 * width))
        self.num_heads, self.soft_cap, self.dropout = num_heads, soft_cap, dropout
        self.form, self.chunk_size = form, chunk_size
        self.norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = CausalConvolution(inner, kernel_size)
        self.query_key = _block_diagonal(inner // qkv_block_size, qkv_block_size, 2 * qkv_block_size, small)
        self.value = _block_diagonal(inner // qkv_block_size, qkv_block_size, qkv_block_size, small)
        self.gates = nn.Linear(3 * inner, 2 * num_heads)
        self.head_norm = HeadNorm(inner)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, width, bias=False)
        nn.init.normal_(self.up.weight, std=small)
        nn.init.normal_(self.down.weight, std=2 / num_blocks / math.sqrt(width))
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[:num_heads].normal_(std=0.1)
            self.gates.bias[num_heads:] = torch.linspace(3.0, 6.0, num_heads)

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(B, D)`` for the positions ``last_B`` only."""
        normed_BLD = self.norm(x_BLD)
        (q, k, v, gates), skipped = self._qkv(self._up_proj(normed_BLD))
        i, f = self._soft_capped_gates(gates)
        if last_B is None:
            return self._down_proj(x_BLD, normed_BLD, self._cell(q, k, v, i, f), skipped)
        h_BHP = mlstm.final_output(gather_positions(q.transpose(1, 2), last_B), k, v, i, f, last_B)
        skipped = tuple(gather_positions(part, last_B) for part in skipped)
        return self._down_proj(
            gather_positions(x_BLD, last_B), gather_positions(normed_BLD, last_B), h_BHP.unbind(1), skipped
        )

    def initial_state(self, rows: int) -> RecurrentState:
        """Return the initial state.

        It consists of the inputs of the convolution, and ``C``, ``n``, ``m`` of the cell.
        """
        C, n, m = mlstm.initial_state(rows, self.num_heads, len(self.skip) // self.num_heads, self.skip)
        return {"inputs": self.convolution.initial_state(rows), "C": C, "n": n, "m": m}

    def advance(
        self, x_BLD: Tensor, lengths_B: Tensor, recurrent_state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """Continue from a recurrent state.

        Return ``(B, L, D)``, and the state after each row's own length, which is at least 1.
        """
        normed_BLD = self.norm(x_BLD)
        extended_BTE, inputs = append_inputs(
            self._up_proj(normed_BLD).permute(1, 2, 0), lengths_B, recurrent_state["inputs"]
        )
        # past inputs are needed by the convolution only and are cut off after it
        (q, k, v, gates), skipped = self._qkv(extended_BTE.permute(2, 0, 1).contiguous())
        n_past = inputs.shape[1]
        q, k, v, gates = (y[:, :, n_past:] for y in (q, k, v, gates))
        i, f = self._soft_capped_gates(gates)
        before = recurrent_state["C"], recurrent_state["n"], recurrent_state["m"]
        if x_BLD.shape[1] == 1:
            q, k, v, i, f = (y[:, :, 0] for y in (q, k, v, i, f))
            heads, (C, n, m) = self.kernels.run_step(q, k, v, i, f, before) or mlstm.step_heads(q, k, v, i, f, before)
            heads = tuple(h_BP[:, None] for h_BP in heads)
        else:
            # beyond a row's length nothing is added and nothing is forgotten
            is_after = torch.arange(x_BLD.shape[1], device=x_BLD.device) >= lengths_B[:, None, None]
            i, f = i.masked_fill(is_after, CLOSED_GATE), f.masked_fill(is_after, OPEN_GATE)
            heads, (C, n, m) = self.kernels.run_sequence(q, k, v, i, f, before) or mlstm.chunkwise_heads(
                q, k, v, i, f, self.chunk_size, before
            )
        skipped = tuple(part[:, n_past:] for part in skipped)
        return self._down_proj(x_BLD, normed_BLD, heads, skipped), {"inputs": inputs, "C": C, "n": n, "m": m}

    def log_gates(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of input and forget gates, each ``(B, L, H)``."""
        (*_, gates), _ = self._qkv(self._up_proj(self.norm(x_BLD)))
        i_BHL, f_BHL = self._soft_capped_gates(gates)
        return i_BHL.mT, F.logsigmoid(f_BHL).mT

    def _up_proj(self, normed_BLD: Tensor) -> Tensor:
        """Return the half of the up-projection that enters the cell, ``(E, B, L)``."""
        projected_ET = self.up.weight[: len(self.skip)] @ normed_BLD.flatten(0, 1).T
        return projected_ET.view(-1, *normed_BLD.shape[:2])

    def _qkv(self, projected_EBL: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        conv, skip_HP = self.convolution, self.skip.view(self.num_heads, -1)
        gates = self.gates.weight, self.gates.bias
        project = onnx_ops.project_inputs if torch.compiler.is_exporting() else project_inputs
        return project(projected_EBL, conv.weight[:, 0], conv.bias, self.query_key, self.value, *gates, skip_HP)

    def _soft_capped_gates(self, gates_BGL: Tensor) -> tuple[Tensor, ...]:
        """Return the pre-activations of input and forget gates, each ``(B, H, L)``."""
        return (mlstm.soft_cap(gates_BGL, self.soft_cap) if self.soft_cap else gates_BGL).chunk(2, 1)

    def _cell(self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of each head, ``(B, L, P)``."""
        if torch.compiler.is_exporting():
            return onnx_ops.parallel_heads(q, k, v, i, f)
        if self.form != "parallel" and (heads := self.kernels.run_chunkwise(q, k, v, i, f)) is not None:
            return heads
        if self.form == "parallel" or (self.form == "auto" and q.shape[2] <= PARALLEL_LENGTH):
            return mlstm.parallel_heads(q, k, v, i, f)
        return mlstm.chunkwise_heads(q, k, v, i, f, self.chunk_size)[0]

    def _down_proj(self, x: Tensor, normed: Tensor, heads: tuple[Tensor, ...], skipped: tuple[Tensor, ...]) -> Tensor:
        """Add the cell's outputs ``(..., P)`` to the residual stream ``(..., D)``.

        The outputs first pass the norm, the gate and the projection.
        """
        gate = F.linear(normed, self.up.weight[len(self.skip) :]).unflatten(-1, (self.num_heads, -1))
        norm = onnx_ops.gated_head_norm if torch.compiler.is_exporting() else gated_head_norm
        y = norm(gate, self.head_norm.weight.view(self.num_heads, -1), *heads, *skipped)
        return x + dropout(self.down(y.flatten(-2)), self.dropout, self.training)


class SLSTMBlock(nn.Module):
    """Post up-projection block: sLSTM cell, then a gated feed-forward network."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_blocks: int,
        index: int,
        kernel_size: int,
        ffn_proj_factor: float,
        dropout: float,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"embedding_dim {width} is not divisible by {num_heads} heads")
        head_dim = width // num_heads
        small = math.sqrt(2 / (5 * width))
        self.num_heads, self.dropout = num_heads, dropout
        self.norm = nn.LayerNorm(width, bias=False)
        self.convolution = CausalConvolution(width, kernel_size)
        self.input_forget = _block_diagonal(num_heads, head_dim, 2 * head_dim, small)
        self.input_output = _block_diagonal(num_heads, head_dim, 2 * head_dim, small)
        self.recurrent = nn.Parameter(torch.zeros(num_heads, head_dim, 4 * head_dim))
        self.bias = nn.Parameter(torch.zeros(num_heads, 1, 4 * head_dim))
        with torch.no_grad():
            # forget gates from 5 (long memory) down to -7, with more short memories in later blocks
            rate = 0.3 + 1.3 * index / max(num_blocks - 1, 1)
            self.bias[:, :, head_dim : 2 * head_dim] = torch.linspace(0, 1, head_dim).pow_(rate).mul_(-12.0).add_(5.0)
        self.head_norm = HeadNorm(width)
        inner = _round_up(width * ffn_proj_factor, 64)
        self.norm_feed = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        nn.init.normal_(self.up.weight, std=small)
        nn.init.normal_(self.down.weight, std=2 / num_blocks / math.sqrt(width))

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(B, D)`` for the positions ``last_B`` only."""
        normed_BLD = self.norm(x_BLD)
        raw_LHBG = self._pre_activations(normed_BLD, F.silu(self.convolution(normed_BLD)))
        if torch.compiler.is_exporting():
            y_LHBP = onnx_ops.sequence(raw_LHBG, self.recurrent)
        else:
            y_LHBP, _ = slstm.sequence(raw_LHBG, self.recurrent)
        y_BLHP = y_LHBP.permute(2, 0, 1, 3)
        if last_B is not None:
            x_BLD, y_BLHP = gather_positions(x_BLD, last_B), gather_positions(y_BLHP, last_B)
        return self._down_proj(x_BLD, y_BLHP)

    def initial_state(self, rows: int) -> RecurrentState:
        """Return the initial state.

        It consists of the inputs of the convolution, and ``y``, ``c``, ``n``, ``m`` of the cell.
        """
        cell = slstm.initial_state(self.num_heads, rows, self.recurrent.shape[1], self.recurrent)
        named = {name: part.transpose(0, 1) for name, part in zip("ycnm", cell, strict=True)}
        return {"inputs": self.convolution.initial_state(rows), **named}

    def advance(
        self, x_BLD: Tensor, lengths_B: Tensor, recurrent_state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """Continue from a recurrent state.

        Return ``(B, L, D)``, and the state after each row's own length, which is at least 1.
        """
        normed_BLD = self.norm(x_BLD)
        extended_BTD, inputs = append_inputs(normed_BLD, lengths_B, recurrent_state["inputs"])
        mixed_BLD = self.convolution(extended_BTD)[:, inputs.shape[1] :]
        raw_LHBG = self._pre_activations(normed_BLD, F.silu(mixed_BLD))
        y, c, n, m = (recurrent_state[name].transpose(0, 1) for name in "ycnm")
        # beyond a row's length nothing is added or forgotten; the output changes, and is read at the row's length
        is_after = torch.arange(len(raw_LHBG), device=x_BLD.device)[:, None, None, None] >= lengths_B[:, None]
        i, f, rest = raw_LHBG.split((y.shape[-1], y.shape[-1], 2 * y.shape[-1]), -1)
        raw_LHBG = torch.cat([i.masked_fill(is_after, -math.inf), f.masked_fill(is_after, math.inf), rest], -1)
        y_LHBP, (_, c, n, m) = slstm.sequence(raw_LHBG, self.recurrent, (y, c, n, m))
        y_BLHP = y_LHBP.permute(2, 0, 1, 3)
        cell = gather_positions(y_BLHP, lengths_B - 1), *(part.transpose(0, 1) for part in (c, n, m))
        return self._down_proj(x_BLD, y_BLHP), {"inputs": inputs, **dict(zip("ycnm", cell, strict=True))}

    def log_gates(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of input and forget gates, each ``(B, L, D)``."""
        normed_BLD = self.norm(x_BLD)
        raw_LHBG = self._pre_activations(normed_BLD, F.silu(self.convolution(normed_BLD)))
        y_LHBP, _ = slstm.sequence(raw_LHBG, self.recurrent)
        before_LHBP = torch.cat([torch.zeros_like(y_LHBP[:1]), y_LHBP[:-1]])
        i_LHBP, f_LHBP, _, _ = (raw_LHBG + before_LHBP @ self.recurrent).chunk(4, -1)
        i_BLD, logf_BLD = (part.permute(2, 0, 1, 3).flatten(2) for part in (i_LHBP, F.logsigmoid(f_LHBP)))
        return i_BLD, logf_BLD

    def _pre_activations(self, normed_BLD: Tensor, mixed_BLD: Tensor) -> Tensor:
        """Return pre-activations without the recurrent part, ``(L, H, B, 4 P)``."""
        parts = self._gates(mixed_BLD, self.input_forget), self._gates(normed_BLD, self.input_output)
        return torch.cat(parts, -1) + self.bias

    def _down_proj(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the cell's output ``(..., H, P)`` to the residual stream ``(..., D)``.

        Then apply the feed-forward network.
        """
        x = x + self.head_norm(dropout(y, self.dropout, self.training))
        gate, up = self.up(self.norm_feed(x)).chunk(2, -1)
        return x + dropout(self.down(F.gelu(gate) * up), self.dropout, self.training)

    def _gates(self, x_BLD: Tensor, weight_HPG: Tensor) -> Tensor:
        x_HTP = x_BLD.unflatten(-1, (self.num_heads, -1)).permute(2, 1, 0, 3)
        return torch.matmul(x_HTP, weight_HPG[:, None]).transpose(0, 1)
