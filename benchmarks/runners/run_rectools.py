"""RecTools's side: SASRec or BERT4Rec with softmax loss; top-k of all users through ``recommend``.

Left as a user would: Lightning's trainer, the library's own loaders and ranking. A rate is measured by a callback at
the end of each batch, so that loading and padding count. A race trains an epoch after another; reading and ranking for
validation are not counted.
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
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


class Watch(Callback):
    """Counts the targets of each batch: positions whose label is not padding; and the seconds of each epoch."""

    def __init__(self, warm_up: int) -> None:
        self.clock = Clock(warm_up)
        self.began = self.seconds = 0.0

    def on_train_epoch_start(self, trainer, module) -> None:
        """Note when."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Note the batch."""
        self.clock.batch(int((batch["y"] != 0).sum()), len(batch["y"]))

    def on_train_epoch_end(self, trainer, module) -> None:
        """Note how long it was."""
        self.seconds = time.perf_counter() - self.began


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


def build(ask, batches):
    """The model, and ``batches`` of an epoch at most (``None``: all)."""

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1, limit_train_batches=batches, callbacks=[Watch(ask["warm_up"])], devices=1,
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False,
        )  # fmt: skip

    kind = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}[ask["model"]]
    masked = {"mask_prob": ask["hidden_share"]} if ask["model"] == "bert4rec" else {}
    return kind(
        n_blocks=ask["blocks"], n_heads=ask["heads"], n_factors=ask["width"], dropout_rate=ask["dropout"],
        session_max_len=ask["length"], batch_size=ask["batch"], lr=ask["learning_rate"], loss="softmax",
        item_net_block_types=(IdEmbeddingsItemNet,), get_trainer_func=trainer, **masked,
    )  # fmt: skip


def lists(model, users, known, k):
    """``(users, k)`` the best items, -1 where there are fewer."""
    answers = model.recommend(users, known, k=k, filter_viewed=True)
    recommended = np.full((len(users), k), -1, np.int64)
    recommended[answers[Columns.User], answers[Columns.Rank] - 1] = answers[Columns.Item]
    return recommended


def rate(job, users, train, known) -> None:
    """Targets and sequences per second, the time of evaluation, and the lists for the test."""
    ask = job.settings
    model = build(ask, ask["batches"])
    model.fit(train)
    clock = model.fit_trainer.callbacks[0].clock  # fit works on a copy of its trainer
    job.note(**clock.figures(), train_peak_mib=memory()["peak"])
    start = time.perf_counter()
    recommended = lists(model, users, known, ask["k"])
    job.note(evaluate_seconds=time.perf_counter() - start, evaluated=len(users))
    job.finish(recommended)


def race(job, users, train) -> None:
    """Train until the minutes are over, with lists for validation after each epoch."""
    timed = job.race()
    model = build(job.settings, None)
    while True:
        model.fit_partial(train, min_epochs=1, max_epochs=1)
        timed.seconds += model.fit_trainer.callbacks[0].seconds
        if timed.judge(lists(model, users, train, job.settings["k"])):
            break
    job.note(points=timed.points)
    job.finish()


def main() -> None:
    job = Job()
    torch.set_num_threads(job.settings["threads"])
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    seed_everything(job.settings["seed"])
    offsets, items = job.events()
    users = np.arange(len(offsets) - 1)
    train = Dataset.construct(table(offsets, items, lambda place, length: place < length - 2))
    if "minutes" in job.settings:
        race(job, users, train)
    else:
        rate(job, users, train, Dataset.construct(table(offsets, items, lambda place, length: place < length - 1)))


main()
