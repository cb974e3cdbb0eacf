"""Rank the catalog for every user as RecBole's evaluation of all items does, and compute its metrics.

Batch by batch, scores are a product of vectors, those of the padding item and of the history become minus infinity, and
the collector takes the top items and the hits. Its data loader, which loops over the users, is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from lists_inputs import WARM_UP, measure, timed_arrays
from measure import Job
from recbole.evaluator import Collector, Evaluator
from recbole_config import NAMES, evaluation_config

BATCH_SCORES = 20_000_000
"""Scores per batch: its own default is one user per batch for so many items."""


def prepare(arrays, ks):
    """Return the function that computes the metrics."""
    users = torch.from_numpy(arrays["users"])
    items = torch.cat([torch.zeros(1, users.shape[1]), torch.from_numpy(arrays["items"])])
    target_offsets, history_offsets = arrays["target_offsets"], arrays["history_offsets"]
    true_users, true_items = arrays["target_users"], arrays["target_items"].astype(np.int64) + 1
    seen_users = np.repeat(np.arange(len(users)), np.diff(history_offsets))
    seen_items = arrays["history_items"].astype(np.int64) + 1
    config = evaluation_config(list(NAMES), ks)
    step = max(1, BATCH_SCORES // len(items))

    @torch.no_grad()
    def compute():
        collector, evaluator = Collector(config), Evaluator(config)
        for start in range(0, len(users), step):
            stop = min(start + step, len(users))
            scores = users[start:stop] @ items.T
            scores[:, 0] = -torch.inf
            seen = slice(history_offsets[start], history_offsets[stop])
            scores[torch.from_numpy(seen_users[seen] - start), torch.from_numpy(seen_items[seen])] = -torch.inf
            true = slice(target_offsets[start], target_offsets[stop])
            rows = torch.from_numpy(true_users[true] - start)
            collector.eval_batch_collect(scores, None, rows, torch.from_numpy(true_items[true]))
        found = evaluator.evaluate(collector.get_data_struct())
        return {f"{own}@{k}": found[f"{name.lower()}@{k}"] for name, own in NAMES.items() for k in ks}

    return compute


def main() -> None:
    job = Job()
    torch.set_num_threads(job.settings["threads"])
    prepare(timed_arrays(job, WARM_UP), job.settings["ks"])()
    measure(job, prepare(timed_arrays(job), job.settings["ks"]))


main()
