"""Segue's side of the ratings: one of its factorisations, from events in memory to predicted values."""

from __future__ import annotations

import time

import numpy as np
from measure import Job

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab


def main() -> None:
    kind = model_class(Job().settings["model"])
    job = Job()  # with the model, and torch where it needs it, imported
    ask, pairs = job.settings, job.arrays()
    start = time.perf_counter()
    users, items = pairs["train_users"], pairs["train_items"]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=ask["users"]))])
    order = np.argsort(users, kind="stable")
    events = Events(offsets, items[order], values=pairs["train_values"][order])
    vocabs = (Vocab([str(code) for code in range(count)]) for count in (ask["users"], ask["items"]))
    train = Dataset("ratings", *vocabs, events)
    job.note(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    model = kind(kind.Config(**ask["settings"]), train.domain)
    model.fit(train, Run(ask["seed"]), None)
    job.note(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    predicted = model.predict(pairs["test_users"], pairs["test_items"])
    job.note(predict_seconds=time.perf_counter() - start)
    job.finish(predicted=predicted)


main()
