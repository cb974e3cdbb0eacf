"""Segue's side of the tutorial: the recipe through the public functions, validated after each sweep, then tested."""

from __future__ import annotations

import time

import numpy as np
from measure import Job

from segue.core.registry import model_class
from segue.core.run import Run
from segue.data import load
from segue.data.splits import SplitSettings, split
from segue.evaluation.evaluate import evaluate, validator
from segue.training.train import Training, train


def main() -> None:
    model_class("bpr")
    job = Job()  # with the model imported
    ask, arrays = job.settings, job.arrays()
    start = time.perf_counter()
    parts = split(load(ask["source"]), SplitSettings(**ask["split"]))
    job.note(prepare_seconds=time.perf_counter() - start)
    for part, events in (("train", parts.train.histories), ("test", parts.test.targets)):
        if not np.array_equal(events.items, arrays[f"{part}_items"]):
            raise ValueError(f"{part}: not the events that the other side has")
    start = time.perf_counter()
    validate = validator(parts.valid, f"ndcg@{max(ask['ks'])}")
    model = train("bpr", ask["model"], Training(), parts.train, Run(ask["seed"]), validate)
    job.note(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    found = evaluate(model, parts.test, ks=tuple(ask["ks"]))
    job.note(evaluate_seconds=time.perf_counter() - start)
    job.note(own_metrics={name: estimate.mean for name, estimate in found.summary.items()})
    job.finish(np.where(np.arange(max(ask["ks"])) < found.top.lengths[:, None], found.top.items, -1).astype(np.int64))


main()
