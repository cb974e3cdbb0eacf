"""Segue's BPR from its recipe, validated after each epoch, then tested."""

from __future__ import annotations

import time

import numpy as np
from measure import Job

from segue.core.registry import model_class
from segue.core.run import Run
from segue.data import load
from segue.data.splits import SplitSettings, split
from segue.evaluation.evaluate import evaluate, make_validator
from segue.training.train import Training, train


def main() -> None:
    model_class("bpr")
    job = Job()  # after the model's imports
    options, arrays = job.settings, job.arrays()
    start = time.perf_counter()
    parts = split(load(options["source"]), SplitSettings(**options["split"]))
    job.record(prepare_seconds=time.perf_counter() - start)
    for part, events in (("train", parts.train.histories), ("test", parts.test.targets)):
        if not np.array_equal(events.items, arrays[f"{part}_items"]):
            raise ValueError(f"{part}: differs from the events of the other library")
    start = time.perf_counter()
    validate = make_validator(parts.valid, f"ndcg@{max(options['ks'])}")
    model = train("bpr", options["model"], Training(), parts.train, Run(options["seed"]), validate)
    job.record(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    found = evaluate(model, parts.test, ks=tuple(options["ks"]))
    job.record(evaluate_seconds=time.perf_counter() - start)
    job.record(own_metrics={name: estimate.mean for name, estimate in found.estimates.items()})
    job.finish(
        np.where(np.arange(max(options["ks"])) < found.top.lengths[:, None], found.top.items, -1).astype(np.int64)
    )


main()
