"""Compute RecBole's metrics from its own input: whether each place of a list is a hit, and the number of targets."""

from __future__ import annotations

import numpy as np
import torch
from lists_inputs import WARM_UP, measure, timed_arrays
from measure import Job
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct
from recbole_config import NAMES, evaluation_config


def prepare(arrays, ks):
    """Return the function that computes the metrics."""
    lists, users, items = arrays["lists"], arrays["target_users"], arrays["target_items"]
    width = 1 + max(lists.max(), items.max())
    wanted = np.sort(users * width + items)
    keys = np.arange(len(lists))[:, None] * width + lists
    is_hit = np.append(wanted, -1)[np.searchsorted(wanted, keys)] == keys
    counts = np.diff(arrays["target_offsets"])[:, None]
    struct = DataStruct()
    struct.set("rec.topk", torch.from_numpy(np.hstack([is_hit, counts]).astype(np.int32)))
    evaluator = Evaluator(evaluation_config(list(NAMES), ks))

    def compute():
        found = evaluator.evaluate(struct)
        return {f"{own}@{k}": found[f"{name.lower()}@{k}"] for name, own in NAMES.items() for k in ks}

    return compute


def main() -> None:
    job = Job()
    prepare(timed_arrays(job, WARM_UP), job.settings["ks"])()
    measure(job, prepare(timed_arrays(job), job.settings["ks"]))


main()
