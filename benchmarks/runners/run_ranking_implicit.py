"""implicit's side of the ranking: AlternatingLeastSquares on the processor, as it is set unless told otherwise."""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the library itself asks for

import time

import numpy as np
from implicit.als import AlternatingLeastSquares
from measure import Job, hu_objective
from scipy.sparse import csr_matrix


def main() -> None:
    job = Job()
    ask, (offsets, items) = job.settings, job.events()
    start = time.perf_counter()
    last = np.zeros(len(items), bool)
    last[offsets[1:] - 1] = True
    told = offsets - np.arange(len(offsets))
    shape = (len(offsets) - 1, ask["items"])
    seen = csr_matrix((np.ones((~last).sum(), np.float32), items[~last], told), shape=shape)
    seen.sum_duplicates()
    seen.data[:] = 1.0
    job.note(prepare_seconds=time.perf_counter() - start)
    settings = ask["settings"]
    model = AlternatingLeastSquares(num_threads=ask["threads"], random_state=ask["seed"], **settings)
    points, took = [], 0.0
    begun = time.perf_counter()

    def after(*_) -> None:
        nonlocal took, begun
        took += time.perf_counter() - begun
        found = hu_objective(
            seen, model.user_factors, model.item_factors, settings["alpha"], settings["regularization"]
        )
        points.append((took, found))
        begun = time.perf_counter()

    model.fit(seen, show_progress=False, callback=after)
    job.note(fit_seconds=took, points=points)
    rates = []
    for _ in range(ask["repeats"]):
        start = time.perf_counter()
        lists, _ = model.recommend(np.arange(shape[0]), seen, N=ask["k"])
        rates.append(shape[0] / (time.perf_counter() - start))
    job.note(users_per_second=max(rates))
    job.finish(lists.astype(np.int64))


main()
