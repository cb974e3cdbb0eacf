"""Measure one model at one size: forward and backward pass of a training step, or recurrent steps."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import torch
from measure import Job

from segue.core.batches import SequenceBatch
from segue.core.config import parse
from segue.core.registry import model_class
from segue.core.types import DataSchema, Dataset, Events, Queries, Vocab
from segue.training.configured_loss import build_loss
from segue.training.train import Training


def build(options: dict) -> torch.nn.Module:
    """Build the model of the job."""
    kind = model_class(options["model"])
    settings = options["settings"] | {"embedding_dim": options["embedding_dim"], "max_length": options["length"]}
    return kind(parse(kind.Config, settings, "model"), DataSchema(1, options["items"]))


def measure_training_step(job: Job, model: torch.nn.Module) -> None:
    """Time forward and backward passes until the time is over, at least two after the first; report the median."""
    options = job.settings
    size = options["batch"], options["length"]
    batch = SequenceBatch(
        torch.randint(options["items"], size),
        torch.full(size[:1], options["length"]),
        torch.zeros(size[0], dtype=torch.int64),
        positions_M=torch.arange(size[0] * size[1]),
        targets_M=torch.randint(options["items"], (size[0] * size[1],)),
    )
    # one event per item: negatives are drawn uniformly
    items = Vocab(lambda: pl.Series("id", [], dtype=pl.String), options["items"])  # ids are never read
    data = Dataset("scaling", Vocab(["u"]), items, Events.of([np.arange(options["items"])]))
    loss = build_loss(Training(loss=options["loss"]), data, "cpu")
    model.train()
    times: list[float] = []
    cpu: list[float] = []
    until = time.perf_counter() + options["seconds"]
    while len(times) < 3 or time.perf_counter() < until:
        model.zero_grad()
        start, used = time.perf_counter(), time.process_time()
        model.objective(batch, loss)[0].backward()
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    median = float(np.median(times[1:]))
    job.record(
        milliseconds=1000 * median,
        cpu_milliseconds=1000 * float(np.median(cpu[1:])),
        positions_per_second=size[0] * size[1] / median,
        repeats=len(times) - 1,
    )


def measure_recurrent_step(job: Job, model: torch.nn.Module) -> None:
    """Measure the CPU time of a step and of encoding the state, after each number of events; median of 200."""
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
            model.encode_state(state)
            times.append((stepped - start, time.process_time() - stepped))
        step, encode = (1000 * float(np.median(part)) for part in zip(*times, strict=True))
        found.append({"events": events, "bytes": state.nbytes, "step_ms": step, "encode_ms": encode})
    job.record(steps=found)


def main() -> None:
    job = Job()
    torch.set_num_threads(job.settings["threads"])
    torch.manual_seed(0)
    model = build(job.settings).eval()
    (measure_recurrent_step if "events" in job.settings else measure_training_step)(job, model)
    job.finish()


main()
