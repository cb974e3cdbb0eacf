"""Fit and rank with implicit's AlternatingLeastSquares on the CPU; other settings are its defaults."""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the library recommends

import time

import numpy as np
from implicit.als import AlternatingLeastSquares
from measure import Job, hu_objective
from scipy.sparse import csr_matrix


def main() -> None:
    job = Job()
    options, (offsets, items) = job.settings, job.events()
    start = time.perf_counter()
    last = np.zeros(len(items), bool)
    last[offsets[1:] - 1] = True
    train_offsets = offsets - np.arange(len(offsets))
    shape = (len(offsets) - 1, options["items"])
    seen = csr_matrix((np.ones((~last).sum(), np.float32), items[~last], train_offsets), shape=shape)
    seen.sum_duplicates()
    seen.data[:] = 1.0
    job.record(prepare_seconds=time.perf_counter() - start)
    settings = options["settings"]
    model = AlternatingLeastSquares(num_threads=options["threads"], random_state=options["seed"], **settings)
    points, seconds = [], 0.0
    started = time.perf_counter()

    def after_iteration(*_) -> None:
        nonlocal seconds, started
        seconds += time.perf_counter() - started
        found = hu_objective(
            seen, model.user_factors, model.item_factors, settings["alpha"], settings["regularization"]
        )
        points.append((seconds, found))
        started = time.perf_counter()

    model.fit(seen, show_progress=False, callback=after_iteration)
    job.record(fit_seconds=seconds, points=points)
    rates = []
    for _ in range(options["repeats"]):
        start = time.perf_counter()
        lists, _ = model.recommend(np.arange(shape[0]), seen, N=options["k"])
        rates.append(shape[0] / (time.perf_counter() - start))
    job.record(users_per_second=max(rates))
    job.finish(lists.astype(np.int64))


main()
