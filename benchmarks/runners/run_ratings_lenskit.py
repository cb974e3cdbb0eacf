"""Fit LensKit's BiasedMF (alternating least squares of biased factors) and predict ratings."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from lenskit.als import BiasedMFScorer
from lenskit.data import ItemList, RecQuery, from_interactions_df
from lenskit.training import TrainingOptions
from measure import Job


def main() -> None:
    job = Job()
    options, pairs = job.settings, job.arrays()
    torch.set_num_threads(options["threads"])
    start = time.perf_counter()
    columns = {f"{name}_id": pairs[f"train_{name}s"] for name in ("user", "item")}
    train = from_interactions_df(pd.DataFrame(columns | {"rating": pairs["train_values"]}))
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    model = BiasedMFScorer(**options["settings"])
    model.train(train, TrainingOptions(rng=options["seed"]))
    job.record(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    users = pairs["test_users"]
    order = np.argsort(users, kind="stable")
    cuts = np.flatnonzero(np.diff(users[order])) + 1
    predicted = np.full(len(users), np.nan)
    for rows in np.split(order, cuts):
        scored = model(RecQuery(user_id=int(users[rows[0]])), ItemList(item_ids=pairs["test_items"][rows]))
        predicted[rows] = scored.scores("numpy")
    job.record(predict_seconds=time.perf_counter() - start)
    job.finish(predicted=predicted)


main()
