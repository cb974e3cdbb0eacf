"""RecBole's side of one answer to one user: ``full_sort_topk`` of a SASRec, the loader as it was prepared."""

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
from recbole.utils import get_model, init_seed
from recbole.utils.case_study import full_sort_topk


def main() -> None:
    job = Job()
    ask, (offsets, items) = job.settings, job.events()
    sys.argv = sys.argv[:1]
    disable()
    torch.set_num_threads(ask["threads"])
    os.chdir(job.folder)
    os.makedirs("log", exist_ok=True)
    lengths = np.diff(offsets)
    places = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    rows = np.column_stack([np.repeat(np.arange(len(lengths)), lengths), items, places])
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt("log/log.inter", rows, fmt="%d", delimiter="\t", header=header, comments="")
    settings = {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": ask["length"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": ask["batch"],
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "n_layers": ask["blocks"],
        "n_heads": ask["heads"],
        "hidden_size": ask["width"],
        "inner_size": ask["inner"],
        "seed": ask["seed"],
        "use_gpu": False,
        "show_progress": False,
    }
    config = Config(model="SASRec", dataset="log", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model("SASRec")(config, train._dataset).to(config["device"])
    model.eval()
    took = []
    for user in np.random.default_rng(ask["seed"]).integers(1, test._dataset.user_num, size=ask["calls"] + 3):
        start = time.perf_counter()
        _, best = full_sort_topk([int(user)], model, test, k=ask["k"], device="cpu")
        took.append(1000 * (time.perf_counter() - start))
        assert best.shape[-1] == ask["k"]
    job.note(ms=float(np.median(took[3:])), p95_ms=float(np.quantile(took[3:], 0.95)))
    job.finish()


main()
