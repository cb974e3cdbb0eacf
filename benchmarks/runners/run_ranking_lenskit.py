"""LensKit's side of the ranking: its EASE and its item neighbours."""

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
    ask, (offsets, items) = job.settings, job.events()
    torch.set_num_threads(ask["threads"])
    start = time.perf_counter()
    last = np.zeros(len(items), bool)
    last[offsets[1:] - 1] = True
    users = np.arange(len(offsets) - 1)
    rows = np.repeat(users, np.diff(offsets))[~last]
    train = from_interactions_df(pd.DataFrame({"user_id": rows, "item_id": items[~last]}).drop_duplicates())
    job.note(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    kind = {"ease": EASEScorer, "item_knn": ItemKNNScorer}[ask["model"]]
    whole = topn_pipeline(kind(**ask["settings"]), n=ask["k"])
    whole.train(train)
    job.note(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()  # once: it takes a minute or more
    answers = batch.recommend(whole, users.tolist(), ask["k"], n_jobs=1)
    job.note(users_per_second=len(users) / (time.perf_counter() - start))
    lists = np.full((len(users), ask["k"]), -1, np.int64)
    for key, found in answers:
        best = found.ids()[: ask["k"]]
        lists[key.user_id, : len(best)] = best
    job.finish(lists)


main()
