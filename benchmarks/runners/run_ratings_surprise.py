"""Fit Surprise's SVD (biased factors by stochastic gradient descent), or another model by name, and predict ratings."""

from __future__ import annotations

import time

import numpy as np
import surprise
from measure import Job
from surprise import Dataset, Reader


class Rows:
    """Ratings in the format of Surprise's reader, without a data frame."""

    def __init__(self, users, items, values) -> None:
        self.rows = list(zip(users.tolist(), items.tolist(), values.tolist(), [None] * len(users), strict=True))


def main() -> None:
    job = Job()
    options, pairs = job.settings, job.arrays()
    start = time.perf_counter()
    data = Dataset(Reader(rating_scale=tuple(options["scale"])))
    train = data.construct_trainset(Rows(*(pairs[f"train_{name}"] for name in ("users", "items", "values"))).rows)
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    model_type = getattr(surprise, options.get("model", "SVD"))
    own = {"verbose": False} if "KNN" in model_type.__name__ else {"random_state": options["seed"]}
    model = model_type(**own, **options["settings"])
    model.fit(train)
    job.record(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    test_pairs = zip(pairs["test_users"].tolist(), pairs["test_items"].tolist(), strict=True)
    predicted = np.array([model.predict(user, item).est for user, item in test_pairs])
    job.record(predict_seconds=time.perf_counter() - start)
    job.finish(predicted=predicted)


main()
