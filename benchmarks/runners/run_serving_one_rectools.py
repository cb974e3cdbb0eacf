"""RecTools's side of one answer to one user: ``recommend`` of a fitted SASRec, the data as it was prepared."""

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
    ask, (offsets, items) = job.settings, job.events()
    torch.set_num_threads(ask["threads"])
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lengths = np.diff(offsets)
    places = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    users = np.repeat(np.arange(len(lengths)), lengths)
    times = pd.to_datetime(places, unit="s")
    table = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: times})
    data = Dataset.construct(table)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1, limit_train_batches=ask["batches"], devices=1, accelerator="cpu", logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip

    model = SASRecModel(
        n_blocks=ask["blocks"], n_heads=ask["heads"], n_factors=ask["width"], session_max_len=ask["length"],
        batch_size=ask["batch"], loss="softmax", item_net_block_types=(IdEmbeddingsItemNet,), get_trainer_func=trainer,
    )  # fmt: skip
    model.fit(data)
    took = []
    for user in np.random.default_rng(ask["seed"]).integers(len(lengths), size=ask["calls"] + 3):
        start = time.perf_counter()
        found = model.recommend([int(user)], data, k=ask["k"], filter_viewed=True)
        took.append(1000 * (time.perf_counter() - start))
        assert len(found) == ask["k"]
    job.note(ms=float(np.median(took[3:])), p95_ms=float(np.quantile(took[3:], 0.95)))
    job.finish()


main()
