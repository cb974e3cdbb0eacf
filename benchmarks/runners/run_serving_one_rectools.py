"""Time RecTools's ``recommend`` of a fitted SASRec for one user, with the constructed dataset."""

from __future__ import annotations

import logging
import time
import warnings

import numpy as np
import pandas as pd
import torch
from measure import Job
from pytorch_lightning import Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


def main() -> None:
    job = Job()
    options, (offsets, items) = job.settings, job.events()
    torch.set_num_threads(options["threads"])
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lengths = np.diff(offsets)
    positions = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    users = np.repeat(np.arange(len(lengths)), lengths)
    times = pd.to_datetime(positions, unit="s")
    table = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: times})
    data = Dataset.construct(table)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1, limit_train_batches=options["batches"], devices=1, accelerator="cpu", logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip

    model = SASRecModel(
        n_blocks=options["num_blocks"], n_heads=options["num_heads"], n_factors=options["embedding_dim"],
        session_max_len=options["length"], batch_size=options["batch"], loss="softmax",
        item_net_block_types=(IdEmbeddingsItemNet,), get_trainer_func=trainer,
    )  # fmt: skip
    model.fit(data)
    times_ms = []
    for user in np.random.default_rng(options["seed"]).integers(len(lengths), size=options["calls"] + 3):
        start = time.perf_counter()
        found = model.recommend([int(user)], data, k=options["k"], filter_viewed=True)
        times_ms.append(1000 * (time.perf_counter() - start))
        assert len(found) == options["k"]
    job.record(ms=float(np.median(times_ms[3:])), p95_ms=float(np.quantile(times_ms[3:], 0.95)))
    job.finish()


main()
