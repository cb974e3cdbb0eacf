"""One model at one size: a training step's forward and backward pass, or steps from a state after some events."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import torch
from measure import Job

from segue.core.batches import SequenceBatch
from segue.core.config import parse
from segue.core.registry import model_class
from segue.core.types import Dataset, Domain, Events, Queries, Vocab
from segue.training.configured_loss import loss_of
from segue.training.train import Training


def built(ask: dict) -> torch.nn.Module:
    kind = model_class(ask["model"])
    settings = ask["settings"] | {"width": ask["width"], "max_length": ask["length"]}
    return kind(parse(kind.Config, settings, "model"), Domain(1, ask["items"]))


def passes(job: Job, model: torch.nn.Module) -> None:
    """Forward and backward until the time is over, at least twice after the first; the middle one counts."""
    ask = job.settings
    size = ask["batch"], ask["length"]
    batch = SequenceBatch(
        torch.randint(ask["items"], size),
        torch.full(size[:1], ask["length"]),
        torch.zeros(size[0], dtype=torch.int64),
        positions_M=torch.arange(size[0] * size[1]),
        targets_M=torch.randint(ask["items"], (size[0] * size[1],)),
    )
    # negatives are drawn uniformly: every item happened once
    items = Vocab(lambda: pl.Series("id", [], dtype=pl.String), ask["items"])  # nobody asks what they are called
    data = Dataset("growth", Vocab(["u"]), items, Events.of([np.arange(ask["items"])]))
    loss = loss_of(Training(loss=ask["loss"]), data, "cpu")
    model.train()
    times: list[float] = []
    processor: list[float] = []
    until = time.perf_counter() + ask["seconds"]
    while len(times) < 3 or time.perf_counter() < until:
        model.zero_grad()
        start, used = time.perf_counter(), time.process_time()
        model.objective(batch, loss)[0].backward()
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    middle = float(np.median(times[1:]))
    job.note(
        milliseconds=1000 * middle,
        processor_milliseconds=1000 * float(np.median(processor[1:])),
        positions_per_second=size[0] * size[1] / middle,
        repeats=len(times) - 1,
    )


def steps(job: Job, model: torch.nn.Module) -> None:
    """Milliseconds of processor of a step and an answer for one history, after so many events; the middle of 200."""
    rng = np.random.default_rng(0)
    found = []
    for events in job.settings["events"]:
        state = model.state(Queries.anonymous(Events.of([rng.integers(job.settings["items"], size=events)])))
        times = []
        for item in rng.integers(job.settings["items"], size=200):
            one = Events.of([[item]])
            start = time.process_time()
            state = model.step(state, one)
            stepped = time.process_time()
            model.answer(state)
            times.append((stepped - start, time.process_time() - stepped))
        step, answer = (1000 * float(np.median(part)) for part in zip(*times, strict=True))
        found.append({"events": events, "bytes": state.nbytes, "step_ms": step, "answer_ms": answer})
    job.note(steps=found)


def main() -> None:
    job = Job()
    torch.set_num_threads(job.settings["threads"])
    torch.manual_seed(0)
    model = built(job.settings).eval()
    (steps if "events" in job.settings else passes)(job, model)
    job.finish()


main()
