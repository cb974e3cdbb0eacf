"""Train one model in bfloat16 on histories that fill their windows, or measure the rates of the device.

Positions per second are those of the training loop, which include making and moving batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from measure import Job, memory

from segue.core.network import Network
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab
from segue.nn.losses.losses import cross_entropy
from segue.training.train import Training, train

WARM_UP = 2
"""Epochs that are not measured, in which kernels are selected and compiled."""


class EpochLog:
    """A tracker that stores the values of every epoch."""

    def __init__(self) -> None:
        self.logged: list[Mapping[str, float]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Store one epoch."""
        self.logged.append(values)


def fastest(work: Callable[[], object], device: str, repeat: int) -> float:
    """Return the seconds of the fastest of ``repeat`` calls."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    times = []
    for _ in range(repeat):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_device(job: Job) -> None:
    """Measure the device's rates: a product of square bfloat16 matrices, and a copy (read and write)."""
    options = job.settings
    device, side, size = options["device"], options["side"], options["copied"]
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.zeros(size, device=device, dtype=torch.uint8) for _ in range(2))
    job.record(
        name=torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU",
        matmul_tflops=2 * side**3 / fastest(lambda: a @ b, device, options["repeat"]) / 1e12,
        copy_gigabytes=2 * size / fastest(lambda: target.copy_(source), device, options["repeat"]) / 1e9,
    )


def make_log(options: dict[str, Any]) -> Dataset:
    """Draw histories of ``length`` events, so that every window is full."""
    users, items, length = options["users"], options["items"], options["length"]
    drawn = np.random.default_rng(0).integers(0, items, (users, length), dtype=np.int32)
    names = [Vocab([str(number) for number in range(count)]) for count in (users, items)]
    return Dataset("random", *names, Events(np.arange(users + 1) * length, drawn.ravel()))


@contextmanager
def saved_tensors(model: Network) -> Iterator[dict[int, int]]:
    """Collect the bytes, by address, of the tensors saved for the backward pass, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}
    found: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        yield found


def measure_model(job: Job) -> None:
    """Measure positions per second, peak memory, and the numbers behind the requirements of a position."""
    options = job.settings
    device, data, epochs = options["device"], make_log(options), EpochLog()
    training = Training(epochs=WARM_UP + options["epochs"], batch_size=options["batch"], precision="bfloat16")
    model = train(options["model"], options["config"], training, data, Run(0, device=device, trackers=(epochs,)))
    assert isinstance(model, Network)
    on_cuda = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_cuda else memory()["peak"]
    batch = next(model.batches(data, options["batch"], np.random.default_rng(0))[1])
    model.train()
    with torch.autocast(torch.device(device).type, torch.bfloat16), saved_tensors(model) as found:
        positions = model.objective(batch, cross_entropy)[1]
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1}
    job.record(
        positions_per_second=float(np.median([one["targets_per_second"] for one in epochs.logged[WARM_UP:]])),
        peak_device_mib=peak,
        saved_bytes=sum(found.values()) / positions,
        positions=positions,
        parameters=sum(p.numel() for p in model.parameters()),
        layer_parameters=sum(n for name, n in matrices.items() if name not in ("items.weight", "positions")),
    )


def main() -> None:
    job = Job()
    (measure_model if "model" in job.settings else measure_device)(job)
    job.finish()


main()
