"""RecTools's side: SASRec with softmax loss, trained for some batches; top-k of all users through ``recommend``.

Left as a user would: Lightning's trainer, the library's own loaders and ranking. Measured by a callback at the end of
each batch, so that loading and padding count.
"""

from __future__ import annotations

import logging
import time
import warnings

import numpy as np
import pandas as pd
import torch
from measure import Clock, Job, memory
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


class Watch(Callback):
    """Counts the targets of each batch: positions whose label is not padding."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Note the batch."""
        self.clock.batch(int((batch["y"] != 0).sum()))


def table(offsets, items, keep) -> pd.DataFrame:
    """Rows of the log; the place in a user's history stands for the time."""
    lengths = np.diff(offsets)
    places = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    rows = keep(places, np.repeat(lengths, lengths))
    return pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(lengths)), lengths)[rows],
            Columns.Item: items[rows],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(places[rows], unit="s"),
        }
    )


def main() -> None:
    job = Job()
    ask = job.settings
    torch.set_num_threads(ask["threads"])
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    seed_everything(ask["seed"])
    offsets, items = job.events()
    train = Dataset.construct(table(offsets, items, lambda place, length: place < length - 2))
    known = Dataset.construct(table(offsets, items, lambda place, length: place < length - 1))
    clock = Clock(ask["warm_up"])

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1, limit_train_batches=ask["batches"], callbacks=[Watch(clock)], devices=1, accelerator="cpu",
            logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip

    model = SASRecModel(
        n_blocks=ask["blocks"], n_heads=ask["heads"], n_factors=ask["width"], dropout_rate=ask["dropout"],
        session_max_len=ask["length"], batch_size=ask["batch"], lr=ask["learning_rate"], loss="softmax",
        item_net_block_types=(IdEmbeddingsItemNet,), get_trainer_func=trainer,
    )  # fmt: skip
    model.fit(train)
    clock = model.fit_trainer.callbacks[0].clock  # fit works on a copy of its trainer
    job.note(**clock.figures(), train_peak_mib=memory()["peak"])
    users = np.arange(len(offsets) - 1)
    start = time.perf_counter()
    answers = model.recommend(users, known, k=ask["k"], filter_viewed=True)
    job.note(evaluate_seconds=time.perf_counter() - start, evaluated=len(users))
    recommended = np.full((len(users), ask["k"]), -1, np.int64)
    recommended[answers[Columns.User], answers[Columns.Rank] - 1] = answers[Columns.Item]
    job.finish(recommended)


main()
