"""Time RecBole's ``full_sort_topk`` of a SASRec for one user, with the prepared loader."""

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
    options, (offsets, items) = job.settings, job.events()
    sys.argv = sys.argv[:1]
    disable()
    torch.set_num_threads(options["threads"])
    os.chdir(job.folder)
    os.makedirs("log", exist_ok=True)
    lengths = np.diff(offsets)
    positions = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    rows = np.column_stack([np.repeat(np.arange(len(lengths)), lengths), items, positions])
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt("log/log.inter", rows, fmt="%d", delimiter="\t", header=header, comments="")
    settings = {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": options["length"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": options["batch"],
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "n_layers": options["num_blocks"],
        "n_heads": options["num_heads"],
        "hidden_size": options["embedding_dim"],
        "inner_size": options["inner"],
        "seed": options["seed"],
        "use_gpu": False,
        "show_progress": False,
    }
    config = Config(model="SASRec", dataset="log", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model("SASRec")(config, train._dataset).to(config["device"])
    model.eval()
    times = []
    for user in np.random.default_rng(options["seed"]).integers(1, test._dataset.user_num, size=options["calls"] + 3):
        start = time.perf_counter()
        _, best = full_sort_topk([int(user)], model, test, k=options["k"], device="cpu")
        times.append(1000 * (time.perf_counter() - start))
        assert best.shape[-1] == options["k"]
    job.record(ms=float(np.median(times[3:])), p95_ms=float(np.quantile(times[3:], 0.95)))
    job.finish()


main()
