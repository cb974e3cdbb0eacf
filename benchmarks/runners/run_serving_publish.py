"""A publication of a model as its recipe for MovieLens 1M has it, with another catalogue, as it begins."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import torch
from measure import Job

from segue.core import bundle
from segue.core.registry import model_class
from segue.core.types import Dataset, Events, Vocab
from segue.experiment.paths import recipes_folder
from segue.serving.artifacts.artifact import publish


def main() -> None:
    job = Job()
    ask = job.settings
    rng = np.random.default_rng(ask["seed"])
    rows = rng.integers(ask["items"], size=(ask["users"], ask["history"])).astype(np.int32)
    offsets = np.arange(ask["users"] + 1, dtype=np.int64) * ask["history"]
    vocabs = [
        Vocab([f"{sort}{code}" for code in range(count)]) for sort, count in (("u", ask["users"]), ("i", ask["items"]))
    ]
    data = Dataset("log", *vocabs, Events(offsets, rows.ravel()))
    kind = model_class(ask["model"])
    recipe = tomllib.loads((recipes_folder() / "ml-1m" / f"{ask['model']}.toml").read_text())
    torch.manual_seed(ask["seed"])
    model = kind(kind.Config(**recipe["model"]), data.domain)
    model.eval()
    publish(ask["model"], bundle.of(ask["model"], model, data), data.histories, Path(ask["out"]), golden=16)
    job.finish()


main()
