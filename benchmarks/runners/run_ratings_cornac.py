"""Cornac's side of the ratings: MF, which is stochastic gradient descent of biased factors."""

from __future__ import annotations

import time

import numpy as np
from cornac.data import Dataset
from cornac.models import MF
from measure import Job


def main() -> None:
    job = Job()
    ask, pairs = job.settings, job.arrays()
    start = time.perf_counter()
    told = (pairs[f"train_{name}"].tolist() for name in ("users", "items", "values"))
    train = Dataset.from_uir(list(zip(*told, strict=True)), seed=ask["seed"])
    job.note(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    # with a seed it would use one thread; without, several race each other
    model = MF(num_threads=ask["threads"], verbose=False, **ask["settings"])
    model.fit(train)
    job.note(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    users, items = (np.full(ask[name], -1) for name in ("users", "items"))
    for codes, own in ((users, train.uid_map), (items, train.iid_map)):
        codes[list(own.keys())] = list(own.values())
    asked, wanted = users[pairs["test_users"]], items[pairs["test_items"]]
    predicted = np.full(len(asked), np.nan)
    known = (asked >= 0) & (wanted >= 0)
    asked, wanted = asked[known], wanted[known]
    products = np.einsum("td,td->t", model.u_factors[asked], model.i_factors[wanted])
    predicted[known] = model.global_mean + model.u_biases[asked] + model.i_biases[wanted] + products
    job.note(predict_seconds=time.perf_counter() - start)
    job.finish(predicted=predicted)


main()
