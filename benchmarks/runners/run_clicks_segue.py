"""Train and score a click-through model of Segue."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from click_inputs import Arrays, divide, measure
from measure import Job

from segue.core.events import Events
from segue.core.examples.fields import N_RESERVED, Examples, Field
from segue.core.registry import model_class
from segue.core.run import Run
from segue.training.settings import Training
from segue.training.train import train


def read(job: Job, arrays: Arrays) -> Examples:
    sizes = job.settings["sizes"]
    numbers, labels = arrays["numbers"], arrays["labels"]
    fields = [Field(f"c{index}", "category", sizes["categories"] + N_RESERVED) for index in range(sizes["fields"])]
    of_numbers = [Field(f"n{index}", "number") for index in range(sizes["numbers"])]
    codes, lists = arrays["codes"] + N_RESERVED, {}
    if job.settings["model"] == "din":
        size = sizes["items"] + N_RESERVED
        fields = [Field("item", "category", size), Field("history", "sequence", size, shares="item")]
        codes = (arrays["items"] + N_RESERVED)[:, None]
        is_known = np.arange(sizes["length"]) < arrays["lengths"][:, None]
        offsets = np.concatenate([[0], np.cumsum(arrays["lengths"])])
        lists = {"history": Events(offsets, (arrays["histories"] + N_RESERVED)[is_known])}
    return Examples((*fields, *of_numbers), codes, numbers, lists, labels=labels)


def main() -> None:
    job = Job()
    settings: dict[str, Any] = job.settings["settings"]
    torch.set_num_threads(job.settings["threads"])
    training_arrays, held_out_arrays = divide(job)
    examples, held_out, key = read(job, training_arrays), read(job, held_out_arrays), job.settings["model"]
    wanted = {**settings, "dropout": 0.0, "bottom": (64,)}
    config = {name: value for name, value in wanted.items() if name in model_class(key).Config.model_fields}
    names = ("batch_size", "epochs", "learning_rate")
    training = Training(metric="auc", betas=(0.9, 0.999), **{name: settings[name] for name in names})
    model: Any = None

    def fit() -> None:
        nonlocal model
        model = train(key, config, training, examples, Run(0))

    measure(job, fit, lambda: 1 / (1 + np.exp(-model.predict_logits(held_out))))


main()
