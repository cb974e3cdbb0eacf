"""RecTools's SASRec or BERT4Rec with softmax loss; top-k of all users by ``recommend``.

It is used as documented: Lightning's trainer, the library's loaders and ranking. A callback at the end of each batch
measures throughput, which includes loading and padding. For the time to accuracy it trains epoch by epoch; reading and
ranking for validation are excluded.
"""

from __future__ import annotations

import logging
import time
import warnings

import numpy as np
import pandas as pd
import torch
from measure import Job, ThroughputMeter, memory
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


class ThroughputCallback(Callback):
    """Records the targets of each batch (positions whose label is not padding) and the seconds of each epoch."""

    def __init__(self, warm_up: int) -> None:
        self.meter = ThroughputMeter(warm_up)
        self.started = self.seconds = 0.0

    def on_train_epoch_start(self, trainer, module) -> None:
        """Start the timer."""
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Record the batch."""
        self.meter.batch(int((batch["y"] != 0).sum()), len(batch["y"]))

    def on_train_epoch_end(self, trainer, module) -> None:
        """Record the seconds of the epoch."""
        self.seconds = time.perf_counter() - self.started


def interactions(offsets, items, keep) -> pd.DataFrame:
    """Build the interaction table; the position in the history is the time."""
    lengths = np.diff(offsets)
    positions = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    rows = keep(positions, np.repeat(lengths, lengths))
    return pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(lengths)), lengths)[rows],
            Columns.Item: items[rows],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(positions[rows], unit="s"),
        }
    )


def build(options, batches):
    """Build the model, trained on at most ``batches`` batches of an epoch (``None``: all)."""

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1, limit_train_batches=batches, callbacks=[ThroughputCallback(options["warm_up"])], devices=1,
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False,
        )  # fmt: skip

    model_class = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}[options["model"]]
    masked = {"mask_prob": options["mask_prob"]} if options["model"] == "bert4rec" else {}
    return model_class(
        n_blocks=options["num_blocks"], n_heads=options["num_heads"], n_factors=options["embedding_dim"],
        dropout_rate=options["dropout"], session_max_len=options["length"], batch_size=options["batch"],
        lr=options["learning_rate"], loss="softmax", item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=trainer, **masked,
    )  # fmt: skip


def top_lists(model, users, dataset, k):
    """Return the top items ``(users, k)``, -1 where there are fewer."""
    recommendations = model.recommend(users, dataset, k=k, filter_viewed=True)
    recommended = np.full((len(users), k), -1, np.int64)
    recommended[recommendations[Columns.User], recommendations[Columns.Rank] - 1] = recommendations[Columns.Item]
    return recommended


def measure_throughput(job, users, train, dataset) -> None:
    """Measure targets and sequences per second and the time of evaluation; write the test lists."""
    options = job.settings
    model = build(options, options["batches"])
    model.fit(train)
    meter = model.fit_trainer.callbacks[0].meter  # fit uses a copy of the trainer
    job.record(**meter.figures(), train_peak_mib=memory()["peak"])
    start = time.perf_counter()
    recommended = top_lists(model, users, dataset, options["k"])
    job.record(evaluate_seconds=time.perf_counter() - start, evaluated=len(users))
    job.finish(recommended)


def measure_time_to_accuracy(job, users, train) -> None:
    """Train until the time is over, with validation after each epoch."""
    timer = job.validation_timer()
    model = build(job.settings, None)
    while True:
        model.fit_partial(train, min_epochs=1, max_epochs=1)
        timer.seconds += model.fit_trainer.callbacks[0].seconds
        if timer.record_lists(top_lists(model, users, train, job.settings["k"])):
            break
    job.record(points=timer.points)
    job.finish()


def main() -> None:
    job = Job()
    torch.set_num_threads(job.settings["threads"])
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    seed_everything(job.settings["seed"])
    offsets, items = job.events()
    users = np.arange(len(offsets) - 1)
    train = Dataset.construct(interactions(offsets, items, lambda position, length: position < length - 2))
    if "minutes" in job.settings:
        measure_time_to_accuracy(job, users, train)
    else:
        test = Dataset.construct(interactions(offsets, items, lambda position, length: position < length - 1))
        measure_throughput(job, users, train, test)


main()
