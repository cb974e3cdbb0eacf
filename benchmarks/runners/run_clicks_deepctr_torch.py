"""Train and score a click-through model of DeepCTR-Torch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DCN, DIN, DeepFM
from measure import Job


def build(job: Job, arrays: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    settings, sizes, key = job.settings["settings"], job.settings["sizes"], job.settings["model"]
    dim = settings["embedding_dim"]
    options = {
        "dnn_hidden_units": tuple(settings["hidden"]),
        "l2_reg_embedding": 0.0,
        "dnn_dropout": 0,
        "device": "cpu",
    }
    x: dict[str, Any] = {f"n{index}": arrays["numbers"][:, index] for index in range(sizes["numbers"])}
    if key == "din":
        size = sizes["items"] + 1
        is_known = np.arange(sizes["length"]) < arrays["lengths"][:, None]
        x |= {
            "item": arrays["items"] + 1,
            "hist_item": np.where(is_known, arrays["histories"] + 1, 0),
            "seq_length": arrays["lengths"],
        }
        columns = [
            SparseFeat("item", size, embedding_dim=dim),
            *(DenseFeat(f"n{index}", 1) for index in range(sizes["numbers"])),
            VarLenSparseFeat(
                SparseFeat("hist_item", size, embedding_dim=dim, embedding_name="item"),
                sizes["length"],
                length_name="seq_length",
            ),
        ]
        hidden = tuple(settings["attention_hidden"])
        return DIN(columns, ["item"], att_hidden_size=hidden, att_activation="PReLU", **options), x
    columns = [SparseFeat(f"c{index}", sizes["categories"], embedding_dim=dim) for index in range(sizes["fields"])]
    columns += [DenseFeat(f"n{index}", 1) for index in range(sizes["numbers"])]
    x |= {f"c{index}": arrays["codes"][:, index] for index in range(sizes["fields"])}
    if key == "deepfm":
        return DeepFM(columns, columns, l2_reg_linear=0.0, **options), x
    return DCN(columns, columns, cross_num=settings["num_crosses"], cross_parameterization="matrix",
               l2_reg_linear=0.0, l2_reg_cross=0.0, **options), x  # fmt: skip


def main() -> None:
    job = Job()
    settings = job.settings["settings"]
    torch.set_num_threads(job.settings["threads"])
    arrays = job.arrays()
    model, x = build(job, arrays)
    start, cpu = time.perf_counter(), time.process_time()
    model.compile(torch.optim.Adam(model.parameters(), lr=settings["learning_rate"]), "binary_crossentropy")
    model.fit(x, arrays["labels"], batch_size=settings["batch_size"], epochs=settings["epochs"], verbose=0)
    job.record(fit_seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
    start = time.perf_counter()
    found = model.predict(x, batch_size=8192)
    job.record(score_seconds=time.perf_counter() - start, positive_share=float((found > 0.5).mean()))
    job.finish()


main()
