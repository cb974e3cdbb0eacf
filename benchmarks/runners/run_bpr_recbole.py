"""RecBole's BPR with its default settings, validated after each epoch, then tested.

It reads the split from files and uses its own trainer and evaluation. Afterwards, outside the timed part, the lists are
taken from its scores, so that the same function measures them as those of Segue.
"""

from __future__ import annotations

import os
import sys
import time
from logging import disable

import numpy as np
import torch
from measure import Job
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

PARTS = ("train", "valid", "test")


def recbole_settings(options) -> dict:
    """Translate the settings to RecBole's names."""
    return {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id"]},
        "benchmark_filename": list(PARTS),
        "embedding_size": options["embedding_dim"],
        "epochs": options["epochs"],
        "train_batch_size": options["batch"],
        "learning_rate": options["learning_rate"],
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
        "metrics": ["Recall", "Precision", "NDCG"],
        "topk": options["ks"],
        "valid_metric": f"NDCG@{max(options['ks'])}",
        "eval_args": {"group_by": "user", "order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}, "mode": "full"},
        "seed": options["seed"],
        "use_gpu": False,
        "show_progress": False,
    }


@torch.no_grad()
def lists(trainer, test, options, query_users):
    """Return the top items of each query's user ``(queries, k)``."""
    data = test._dataset
    code_of = np.full(data.item_num, -1)
    code_of[1:] = data.id2token(data.iid_field, np.arange(1, data.item_num)).astype(np.int64)
    user_of = np.full(data.user_num, -1)
    user_of[1:] = data.id2token(data.uid_field, np.arange(1, data.user_num)).astype(np.int64)
    row_of = {user: row for row, user in enumerate(query_users.tolist())}
    found = np.full((len(query_users), max(options["ks"])), -1)
    trainer.model.eval()
    trainer.tot_item_num = data.item_num
    for batch in test:
        batch_users, scores, _, _ = trainer._full_sort_batch_eval(batch)
        rows = [row_of[int(user)] for user in user_of[batch_users[data.uid_field].numpy()]]
        found[rows] = code_of[scores.topk(max(options["ks"])).indices.numpy()]
    return found


def main() -> None:
    job = Job()
    options, arrays = job.settings, job.arrays()
    sys.argv = sys.argv[:1]
    disable()
    torch.set_num_threads(options["threads"])
    os.chdir(job.folder)
    os.makedirs("log", exist_ok=True)
    for part in PARTS:
        rows = np.column_stack([arrays[f"{part}_users"], arrays[f"{part}_items"]])
        header = "user_id:token\titem_id:token"
        np.savetxt(f"log/log.{part}.inter", rows, fmt="%d", delimiter="\t", header=header, comments="")
    start = time.perf_counter()
    config = Config(model="BPR", dataset="log", config_dict=recbole_settings(options))
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    model = get_model("BPR")(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, model)
    trainer.fit(train, valid, verbose=False, saved=False, show_progress=False)
    job.record(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    own = trainer.evaluate(test, load_best_model=False, show_progress=False)
    job.record(
        evaluate_seconds=time.perf_counter() - start, own_metrics={name: float(value) for name, value in own.items()}
    )
    job.finish(lists(trainer, test, options, arrays["query_users"]))


main()
