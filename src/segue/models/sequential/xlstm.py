"""xLSTM: extended long short-term memory over the history (Beck et al. 2024, arXiv:2405.04517).

A stack of residual blocks; ``slstm_at`` says which of them are sLSTM (scalar memory, recurrent mixing), the others
are mLSTM (matrix memory, parallel in training). Written from the paper; ``make crosscheck`` compares the cells with the
authors' package.

With ``objective=cloze`` the blocks read in turn from the end and from the beginning, as in Vision-LSTM (Alkin et al.
2024, arXiv:2406.04303); the last one from the beginning, as what is asked in the end stands at the end.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import SequenceSettings
from segue.nn.streaming_model import Memory, StreamingModel
from segue.nn.xlstm.blocks import MLSTMBlock, SLSTMBlock
from segue.nn.xlstm.triton_kernels import Kernels

__all__ = ["XLSTM"]


class XLSTM(StreamingModel):
    """Blocks of mLSTM and sLSTM; no positions are needed, the recurrence knows the order."""

    both_ways = True

    class Config(SequenceSettings):
        """Settings of xLSTM, named as in the authors' package."""

        width: Annotated[int, Gt(0)] = 128
        """Width of item vectors and of the residual stream (``embedding_dim``)."""
        blocks: Annotated[int, Gt(0)] = 2
        """Residual blocks (``num_blocks``)."""
        heads: Annotated[int, Gt(0)] = 2
        """Heads of every cell (``num_heads``); they share its width evenly."""
        slstm_at: tuple[Annotated[int, Ge(0)], ...] = (1,)
        """Which blocks, counted from 0, are sLSTM; empty: all are mLSTM."""
        conv1d_kernel_size: Annotated[int, Gt(0)] = 4
        """Positions that the short causal convolution before a cell sees."""
        qkv_proj_blocksize: Annotated[int, Gt(0)] = 4
        """Channels that share one small query, key and value matrix."""
        proj_factor: Annotated[float, Gt(0)] = 2.0
        """Inner width of an mLSTM block, as a multiple of the width."""
        feed_factor: Annotated[float, Gt(0)] = 1.3
        """Inner width of the network after an sLSTM cell, as a multiple of the width."""
        gate_soft_cap: Annotated[float, Ge(0)] = 15.0
        """Bound of the mLSTM gates' pre-activations; 0: none."""
        form: Literal["auto", "parallel", "chunkwise"] = "auto"
        """How mLSTM computes a sequence: the same function, quadratic or linear in length."""
        chunk_size: Annotated[int, Gt(0)] = 64
        """Positions of a chunk in the chunkwise form."""
        chunkwise_kernel: Literal[
            "auto",
            "native",
            "chunkwise--triton_xl_chunk",
            "chunkwise--triton_limit_chunk",
            "parallel--triton_limit_headdim",
        ] = "auto"
        """What computes mLSTM over a sequence, unless ``form`` is ``parallel``: Segue's own code (``native``), or a
        kernel of the package ``mlstm_kernels`` by its name there; ``auto`` takes the first of them where the package is
        installed and the model on a CUDA device."""
        sequence_kernel: Literal["auto", "native", "native_sequence__triton"] = "auto"
        """The same over fewer than 16 events after a state."""
        step_kernel: Literal["auto", "native", "triton"] = "auto"
        """The same for one event after a state."""

        @model_validator(mode="after")
        def _blocks_exist(self) -> XLSTM.Config:
            if any(index >= self.blocks for index in self.slstm_at):
                raise ValueError(
                    f"slstm_at: {list(self.slstm_at)} for {self.blocks} blocks, expected 0..{self.blocks - 1}"
                )
            return self

        @model_validator(mode="after")
        def _both_directions(self) -> XLSTM.Config:
            if self.objective == "cloze" and self.blocks < 2:
                raise ValueError("objective: 'cloze' needs at least 2 blocks, as they read in turn in either direction")
            return self

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.blocks = nn.ModuleList(self._block(config, index) for index in range(config.blocks))
        self.norm = nn.LayerNorm(config.width, bias=False)

    @staticmethod
    def _block(config: Config, index: int) -> nn.Module:
        width, heads, blocks, kernel = config.width, config.heads, config.blocks, config.conv1d_kernel_size
        if index in config.slstm_at:
            return SLSTMBlock(width, heads, blocks, index, kernel, config.feed_factor, config.dropout)
        return MLSTMBlock(
            width,
            heads,
            blocks,
            kernel,
            config.qkv_proj_blocksize,
            config.proj_factor,
            config.gate_soft_cap,
            config.dropout,
            config.form,
            config.chunk_size,
            Kernels(config.chunkwise_kernel, config.sequence_kernel, config.step_kernel, config.chunk_size),
        )

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`."""
        x_BLD = dropout(x_BLD * self.config.width**0.5, self.config.dropout, self.training)
        for left, block in zip(range(len(self.blocks) - 1, 0, -1), self.blocks, strict=False):
            backwards = self.cloze and left % 2 == 1
            x_BLD = turned(block(turned(x_BLD, read.lengths_B)), read.lengths_B) if backwards else block(x_BLD)
        normed: Tensor = self.norm(self.blocks[-1](x_BLD, last_B))
        return normed

    def empty(self, rows: int) -> Memory:
        """See :meth:`StreamingModel.empty`; names begin with the block's number."""
        return {f"{at}.{name}": part for at, block in self._numbered() for name, part in block.empty(rows).items()}

    def advance(self, x_BLD: Tensor, lengths_B: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See :meth:`StreamingModel.advance`."""
        x_BLD = x_BLD * self.config.width**0.5
        after: Memory = {}
        for at, block in self._numbered():
            own = {name.removeprefix(f"{at}."): part for name, part in memory.items() if name.startswith(f"{at}.")}
            x_BLD, own = block.advance(x_BLD, lengths_B, own)
            after |= {f"{at}.{name}": part for name, part in own.items()}
        normed: Tensor = self.norm(x_BLD)
        return normed, after

    def _numbered(self) -> Iterator[tuple[int, MLSTMBlock | SLSTMBlock]]:
        for at, block in enumerate(self.blocks):
            yield at, cast("MLSTMBlock | SLSTMBlock", block)


def turned(x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
    """Each sequence from its end to its beginning; what is beyond its length stays there."""
    at_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
    from_BL = torch.where(at_L < lengths_B[:, None], lengths_B[:, None] - 1 - at_L, at_L)
    return x_BLD.gather(1, from_BL[..., None].expand_as(x_BLD))
