"""Fit and rank with RecTools's EASE and item neighbors."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from implicit.nearest_neighbours import CosineRecommender
from measure import Job
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel, ImplicitItemKNNWrapperModel


def main() -> None:
    job = Job()
    options, (offsets, items) = job.settings, job.events()
    start = time.perf_counter()
    last = np.zeros(len(items), bool)
    last[offsets[1:] - 1] = True
    users = np.arange(len(offsets) - 1)
    rows = np.repeat(users, np.diff(offsets))[~last]
    table = {Columns.User: rows, Columns.Item: items[~last], Columns.Weight: 1.0, Columns.Datetime: "2000-01-01"}
    train = Dataset.construct(pd.DataFrame(table))
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    if options["model"] == "ease":
        model = EASEModel(recommend_n_threads=options["threads"], **options["settings"])
    else:
        model = ImplicitItemKNNWrapperModel(CosineRecommender(num_threads=options["threads"], **options["settings"]))
    model.fit(train)
    job.record(fit_seconds=time.perf_counter() - start)
    rates = []
    for _ in range(options["repeats"]):
        start = time.perf_counter()
        recommendations = model.recommend(users, train, k=options["k"], filter_viewed=True)
        rates.append(len(users) / (time.perf_counter() - start))
    job.record(users_per_second=max(rates))
    lists = np.full((len(users), options["k"]), -1, np.int64)
    lists[recommendations[Columns.User], recommendations[Columns.Rank] - 1] = recommendations[Columns.Item]
    job.finish(lists)


main()
