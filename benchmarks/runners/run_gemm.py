"""The machine's own rate of matrix products, in the shapes that training SASRec needs; float32, torch."""

from __future__ import annotations

import time

import torch
from measure import Job

SECONDS = 0.6
"""How long each shape is repeated; the fastest repetition counts."""


def rate(a: torch.Tensor, b: torch.Tensor) -> float:
    """GFLOP/s of ``a @ b`` into memory that is already there."""
    out = a @ b
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2.0 * a.shape[0] * a.shape[1] * b.shape[1] / best / 1e9


def main() -> None:
    job = Job()
    ask = job.settings
    torch.set_num_threads(ask["threads"])
    width, items, rows, tokens = ask["width"], ask["items"], ask["rows"], ask["batch"] * ask["length"]
    one = torch.rand
    job.note(
        square=rate(one(2048, 2048), one(2048, 2048)),
        head_logits=rate(one(rows, width), one(items, width).T),
        head_hidden=rate(one(rows, items), one(items, width)),
        head_vectors=rate(one(rows, items).T, one(rows, width)),
        dense=rate(one(tokens, width), one(width, width).T),
    )
    job.finish()


main()
