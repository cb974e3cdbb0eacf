"""RecBole's side: SASRec, GRU4Rec or BERT4Rec with cross-entropy; its own full-sort evaluation of all users.

RecBole makes one sample of each prefix of a history, so a batch of N samples holds N targets; in BERT4Rec each sample
holds as many as are hidden in it. It keeps times as 32-bit floats, parses the host's arguments and writes folders
where it stands: it is given each event's place in the history as the time, an empty argument list and a folder of its
own. An epoch takes so long that a race stops for validation within it; the history is then taken out of its ranking,
as on every side.
"""

from __future__ import annotations

import os
import sys
import time
from logging import disable

import numpy as np
import torch
from measure import Clock, Job, memory
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

NAMES = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "bert4rec": "BERT4Rec"}

BETWEEN = 20.0
"""Seconds of training between two validations of a race."""


class Some:
    """Some batches of a loader, each counted when the next one is asked for: by then it is learned.

    The next time it goes on where it was.
    """

    def __init__(self, loader, clock: Clock, count: int, seconds: float) -> None:
        self.loader, self.clock, self.count, self.seconds = loader, clock, count, seconds
        self.batches = iter(loader)

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __iter__(self):
        began = time.perf_counter()
        for _ in range(self.count):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            yield batch
            targets = (batch["MASK_INDEX"] > 0).sum() if "MASK_INDEX" in batch.columns else len(batch)
            self.clock.batch(int(targets), len(batch))
            if time.perf_counter() - began > self.seconds:
                return


def settings(ask) -> dict:
    """In RecBole's names."""
    found = {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": ask["length"],
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
    if ask["model"] == "gru4rec":
        return found | {
            "embedding_size": ask["width"],
            "hidden_size": ask["inner"],
            "num_layers": ask["blocks"],
            "dropout_prob": ask["dropout"],
        }
    found |= {
        "n_layers": ask["blocks"],
        "n_heads": ask["heads"],
        "hidden_size": ask["width"],
        "inner_size": ask["inner"],
        "hidden_dropout_prob": ask["dropout"],
        "attn_dropout_prob": ask["dropout"],
    }
    if ask["model"] == "bert4rec":
        found |= {"mask_ratio": ask["hidden_share"], "ft_ratio": ask["last_share"]}
    return found


def write_log(offsets, items) -> None:
    """The log in RecBole's own format."""
    os.makedirs("log", exist_ok=True)
    lengths = np.diff(offsets)
    rows = np.column_stack(
        [np.repeat(np.arange(len(lengths)), lengths), items, np.arange(len(items)) - np.repeat(offsets[:-1], lengths)]
    )
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt("log/log.inter", rows, fmt="%d", delimiter="\t", header=header, comments="")


def rate(job, trainer, train, test) -> None:
    """Targets and samples per second, and the time of evaluation."""
    ask = job.settings
    clock = Clock(ask["warm_up"])
    trainer._train_epoch(Some(train, clock, ask["batches"], np.inf), 0, show_progress=False)
    job.note(**clock.figures(), epoch_targets=len(train._dataset), train_peak_mib=memory()["peak"])
    start = time.perf_counter()
    own = trainer.evaluate(test, load_best_model=False, show_progress=False)
    job.note(evaluate_seconds=time.perf_counter() - start, evaluated=len(test._dataset))
    job.note(own_metrics={f"{name} (nothing removed)": float(value) for name, value in own.items()})
    job.finish()


def race(job, trainer, train, valid) -> None:
    """Train until the minutes are over, with lists for validation now and then."""
    timed, clock = job.race(), Clock(1)
    some = Some(train, clock, len(train), min(BETWEEN, timed.limit))
    while True:
        timed.start()
        trainer._train_epoch(some, 0, show_progress=False)
        timed.stop()
        if timed.judge(lists(job, trainer, valid)):
            break
    job.note(points=timed.points, epoch_batches=len(train), batches=len(clock.times))
    job.finish()


@torch.no_grad()
def lists(job, trainer, valid):
    """``(users, k)`` the best items that are not in the history."""
    data, (offsets, items) = valid._dataset, job.events()
    users = data.id2token(data.uid_field, np.arange(1, data.user_num)).astype(np.int64)
    code_of = np.full(data.item_num, -1)
    code_of[1:] = data.id2token(data.iid_field, np.arange(1, data.item_num)).astype(np.int64)
    own_of = np.zeros(code_of.max() + 1, np.int64)
    own_of[code_of[1:]] = np.arange(1, data.item_num)
    recommended = np.full((len(offsets) - 1, job.settings["k"]), -1)
    trainer.model.eval()
    trainer.tot_item_num = data.item_num
    for batch in valid:
        asked, scores, _, _ = trainer._full_sort_batch_eval(batch)
        asking = users[asked[data.uid_field].numpy() - 1]
        rows = np.repeat(np.arange(len(asking)), offsets[asking + 1] - offsets[asking] - 2)
        seen = np.concatenate([own_of[items[offsets[user] : offsets[user + 1] - 2]] for user in asking])
        scores[rows, seen] = -np.inf
        recommended[asking] = code_of[scores.topk(job.settings["k"]).indices.numpy()]
    return recommended


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
    name = NAMES[ask["model"]]
    config = Config(model=name, dataset="log", config_dict=settings(ask))
    init_seed(config["seed"], config["reproducibility"])
    start = time.perf_counter()
    train, valid, test = data_preparation(config, create_dataset(config))
    job.note(prepare_seconds=time.perf_counter() - start)
    model = get_model(name)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    if "minutes" in ask:
        race(job, trainer, train, valid)
    else:
        rate(job, trainer, train, test)


main()
