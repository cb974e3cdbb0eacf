"""Measure the machine's rate of matrix products in the shapes of training SASRec; float32, PyTorch."""

from __future__ import annotations

import time

import torch
from measure import Job

SECONDS = 0.6
"""Time for repeating each shape; the fastest repetition counts."""


def rate(a: torch.Tensor, b: torch.Tensor) -> float:
    """Measure GFLOP/s of ``a @ b`` into preallocated memory."""
    out = a @ b
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2.0 * a.shape[0] * a.shape[1] * b.shape[1] / best / 1e9


def main() -> None:
    job = Job()
    options = job.settings
    torch.set_num_threads(options["threads"])
    width, items, rows, tokens = (
        options["embedding_dim"],
        options["items"],
        options["rows"],
        options["batch"] * options["length"],
    )
    job.record(
        square=rate(torch.rand(2048, 2048), torch.rand(2048, 2048)),
        head_logits=rate(torch.rand(rows, width), torch.rand(items, width).T),
        head_hidden=rate(torch.rand(rows, items), torch.rand(items, width)),
        head_vectors=rate(torch.rand(rows, items).T, torch.rand(rows, width)),
        dense=rate(torch.rand(tokens, width), torch.rand(width, width).T),
    )
    job.finish()


main()
