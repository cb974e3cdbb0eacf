"""Train and score a click-through model of torch-rechub."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from click_inputs import Arrays, divide, measure, named_columns
from measure import Job
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIN, DCNv2, DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator

SCORED_ROWS = 8_192
"""Rows that are scored at a time, as in the other libraries."""


def build(job: Job, numbers: Any) -> Any:
    settings, sizes, key = job.settings["settings"], job.settings["sizes"], job.settings["model"]
    dim, mlp = settings["embedding_dim"], {"dims": settings["hidden"], "dropout": 0.0}
    if key == "din":
        size = sizes["items"] + 1
        item = SparseFeature("item", vocab_size=size, embed_dim=dim)
        return DIN(
            features=[item],
            history_features=[
                SequenceFeature("history", vocab_size=size, embed_dim=dim, pooling="concat", shared_with="item")
            ],
            target_features=[item],
            mlp_params=mlp,
            attention_mlp_params={"dims": settings["attention_hidden"], "activation": settings["activation"]},
        )
    sparse = [
        SparseFeature(f"c{index}", vocab_size=sizes["categories"] + 1, embed_dim=dim)
        for index in range(sizes["fields"])
    ]
    features = sparse + [DenseFeature(name) for name in numbers]
    if key == "deepfm":
        return DeepFM(deep_features=features, fm_features=sparse, mlp_params=mlp)
    return DCNv2(features=features, n_cross_layers=settings["num_crosses"], mlp_params=mlp, use_low_rank_mixture=False)


def columns(job: Job, arrays: Arrays) -> Arrays:
    numbers, categories = named_columns(job, arrays)
    return categories if "history" in categories else numbers | categories


def main() -> None:
    job = Job()
    settings = job.settings["settings"]
    torch.set_num_threads(job.settings["threads"])
    training, held_out = divide(job)
    x, labels = columns(job, training), training["labels"]
    scored, scored_labels = columns(job, held_out), held_out["labels"]
    model = build(job, named_columns(job, training)[0])
    trainer: Any = None
    loader: Any = None

    def fit() -> None:
        nonlocal trainer, loader
        loader, _, _ = DataGenerator(x, labels).generate_dataloader(
            x_val=x, y_val=labels, x_test=x, y_test=labels, batch_size=settings["batch_size"]
        )
        optimizer = {"lr": settings["learning_rate"]}
        trainer = CTRTrainer(
            model, optimizer_params=optimizer, n_epoch=settings["epochs"], device="cpu", model_path=str(job.folder)
        )
        trainer.fit(loader)

    def predict() -> Any:
        _, _, rows = DataGenerator(x, labels).generate_dataloader(
            x_val=x, y_val=labels, x_test=scored, y_test=scored_labels, batch_size=SCORED_ROWS
        )
        return np.array(trainer.predict(trainer.model, rows))

    measure(job, fit, predict)


main()
