"""Fit one of Segue's rating factorizations from events in memory and predict ratings."""

from __future__ import annotations

import time

import numpy as np
from measure import Job

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab


def main() -> None:
    model_type = model_class(Job().settings["model"])
    job = Job()  # after the imports of the model
    options, pairs = job.settings, job.arrays()
    start = time.perf_counter()
    users, items = pairs["train_users"], pairs["train_items"]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=options["users"]))])
    order = np.argsort(users, kind="stable")
    events = Events(offsets, items[order], values=pairs["train_values"][order])
    vocabs = (Vocab([str(code) for code in range(count)]) for count in (options["users"], options["items"]))
    train = Dataset("ratings", *vocabs, events)
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    model = model_type(model_type.Config(**options["settings"]), train.schema)
    model.fit(train, Run(options["seed"]), None)
    job.record(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    predicted = model.predict(pairs["test_users"], pairs["test_items"])
    job.record(predict_seconds=time.perf_counter() - start)
    job.finish(predicted=predicted)


main()
