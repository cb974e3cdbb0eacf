"""Evaluate given lists with RecBole's collector and evaluator.

RecBole evaluates users with targets only, and takes lists from scores: an item gets the higher a score the better its
rank, and items outside the list get minus infinity. Item codes begin at 1, as 0 is its padding item. Metrics without a
cutoff read the scores of the model.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import torch
from measure import Job
from recbole.data import create_dataset
from recbole.evaluator import Collector, Evaluator
from recbole_config import NAMES, evaluation_config

OTHERS = ("ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage")


def evaluate(config, scores, true_users, true_items, train_part):
    """Return RecBole's metrics of scores, and what its collector recorded."""
    collector = Collector(config)
    collector.data_collect(SimpleNamespace(dataset=train_part))
    collector.eval_batch_collect(scores, None, true_users, true_items)
    struct = collector.data_struct  # get_data_struct() fails, as it expects tensors where counts of items are
    return Evaluator(config).evaluate(struct), struct


def main() -> None:
    job = Job()
    arrays, ks = job.arrays(), job.settings["ks"]
    lists, n_items = arrays["lists"], len(arrays["tags"])
    with_target, rows = np.unique(arrays["target_users"], return_inverse=True)
    n_users, k = len(with_target), lists.shape[1]
    (job.folder / "catalog").mkdir()
    pairs = "".join(f"u\ti{item}\n" for item in range(n_items))
    (job.folder / "catalog" / "catalog.inter").write_text(f"user_id:token\titem_id:token\n{pairs}")
    config = evaluation_config([*NAMES, *OTHERS], ks)
    dataset = create_dataset(config)  # to know how RecBole counts the items of such a catalog
    train_part = SimpleNamespace(num=dataset.num, item_counter=Counter((1 + arrays["train_items"]).tolist()))
    true_users, true_items = torch.from_numpy(rows), torch.from_numpy(1 + arrays["target_items"])
    scores = torch.full((n_users, 1 + n_items), -torch.inf)
    some = lists[with_target]
    users, ranks = np.nonzero(some >= 0)
    scores[users, 1 + some[some >= 0]] = torch.from_numpy((k - ranks).astype(np.float32))
    values, struct = evaluate(config, scores, true_users, true_items, train_part)
    found = {f"{name}@{at}": values[f"{name.lower()}@{at}"] for name in (*NAMES, *OTHERS) for at in ks}
    completed = struct.get("rec.items").numpy() - 1
    if "scores" in arrays:
        config = evaluation_config(["GAUC"], ks)
        whole = torch.cat([torch.full((n_users, 1), -torch.inf), torch.from_numpy(arrays["scores"][with_target])], 1)
        found["GAUC"] = evaluate(config, whole, true_users, true_items, train_part)[0]["gauc"]
    job.record(version=version("recbole"), values={name: float(value) for name, value in found.items()})
    job.finish(completed)


main()
