"""Rank the catalog for every user with one of RecTools's rankers, and compute its metrics of the lists."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from lists_inputs import WARM_UP, measure, timed_arrays
from measure import Job
from rectools import Columns
from rectools.metrics import calc_metrics
from rectools.models.rank import Distance, ImplicitRanker, TorchRanker
from rectools_metrics import shared_metrics
from scipy.sparse import csr_matrix


def prepare(arrays, ks, what, threads):
    """Return the function that computes the metrics."""
    users, items = arrays["users"], arrays["items"]
    cells = (np.ones(len(arrays["history_items"]), np.float32), arrays["history_items"], arrays["history_offsets"])
    seen = csr_matrix(cells, shape=(len(users), len(items)))
    true = pd.DataFrame({Columns.User: arrays["target_users"], Columns.Item: arrays["target_items"].astype(np.int64)})
    metrics = shared_metrics(ks)
    if what == "implicit":
        ranker = ImplicitRanker(Distance.DOT, users, items, num_threads=threads)
    else:
        ranker = TorchRanker(Distance.DOT, "cpu", users, items)

    def compute():
        subjects, found, _ = ranker.rank(np.arange(len(users)), k=max(ks), filter_pairs_csr=seen)
        reco = pd.DataFrame({Columns.User: np.asarray(subjects), Columns.Item: np.asarray(found).astype(np.int64)})
        reco[Columns.Rank] = reco.groupby(Columns.User, sort=False).cumcount() + 1
        return calc_metrics(metrics, reco, true)

    return compute


def main() -> None:
    job = Job()
    options = job.settings
    torch.set_num_threads(options["threads"])
    more = (options["ks"], options["what"], options["threads"])
    prepare(timed_arrays(job, WARM_UP), *more)()
    measure(job, prepare(timed_arrays(job), *more))


main()
