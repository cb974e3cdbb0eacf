"""RecTools's side of the ranking: its EASE, and implicit's item neighbours as it wraps them."""

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
    ask, (offsets, items) = job.settings, job.events()
    start = time.perf_counter()
    last = np.zeros(len(items), bool)
    last[offsets[1:] - 1] = True
    users = np.arange(len(offsets) - 1)
    rows = np.repeat(users, np.diff(offsets))[~last]
    table = {Columns.User: rows, Columns.Item: items[~last], Columns.Weight: 1.0, Columns.Datetime: "2000-01-01"}
    train = Dataset.construct(pd.DataFrame(table))
    job.note(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    if ask["model"] == "ease":
        model = EASEModel(recommend_n_threads=ask["threads"], **ask["settings"])
    else:
        model = ImplicitItemKNNWrapperModel(CosineRecommender(num_threads=ask["threads"], **ask["settings"]))
    model.fit(train)
    job.note(fit_seconds=time.perf_counter() - start)
    rates = []
    for _ in range(ask["repeats"]):
        start = time.perf_counter()
        answers = model.recommend(users, train, k=ask["k"], filter_viewed=True)
        rates.append(len(users) / (time.perf_counter() - start))
    job.note(users_per_second=max(rates))
    lists = np.full((len(users), ask["k"]), -1, np.int64)
    lists[answers[Columns.User], answers[Columns.Rank] - 1] = answers[Columns.Item]
    job.finish(lists)


main()
