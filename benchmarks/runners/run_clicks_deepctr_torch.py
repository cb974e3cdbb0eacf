"""Train and score a click-through model of DeepCTR-Torch."""

from __future__ import annotations

from typing import Any

import torch
from click_inputs import Arrays, divide, measure, named_columns
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DCN, DIN, DeepFM
from measure import Job


def build(job: Job, numbers: Any) -> Any:
    settings, sizes, key = job.settings["settings"], job.settings["sizes"], job.settings["model"]
    dim = settings["embedding_dim"]
    options = {
        "dnn_hidden_units": tuple(settings["hidden"]),
        "dnn_use_bn": settings["batch_norm"],
        "l2_reg_embedding": 0.0,
        "dnn_dropout": 0,
        "device": "cpu",
    }
    dense = [DenseFeat(name, 1) for name in numbers]
    if key == "din":
        size, hidden = sizes["items"] + 1, tuple(settings["attention_hidden"])
        history = SparseFeat("hist_item", size, embedding_dim=dim, embedding_name="item")
        columns = [
            SparseFeat("item", size, embedding_dim=dim),
            *dense,
            VarLenSparseFeat(history, sizes["length"], length_name="seq_length"),
        ]
        activation = settings["activation"]  # of the attention; that of the tower cannot be Dice
        return DIN(columns, ["item"], att_hidden_size=hidden, att_activation=activation, **options)
    columns = [SparseFeat(f"c{index}", sizes["categories"], embedding_dim=dim) for index in range(sizes["fields"])]
    columns += dense
    if key == "deepfm":
        return DeepFM(columns, columns, l2_reg_linear=0.0, **options)
    return DCN(columns, columns, cross_num=settings["num_crosses"], cross_parameterization="matrix",
               l2_reg_linear=0.0, l2_reg_cross=0.0, **options)  # fmt: skip


def columns(job: Job, arrays: Arrays) -> Arrays:
    numbers, categories = named_columns(job, arrays)
    if "history" in categories:
        categories |= {"hist_item": categories.pop("history"), "seq_length": arrays["lengths"]}
    return numbers | categories


def main() -> None:
    job = Job()
    settings = job.settings["settings"]
    torch.set_num_threads(job.settings["threads"])
    training, held_out = divide(job)
    x, scored = columns(job, training), columns(job, held_out)
    model = build(job, named_columns(job, training)[0])

    def fit() -> None:
        model.compile(torch.optim.Adam(model.parameters(), lr=settings["learning_rate"]), "binary_crossentropy")
        model.fit(x, training["labels"], batch_size=settings["batch_size"], epochs=settings["epochs"], verbose=0)

    measure(job, fit, lambda: model.predict(scored, batch_size=8192))


main()
