"""One stack of blocks, forward and backward on random input: positions per second.

The package's mLSTM cell is given the native kernel of ``mlstm_kernels`` with the chunk that divides the length, or
the parallel one for short sequences, as its authors recommend on a CPU; its sLSTM runs the ``vanilla`` backend.
"""

from __future__ import annotations

import time

import torch
from measure import Job, memory
from torch import nn

WIDTH_OF_A_CHUNK = 50


def segue_stack(ask: dict) -> nn.Module:
    from segue.nn.xlstm.blocks import MLSTMBlock, SLSTMBlock

    width, heads, blocks, dropout = ask["width"], ask["heads"], ask["blocks"], ask["dropout"]
    kinds = ["mlstm"] * blocks if ask["kind"] == "mlstm" else ["mlstm", *["slstm"] * (blocks - 1)]
    made = [
        MLSTMBlock(width, heads, blocks, 4, 4, 2.0, 0.0, dropout, "auto", 64)
        if kind == "mlstm"
        else SLSTMBlock(width, heads, blocks, index, 4, 1.3, dropout)
        for index, kind in enumerate(kinds)
    ]
    return nn.Sequential(*made, nn.LayerNorm(width, bias=False))


def package_stack(ask: dict) -> nn.Module:
    import xlstm
    from mlstm_kernels.torch import get_mlstm_kernel

    heads, blocks = ask["heads"], ask["blocks"]
    short = ask["length"] <= 64
    kernel = get_mlstm_kernel("parallel--native_autograd" if short else "chunkwise--native_autograd")
    chunk = {} if short else {"chunk_size": WIDTH_OF_A_CHUNK}
    config = xlstm.xLSTMBlockStackConfig(
        mlstm_block=xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(num_heads=heads)),
        slstm_block=xlstm.sLSTMBlockConfig(
            slstm=xlstm.sLSTMLayerConfig(num_heads=heads, backend="vanilla"), feedforward=xlstm.FeedForwardConfig()
        ),
        context_length=ask["length"],
        num_blocks=blocks,
        embedding_dim=ask["width"],
        slstm_at=[] if ask["kind"] == "mlstm" else list(range(1, blocks)),
    )
    stack = xlstm.xLSTMBlockStack(config)

    def cell(queries, keys, values, igate_preact, fgate_preact, **rest):
        return kernel(queries, keys, values, igate_preact[..., 0], fgate_preact[..., 0], **chunk)

    for block in stack.blocks:
        if hasattr(block.xlstm, "mlstm_cell"):
            block.xlstm.mlstm_cell.backend_fn = cell
    return stack


def as_large_as_mlstm(ask: dict) -> int:
    """The inner width of the feed-forward at which a Transformer has as many parameters as the mLSTM stack."""
    wanted = sum(p.numel() for p in segue_stack(ask | {"kind": "mlstm"}).parameters()) / ask["blocks"]
    width = ask["width"]
    return round((wanted - 4 * width * width - 9 * width) / (2 * width + 1))


def sasrec_stack(ask: dict) -> nn.Module:
    from segue.nn.layers.attention import CausalBlock

    expansion = as_large_as_mlstm(ask) / ask["width"]
    made = [CausalBlock(ask["width"], ask["heads"], expansion, ask["dropout"]) for _ in range(ask["blocks"])]
    return nn.Sequential(*made, nn.LayerNorm(ask["width"]))


class TorchStack(nn.Module):
    """torch's own encoder, norm first, under a causal mask."""

    def __init__(self, ask: dict) -> None:
        super().__init__()
        inner = as_large_as_mlstm(ask)
        layer = nn.TransformerEncoderLayer(
            ask["width"], ask["heads"], inner, ask["dropout"], batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, ask["blocks"], nn.LayerNorm(ask["width"]), enable_nested_tensor=False
        )
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(ask["length"]))

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """Hidden states."""
        return self.layers(x_BLD, mask=self.mask, is_causal=True)


def main() -> None:
    make = {
        ("mlstm", "segue"): segue_stack,
        ("mixed", "segue"): segue_stack,
        ("mlstm", "xlstm"): package_stack,
        ("mixed", "xlstm"): package_stack,
        ("transformer", "segue"): sasrec_stack,
        ("transformer", "torch"): TorchStack,
    }
    job = Job()
    ask = job.settings
    torch.set_num_threads(ask["threads"])
    torch.manual_seed(0)
    stack = make[ask["kind"], ask["library"]](ask)
    x_BLD = torch.randn(ask["batch"], ask["length"], ask["width"], requires_grad=True)
    times, processor = [], []
    until = time.perf_counter() + ask["seconds"]
    while len(times) < 3 or time.perf_counter() < until:
        start, used = time.perf_counter(), time.process_time()
        stack(x_BLD).square().mean().backward()
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    middle = len(times[1:]) // 2
    job.note(
        positions_per_second=ask["batch"] * ask["length"] / sorted(times[1:])[middle],
        milliseconds=1000 * sorted(times[1:])[middle],
        processor_milliseconds=1000 * sorted(processor[1:])[middle],
        repeats=len(times) - 1,
        parameters=sum(p.numel() for p in stack.parameters()),
        peak_after_mib=memory()["peak"],
    )
    job.finish()


main()
