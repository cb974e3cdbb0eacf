"""One model trained in bfloat16 on histories that fill their windows, or the rates of the device itself.

Positions per second are those of the training loop, so that making batches and moving them count.
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
"""Epochs that do not count: kernels are chosen and compiled in them."""


class Epochs:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: list[Mapping[str, float]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take one epoch."""
        self.logged.append(values)


def fastest(work: Callable[[], object], device: str, repeat: int) -> float:
    """Seconds of the fastest of some repetitions."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    times = []
    for _ in range(repeat):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def rates(job: Job) -> None:
    """The device's own rates: a product of square bfloat16 matrices, and a copy, which reads and writes."""
    ask = job.settings
    device, side, size = ask["device"], ask["side"], ask["copied"]
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.zeros(size, device=device, dtype=torch.uint8) for _ in range(2))
    job.note(
        name=torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU",
        matmul_tflops=2 * side**3 / fastest(lambda: a @ b, device, ask["repeat"]) / 1e12,
        copy_gigabytes=2 * size / fastest(lambda: target.copy_(source), device, ask["repeat"]) / 1e9,
    )


def log(ask: dict[str, Any]) -> Dataset:
    """Histories of ``length`` events, so that every window is full."""
    users, items, length = ask["users"], ask["items"], ask["length"]
    drawn = np.random.default_rng(0).integers(0, items, (users, length), dtype=np.int32)
    names = [Vocab([str(number) for number in range(count)]) for count in (users, items)]
    return Dataset("random", *names, Events(np.arange(users + 1) * length, drawn.ravel()))


@contextmanager
def kept(model: Network) -> Iterator[dict[int, int]]:
    """Bytes by address of what is kept for the backward pass, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield found


def pace(job: Job) -> None:
    """Positions per second, peak memory, and what a position needs."""
    ask = job.settings
    device, data, epochs = ask["device"], log(ask), Epochs()
    training = Training(epochs=WARM_UP + ask["epochs"], batch_size=ask["batch"], precision="bfloat16")
    model = train(ask["model"], ask["config"], training, data, Run(0, device=device, trackers=(epochs,)))
    assert isinstance(model, Network)
    on_cuda = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_cuda else memory()["peak"]
    batch = next(model.batches(data, ask["batch"], np.random.default_rng(0))[1])
    model.train()
    with torch.autocast(torch.device(device).type, torch.bfloat16), kept(model) as found:
        positions = model.objective(batch, cross_entropy)[1]
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1}
    job.note(
        positions_per_second=float(np.median([one["targets_per_second"] for one in epochs.logged[WARM_UP:]])),
        peak_device_mib=peak,
        kept_bytes=sum(found.values()) / positions,
        positions=positions,
        parameters=sum(p.numel() for p in model.parameters()),
        layer_parameters=sum(n for name, n in matrices.items() if name not in ("items.weight", "positions")),
    )


def main() -> None:
    job = Job()
    (pace if "model" in job.settings else rates)(job)
    job.finish()


main()
