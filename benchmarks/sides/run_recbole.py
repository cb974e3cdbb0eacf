"""RecBole's side: SASRec with cross-entropy, trained for some batches; its own full-sort evaluation of all users.

RecBole makes one sample of each prefix of a history, so a batch of N samples holds N targets. It keeps times as
32-bit floats, parses the host's arguments and writes folders where it stands: it is given each event's place in the
history as the time, an empty argument list and a folder of its own.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import islice
from logging import disable

import numpy as np
import torch
from measure import Clock, Job, memory
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed


class Some:
    """The first batches of a loader, counted when the next one is asked for: by then they are learned."""

    def __init__(self, loader, count: int, clock: Clock) -> None:
        self.loader, self.count, self.clock = loader, count, clock

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __iter__(self):
        for batch in islice(iter(self.loader), self.count):
            yield batch
            self.clock.batch(len(batch))


def main() -> None:
    job = Job()
    ask = job.settings
    sys.argv = sys.argv[:1]
    disable()
    torch.set_num_threads(ask["threads"])
    load = torch.load  # newer torch refuses RecBole's pickles unless told
    torch.load = lambda *args, **kwargs: load(*args, **{"weights_only": False} | kwargs)
    os.chdir(job.folder)
    write_log(*job.events())
    config = Config(model="SASRec", dataset="log", config_dict=settings(ask))
    init_seed(config["seed"], config["reproducibility"])
    start = time.perf_counter()
    train, _, test = data_preparation(config, create_dataset(config))
    job.note(prepare_seconds=time.perf_counter() - start)
    model = get_model("SASRec")(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    clock = Clock(ask["warm_up"])
    trainer._train_epoch(Some(train, ask["batches"], clock), 0, show_progress=False)
    job.note(**clock.figures(), epoch_targets=len(train._dataset), train_peak_mib=memory()["peak"])
    start = time.perf_counter()
    own = trainer.evaluate(test, load_best_model=False, show_progress=False)
    job.note(evaluate_seconds=time.perf_counter() - start, evaluated=len(test._dataset))
    job.note(own_metrics={f"{name} (nothing removed)": float(value) for name, value in own.items()})
    job.finish()


def write_log(offsets, items) -> None:
    os.makedirs("log", exist_ok=True)
    lengths = np.diff(offsets)
    rows = np.column_stack(
        [np.repeat(np.arange(len(lengths)), lengths), items, np.arange(len(items)) - np.repeat(offsets[:-1], lengths)]
    )
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt("log/log.inter", rows, fmt="%d", delimiter="\t", header=header, comments="")


def settings(ask) -> dict:
    return {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": ask["length"],
        "n_layers": ask["blocks"],
        "n_heads": ask["heads"],
        "hidden_size": ask["width"],
        "inner_size": ask["width"],
        "hidden_dropout_prob": ask["dropout"],
        "attn_dropout_prob": ask["dropout"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": ask["batch"],
        "learning_rate": ask["learning_rate"],
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "metrics": ["Hit", "NDCG"],
        "topk": [ask["k"]],
        "valid_metric": f"NDCG@{ask['k']}",
        "seed": ask["seed"],
        "use_gpu": False,
        "show_progress": False,
    }


main()
