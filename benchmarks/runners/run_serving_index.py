"""Measure the exact top ten of a catalog against a plain matrix-vector product.

The product reads all vectors once and does little else.
"""

from __future__ import annotations

import time

import numpy as np
from measure import Job

from segue.serving.artifacts.ann_index import ExactIndex

WIDTH = 64


def fastest(call, repeats: int) -> float:
    """Return the seconds of the fastest call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    job = Job()
    rng, points = np.random.default_rng(job.settings["seed"]), []
    for items in (10_000, 100_000, 1_000_000)[: 1 if job.settings["quick"] else 3]:
        vectors_ID = rng.standard_normal((items, WIDTH), np.float32)
        index = ExactIndex(vectors_ID, None)
        repeats = max(5, 20_000_000 // items)
        one_D = rng.standard_normal(WIDTH, np.float32)
        plain = fastest(lambda: vectors_ID @ one_D, min(repeats, 200))  # noqa: B023 - called at once
        for queries in (1, 16):
            queries_ND = rng.standard_normal((queries, WIDTH), np.float32)
            seconds = fastest(lambda: index.search(queries_ND, 10), min(repeats, 200))  # noqa: B023
            points.append(
                {
                    "items": items,
                    "queries": queries,
                    "ms": 1000 * seconds,
                    "gb_per_second": vectors_ID.nbytes / seconds / 1e9,
                    "plain_gb_per_second": vectors_ID.nbytes / plain / 1e9,
                    "share": plain / seconds,
                }
            )
    job.record(points=points)
    job.finish()


main()
