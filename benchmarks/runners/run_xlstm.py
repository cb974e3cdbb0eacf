"""Measure one stack of blocks, forward and backward on random input: positions per second.

The package's mLSTM cell uses the native kernel of ``mlstm_kernels``, with a chunk size that divides the length, or the
parallel kernel for short sequences, as its authors recommend on a CPU; its sLSTM uses the ``vanilla`` backend.
"""

from __future__ import annotations

import time

import torch
from measure import Job, memory
from torch import nn

CHUNK_SIZE = 50


def segue_stack(options: dict) -> nn.Module:
    """Build Segue's mLSTM and sLSTM blocks."""
    from segue.nn.xlstm.blocks import MLSTMBlock, SLSTMBlock

    width, heads, blocks, dropout = (
        options["embedding_dim"],
        options["num_heads"],
        options["num_blocks"],
        options["dropout"],
    )
    kinds = ["mlstm"] * blocks if options["kind"] == "mlstm" else ["mlstm", *["slstm"] * (blocks - 1)]
    layers = [
        MLSTMBlock(width, heads, blocks, 4, 4, 2.0, 0.0, dropout, "auto", 64)
        if kind == "mlstm"
        else SLSTMBlock(width, heads, blocks, index, 4, 1.3, dropout)
        for index, kind in enumerate(kinds)
    ]
    return nn.Sequential(*layers, nn.LayerNorm(width, bias=False))


def package_stack(options: dict) -> nn.Module:
    """Build the same blocks of the package ``xlstm``."""
    import xlstm
    from mlstm_kernels.torch import get_mlstm_kernel

    heads, blocks = options["num_heads"], options["num_blocks"]
    short = options["length"] <= 64
    kernel = get_mlstm_kernel("parallel--native_autograd" if short else "chunkwise--native_autograd")
    chunk = {} if short else {"chunk_size": CHUNK_SIZE}
    config = xlstm.xLSTMBlockStackConfig(
        mlstm_block=xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(num_heads=heads)),
        slstm_block=xlstm.sLSTMBlockConfig(
            slstm=xlstm.sLSTMLayerConfig(num_heads=heads, backend="vanilla"), feedforward=xlstm.FeedForwardConfig()
        ),
        context_length=options["length"],
        num_blocks=blocks,
        embedding_dim=options["embedding_dim"],
        slstm_at=[] if options["kind"] == "mlstm" else list(range(1, blocks)),
    )
    stack = xlstm.xLSTMBlockStack(config)

    def cell(queries, keys, values, igate_preact, fgate_preact, **rest):
        return kernel(queries, keys, values, igate_preact[..., 0], fgate_preact[..., 0], **chunk)

    for block in stack.blocks:
        if hasattr(block.xlstm, "mlstm_cell"):
            block.xlstm.mlstm_cell.backend_fn = cell
    return stack


def matching_inner_width(options: dict) -> int:
    """Compute the feed-forward width that gives a Transformer as many parameters as the mLSTM stack."""
    wanted = sum(p.numel() for p in segue_stack(options | {"kind": "mlstm"}).parameters()) / options["num_blocks"]
    width = options["embedding_dim"]
    return round((wanted - 4 * width * width - 9 * width) / (2 * width + 1))


def sasrec_stack(options: dict) -> nn.Module:
    """Build Segue's Transformer blocks."""
    from segue.nn.layers.attention import TransformerBlock

    expansion = matching_inner_width(options) / options["embedding_dim"]
    layers = [
        TransformerBlock(options["embedding_dim"], options["num_heads"], expansion, options["dropout"])
        for _ in range(options["num_blocks"])
    ]
    return nn.Sequential(*layers, nn.LayerNorm(options["embedding_dim"]))


class TorchStack(nn.Module):
    """PyTorch's encoder, norm first, with a causal mask."""

    def __init__(self, options: dict) -> None:
        super().__init__()
        inner = matching_inner_width(options)
        layer = nn.TransformerEncoderLayer(
            options["embedding_dim"], options["num_heads"], inner, options["dropout"], batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, options["num_blocks"], nn.LayerNorm(options["embedding_dim"]), enable_nested_tensor=False
        )
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(options["length"]))

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """Return the hidden states."""
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
    options = job.settings
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    stack = make[options["kind"], options["library"]](options)
    x_BLD = torch.randn(options["batch"], options["length"], options["embedding_dim"], requires_grad=True)
    times, cpu = [], []
    until = time.perf_counter() + options["seconds"]
    while len(times) < 3 or time.perf_counter() < until:
        start, used = time.perf_counter(), time.process_time()
        stack(x_BLD).square().mean().backward()
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    middle = len(times[1:]) // 2
    job.record(
        positions_per_second=options["batch"] * options["length"] / sorted(times[1:])[middle],
        milliseconds=1000 * sorted(times[1:])[middle],
        cpu_milliseconds=1000 * sorted(cpu[1:])[middle],
        repeats=len(times) - 1,
        parameters=sum(p.numel() for p in stack.parameters()),
        peak_after_mib=memory()["peak"],
    )
    job.finish()


main()
