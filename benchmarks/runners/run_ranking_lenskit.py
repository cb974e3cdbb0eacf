"""Fit and rank with LensKit's EASE and item neighbors."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from lenskit import batch
from lenskit.data import from_interactions_df
from lenskit.knn import EASEScorer, ItemKNNScorer
from lenskit.pipeline import topn_pipeline
from measure import Job


def main() -> None:
    job = Job()
    options, (offsets, items) = job.settings, job.events()
    torch.set_num_threads(options["threads"])
    start = time.perf_counter()
    last = np.zeros(len(items), bool)
    last[offsets[1:] - 1] = True
    users = np.arange(len(offsets) - 1)
    rows = np.repeat(users, np.diff(offsets))[~last]
    train = from_interactions_df(pd.DataFrame({"user_id": rows, "item_id": items[~last]}).drop_duplicates())
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    scorer_class = {"ease": EASEScorer, "item_knn": ItemKNNScorer}[options["model"]]
    pipeline = topn_pipeline(scorer_class(**options["settings"]), n=options["k"])
    pipeline.train(train)
    job.record(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()  # once, as it takes more than a minute
    recommendations = batch.recommend(pipeline, users.tolist(), options["k"], n_jobs=1)
    job.record(users_per_second=len(users) / (time.perf_counter() - start))
    lists = np.full((len(users), options["k"]), -1, np.int64)
    for key, found in recommendations:
        best = found.ids()[: options["k"]]
        lists[key.user_id, : len(best)] = best
    job.finish(lists)


main()
