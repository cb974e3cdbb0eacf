"""Time and memory of the output layer: from hidden states to the cross-entropy over a catalog and all gradients.

* ``blocked``: Segue's; padding removed, one block of logits at a time, gradients computed along with it
* ``flat``: padding kept, one tensor of logits, ``ignore_index``
* ``transposed``: the same with the classes in the middle ``(B, I, L)``, as in RecTools

Shapes: B sequences, L positions, D width, I items, M targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CASES", "measure", "run"]

CASES: dict[str, dict[str, Any]] = {
    "length 50": {"length": 50},
    "length 200": {"length": 200},
    "100,000 items": {"items": 100_000, "batch": 32, "length": 64, "filled": 1.0},
}
"""The catalog of MovieLens 1M with two history lengths, and a large catalog."""


def run(quick: bool) -> dict[str, Any]:
    """Measure all cases seven times each; with ``quick`` the first one once."""
    cases = dict(list(CASES.items())[:1]) if quick else CASES
    return {name: measure(**case, repeat=1 if quick else 7) for name, case in cases.items()}


def measure(
    items: int = 3706, embedding_dim: int = 64, batch: int = 128, length: int = 50, filled: float = 0.8, repeat: int = 7
) -> dict[str, Any]:
    """Measure milliseconds (median), targets per second and growth of peak memory of each implementation."""
    import torch
    import torch.nn.functional as F

    from benchmarks.runners.measure import memory
    from segue.nn.losses.losses import cross_entropy

    torch.manual_seed(0)
    hidden_BLD = torch.randn(batch, length, embedding_dim, requires_grad=True)
    vectors_ID = (0.1 * torch.randn(items, embedding_dim)).requires_grad_()
    counts_B = torch.full((batch,), round(filled * length))
    inside_BL = torch.arange(length) < counts_B[:, None]
    targets_BL = torch.randint(items, (batch, length))
    ignored_BL = targets_BL.where(inside_BL, -100)
    used_M = inside_BL.flatten().nonzero()[:, 0]

    def blocked() -> torch.Tensor:
        hidden_MD = hidden_BLD.flatten(0, 1).index_select(0, used_M)
        return cross_entropy(hidden_MD, vectors_ID, None, targets_BL.flatten()[used_M])

    def flat() -> torch.Tensor:
        return F.cross_entropy((hidden_BLD @ vectors_ID.T).flatten(0, 1), ignored_BL.flatten())

    def transposed() -> torch.Tensor:
        return F.cross_entropy((hidden_BLD @ vectors_ID.T).transpose(1, 2), ignored_BL)

    variants: dict[str, Callable[[], torch.Tensor]] = {"blocked": blocked, "flat": flat, "transposed": transposed}
    found: dict[str, Any] = {
        "targets": len(used_M),
        "positions": batch * length,
        "items": items,
        "embedding_dim": embedding_dim,
    }
    for name, variant in variants.items():
        hidden_BLD.grad = vectors_ID.grad = None
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the memory in use
        before, times = memory()["peak"], []
        for _ in range(repeat + 1):
            hidden_BLD.grad = vectors_ID.grad = None
            start = time.perf_counter()
            loss = variant()
            loss.backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - start)
        seconds = float(np.median(times[1:]))
        found[name] = {
            "milliseconds": 1000 * seconds,
            "targets_per_second": len(used_M) / seconds,
            "memory_mib": memory()["peak"] - before,
            "loss": loss.item(),
        }
    return found
