"""Fit Cornac's MF (biased factors by stochastic gradient descent) and predict ratings."""

from __future__ import annotations

import time

import numpy as np
from cornac.data import Dataset
from cornac.models import MF
from measure import Job


def main() -> None:
    job = Job()
    options, pairs = job.settings, job.arrays()
    start = time.perf_counter()
    columns = (pairs[f"train_{name}"].tolist() for name in ("users", "items", "values"))
    train = Dataset.from_uir(list(zip(*columns, strict=True)), seed=options["seed"])
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    # a seed restricts it to one thread; without one, several threads update the factors without locks
    model = MF(num_threads=options["threads"], verbose=False, **options["settings"])
    model.fit(train)
    job.record(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    users, items = (np.full(options[name], -1) for name in ("users", "items"))
    for codes, own in ((users, train.uid_map), (items, train.iid_map)):
        codes[list(own.keys())] = list(own.values())
    test_users, test_items = users[pairs["test_users"]], items[pairs["test_items"]]
    predicted = np.full(len(test_users), np.nan)
    known = (test_users >= 0) & (test_items >= 0)
    test_users, test_items = test_users[known], test_items[known]
    products = np.einsum("td,td->t", model.u_factors[test_users], model.i_factors[test_items])
    predicted[known] = model.global_mean + model.u_biases[test_users] + model.i_biases[test_items] + products
    job.record(predict_seconds=time.perf_counter() - start)
    job.finish(predicted=predicted)


main()
