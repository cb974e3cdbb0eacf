"""Surprise's side of the ratings: SVD, stochastic gradient descent of biased factors, or another model by name."""

from __future__ import annotations

import time

import numpy as np
import surprise
from measure import Job
from surprise import Dataset, Reader


class Rows:
    """The ratings as Surprise's own reader of tables takes them, without a table."""

    def __init__(self, users, items, values) -> None:
        self.rows = list(zip(users.tolist(), items.tolist(), values.tolist(), [None] * len(users), strict=True))


def main() -> None:
    job = Job()
    ask, pairs = job.settings, job.arrays()
    start = time.perf_counter()
    data = Dataset(Reader(rating_scale=tuple(ask["scale"])))
    train = data.construct_trainset(Rows(*(pairs[f"train_{name}"] for name in ("users", "items", "values"))).rows)
    job.note(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    kind = getattr(surprise, ask.get("model", "SVD"))
    own = {"verbose": False} if "KNN" in kind.__name__ else {"random_state": ask["seed"]}
    model = kind(**own, **ask["settings"])
    model.fit(train)
    job.note(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    asked = zip(pairs["test_users"].tolist(), pairs["test_items"].tolist(), strict=True)
    predicted = np.array([model.predict(user, item).est for user, item in asked])
    job.note(predict_seconds=time.perf_counter() - start)
    job.finish(predicted=predicted)


main()
