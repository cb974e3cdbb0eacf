"""xLSTM alone: Segue's blocks against those of the package ``xlstm``, tokens per second forward and backward.

Both run in the environment that holds the package, one after the other in a fresh process each: width 128, 2 blocks,
batch 64. ``mlstm`` has two mLSTM blocks, ``mixed`` an mLSTM and an sLSTM block.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["run"]


def run(threads: int, quick: bool) -> dict[str, Any]:
    """Tokens per second by kind, length and library; what ``mlstm_kernels`` alone does is beside it."""
    import numpy as np

    from benchmarks.beside import side
    from benchmarks.peers import interpreter

    python = interpreter("xlstm")
    if python is None:
        sys.exit("no environment for xlstm; make it with: python -m benchmarks.peers xlstm")
    ask = {"width": 128, "blocks": 2, "heads": 2, "batch": 64, "threads": threads, "seconds": 1 if quick else 6}
    nothing = np.zeros(1, np.int64), np.zeros(0, np.int32)
    found: dict[str, Any] = {"settings": ask}
    for kind in ("mlstm", "mixed"):
        for length in (50, 200):
            for library in ("segue", "xlstm"):
                job = ask | {"kind": kind, "length": length, "library": library}
                found[f"{kind}, length {length}, {library}"] = side("xlstm", python, job, nothing)
    return found
