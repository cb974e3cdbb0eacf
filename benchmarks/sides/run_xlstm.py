"""One stack of xLSTM blocks, Segue's or the package's, forward and backward on random input: tokens per second.

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
    from segue.models.parts.xlstm_blocks import MLSTMBlock, SLSTMBlock

    width, heads, blocks = ask["width"], ask["heads"], ask["blocks"]
    kinds = ["mlstm"] * blocks if ask["kind"] == "mlstm" else ["mlstm", *["slstm"] * (blocks - 1)]
    made = [
        MLSTMBlock(width, heads, blocks, 4, 4, 2.0, 0.0, 0.0, "auto", 64)
        if kind == "mlstm"
        else SLSTMBlock(width, heads, blocks, index, 4, 1.3, 0.0)
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


def main() -> None:
    make = {"segue": segue_stack, "xlstm": package_stack}
    job = Job()
    ask = job.settings
    torch.set_num_threads(ask["threads"])
    torch.manual_seed(0)
    stack = make[ask["library"]](ask)
    x_BLD = torch.randn(ask["batch"], ask["length"], ask["width"], requires_grad=True)
    times = []
    until = time.perf_counter() + ask["seconds"]
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        stack(x_BLD).square().mean().backward()
        times.append(time.perf_counter() - start)
    middle = sorted(times[1:])[len(times[1:]) // 2]
    job.note(
        tokens_per_second=ask["batch"] * ask["length"] / middle,
        milliseconds=1000 * middle,
        repeats=len(times) - 1,
        parameters=sum(p.numel() for p in stack.parameters()),
        own_peak_mib=memory()["peak"],
    )
    job.finish()


main()
