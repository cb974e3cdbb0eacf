"""RecBole's SASRec, GRU4Rec or BERT4Rec with cross-entropy; its own full-sort evaluation of all users.

RecBole makes one sample of each prefix of a history, so a batch of N samples holds N targets; in BERT4Rec each sample
holds as many as are masked. It stores timestamps as 32-bit floats, parses the arguments of the process and writes to
the working directory: it gets each event's position in the history as the timestamp, no arguments, and a temporary
folder. As an epoch takes long, validation for the time to accuracy happens within it; the history is then removed from
the ranking, as for every library.
"""

from __future__ import annotations

import os
import sys
import time
from logging import disable

import numpy as np
import torch
from measure import Job, ThroughputMeter, memory
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

NAMES = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "bert4rec": "BERT4Rec"}

VALIDATE_SECONDS = 20.0
"""Seconds of training between two validations."""


class PartialLoader:
    """The next batches of a loader, each recorded when the following one is requested, that is after its training step.

    Each iteration continues where the last one ended.
    """

    def __init__(self, loader, meter: ThroughputMeter, count: int, seconds: float) -> None:
        self.loader, self.meter, self.count, self.seconds = loader, meter, count, seconds
        self.batches = iter(loader)

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __iter__(self):
        started = time.perf_counter()
        for _ in range(self.count):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            yield batch
            targets = (batch["MASK_INDEX"] > 0).sum() if "MASK_INDEX" in batch.columns else len(batch)
            self.meter.batch(int(targets), len(batch))
            if time.perf_counter() - started > self.seconds:
                return


def recbole_settings(options) -> dict:
    """Translate the settings to RecBole's names."""
    found = {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": options["length"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": options["batch"],
        "learning_rate": options["learning_rate"],
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "metrics": ["Hit", "NDCG"],
        "topk": [options["k"]],
        "valid_metric": f"NDCG@{options['k']}",
        "seed": options["seed"],
        "use_gpu": False,
        "show_progress": False,
    }
    if options["model"] == "gru4rec":
        return found | {
            "embedding_size": options["embedding_dim"],
            "hidden_size": options["inner"],
            "num_layers": options["num_blocks"],
            "dropout_prob": options["dropout"],
        }
    found |= {
        "n_layers": options["num_blocks"],
        "n_heads": options["num_heads"],
        "hidden_size": options["embedding_dim"],
        "inner_size": options["inner"],
        "hidden_dropout_prob": options["dropout"],
        "attn_dropout_prob": options["dropout"],
    }
    if options["model"] == "bert4rec":
        found |= {"mask_ratio": options["mask_prob"], "ft_ratio": options["mask_last_prob"]}
    return found


def write_log(offsets, items) -> None:
    """Write the log in RecBole's format."""
    os.makedirs("log", exist_ok=True)
    lengths = np.diff(offsets)
    rows = np.column_stack(
        [np.repeat(np.arange(len(lengths)), lengths), items, np.arange(len(items)) - np.repeat(offsets[:-1], lengths)]
    )
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt("log/log.inter", rows, fmt="%d", delimiter="\t", header=header, comments="")


def measure_throughput(job, trainer, train, test) -> None:
    """Measure targets and samples per second, and the time of evaluation."""
    options = job.settings
    meter = ThroughputMeter(options["warm_up"])
    trainer._train_epoch(PartialLoader(train, meter, options["batches"], np.inf), 0, show_progress=False)
    job.record(**meter.figures(), epoch_targets=len(train._dataset), train_peak_mib=memory()["peak"])
    start = time.perf_counter()
    own = trainer.evaluate(test, load_best_model=False, show_progress=False)
    job.record(evaluate_seconds=time.perf_counter() - start, evaluated=len(test._dataset))
    job.record(own_metrics={f"{name} (history not removed)": float(value) for name, value in own.items()})
    job.finish()


def measure_time_to_accuracy(job, trainer, train, valid) -> None:
    """Train until the time is over, with regular validation."""
    timer, meter = job.validation_timer(), ThroughputMeter(1)
    loader = PartialLoader(train, meter, len(train), min(VALIDATE_SECONDS, timer.limit))
    while True:
        timer.start()
        trainer._train_epoch(loader, 0, show_progress=False)
        timer.stop()
        if timer.record_lists(top_lists(job, trainer, valid)):
            break
    job.record(points=timer.points, epoch_batches=len(train), batches=len(meter.times))
    job.finish()


@torch.no_grad()
def top_lists(job, trainer, valid):
    """Return the top items outside the history ``(users, k)``."""
    data, (offsets, items) = valid._dataset, job.events()
    users = data.id2token(data.uid_field, np.arange(1, data.user_num)).astype(np.int64)
    code_of = np.full(data.item_num, -1)
    code_of[1:] = data.id2token(data.iid_field, np.arange(1, data.item_num)).astype(np.int64)
    recbole_code_of = np.zeros(code_of.max() + 1, np.int64)
    recbole_code_of[code_of[1:]] = np.arange(1, data.item_num)
    recommended = np.full((len(offsets) - 1, job.settings["k"]), -1)
    trainer.model.eval()
    trainer.tot_item_num = data.item_num
    for valid_batch in valid:
        batch, scores, _, _ = trainer._full_sort_batch_eval(valid_batch)
        batch_users = users[batch[data.uid_field].numpy() - 1]
        rows = np.repeat(np.arange(len(batch_users)), offsets[batch_users + 1] - offsets[batch_users] - 2)
        seen = np.concatenate([recbole_code_of[items[offsets[user] : offsets[user + 1] - 2]] for user in batch_users])
        scores[rows, seen] = -np.inf
        recommended[batch_users] = code_of[scores.topk(job.settings["k"]).indices.numpy()]
    return recommended


def main() -> None:
    job = Job()
    options = job.settings
    sys.argv = sys.argv[:1]
    disable()
    torch.set_num_threads(options["threads"])
    load = torch.load  # recent PyTorch does not load RecBole's pickles by default
    torch.load = lambda *args, **kwargs: load(*args, **{"weights_only": False} | kwargs)
    os.chdir(job.folder)
    write_log(*job.events())
    name = NAMES[options["model"]]
    config = Config(model=name, dataset="log", config_dict=recbole_settings(options))
    init_seed(config["seed"], config["reproducibility"])
    start = time.perf_counter()
    train, valid, test = data_preparation(config, create_dataset(config))
    job.record(prepare_seconds=time.perf_counter() - start)
    model = get_model(name)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    if "minutes" in options:
        measure_time_to_accuracy(job, trainer, train, valid)
    else:
        measure_throughput(job, trainer, train, test)


main()
