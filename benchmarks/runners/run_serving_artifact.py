"""Build the artifact of an untrained model: settings of its recipe for MovieLens 1M, a given catalog size."""

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
from segue.serving.artifacts.artifact import build_artifact


def main() -> None:
    job = Job()
    options = job.settings
    rng = np.random.default_rng(options["seed"])
    rows = rng.integers(options["items"], size=(options["users"], options["history"])).astype(np.int32)
    offsets = np.arange(options["users"] + 1, dtype=np.int64) * options["history"]
    vocabs = [
        Vocab([f"{prefix}{code}" for code in range(count)])
        for prefix, count in (("u", options["users"]), ("i", options["items"]))
    ]
    data = Dataset("log", *vocabs, Events(offsets, rows.ravel()))
    kind = model_class(options["model"])
    recipe = tomllib.loads((recipes_folder() / "ml-1m" / f"{options['model']}.toml").read_text())
    torch.manual_seed(options["seed"])
    model = kind(kind.Config(**recipe["model"]), data.schema)
    model.eval()
    trained = bundle.create(options["model"], model, data)
    build_artifact(options["model"], trained, data.histories, Path(options["out"]), n_golden=16)
    job.finish()


main()
