"""A CUDA device: how fast SASRec and xLSTM train in bfloat16 and what they leave of it, then two boards from recipes.

Every history fills its window and a batch holds the same number of positions at each length. The device's own rates
are measured first: a product of bfloat16 matrices, and a copy. A model's share of them is of what a position cannot do
without:

* operations: six for each number in the matrices of the layers (forward once, backward twice); three times ``4 D C``
  in each block for attention to a mean of C positions, or ``4 E P`` for a matrix memory; and ``6 D I`` for the head
* bytes: what is kept for the backward pass, written once and read once; and 40 for each parameter in a batch (read
  forward and backward, its gradient written and read, the optimiser's two means and itself read and written)

A position is an event that is predicted. Shapes: D width, E inner width, P width of a head, I items.
"""

from __future__ import annotations

import sys
from typing import Any, get_args

import numpy as np

from benchmarks.compare_libraries import side
from benchmarks.machine import told
from segue.core.files import read_json
from segue.core.registry import model_class
from segue.experiment.compare import run_of
from segue.experiment.plan import plan
from segue.experiment.recipe import recipes_folder
from segue.experiment.run_folder import METRICS

__all__ = ["needed", "page", "run", "variants"]

LENGTHS = (50, 200, 1000)
WIDTH, BLOCKS, HEADS, ITEMS = 128, 2, 2, 3706

FULL = {"side": 8192, "copied": 1 << 31, "repeat": 10, "positions": 51_200, "batches": 40, "epochs": 4}
QUICK = {"side": 256, "copied": 1 << 22, "repeat": 2, "positions": 1_000, "batches": 2, "epochs": 1}

KERNEL = "chunkwise_kernel"
"""Setting of xLSTM: what computes mLSTM in training. All but ``native`` are of the package ``mlstm_kernels``."""

BOARDS = ("ml-1m-sasrec", "amazon-beauty")
"""Board 1 and Board 4: data whose recipes are run."""


def variants(device: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Model and settings by the name in the table; xLSTM without sLSTM once for each kernel that runs on ``device``."""
    common = {"width": WIDTH, "blocks": BLOCKS, "heads": HEADS, "dropout": 0.2}
    found: dict[str, tuple[str, dict[str, Any]]] = {"SASRec": ("sasrec", common)}
    found["xLSTM"] = "xlstm", common | {KERNEL: "native"}
    for kernel in get_args(model_class("xlstm").Config.model_fields[KERNEL].annotation):
        if kernel == "native" or (kernel != "auto" and device.startswith("cuda")):
            found[f"xLSTM without sLSTM, {kernel}"] = "xlstm", common | {"slstm_at": [], KERNEL: kernel}
    return found


def run(device: str, say: Any, quick: bool = False) -> dict[str, Any]:
    """The device's rates, each model at each length, and the records of the boards.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("gpu: there is no CUDA device here; with --device cpu --quick one can see that the rest runs")
    amount = QUICK if quick else FULL
    nothing = np.zeros(1, np.int64), np.zeros(0, np.int32)
    rates = side("gpu", sys.executable, amount | {"device": device}, nothing)
    say(f"{rates['name']}: {rates['matmul_tflops']:.1f} TFLOP/s, {rates['copy_gigabytes']:,.0f} GB/s")
    rows = []
    for name, (model, config) in variants(device).items():
        for length in LENGTHS:
            batch = max(1, amount["positions"] // length)
            ask = amount | {"model": model, "config": config | {"max_length": length}, "device": device}
            ask |= {"length": length, "items": ITEMS, "batch": batch, "users": batch * amount["batches"]}
            say(f"{name}, length {length} ...")
            try:
                found = side("gpu", sys.executable, ask, nothing)
            except RuntimeError as error:  # such as kernels that this device cannot run
                rows.append({"name": name, "length": length, "failed": str(error).splitlines()[-1]})
                continue
            rows.append({"name": name, "length": length, "batch": batch} | found | shares(ask, found, rates))
    return {"device": device, "rates": rates, "rows": rows, "boards": boards(device, say, quick)}


def needed(ask: dict[str, Any], found: dict[str, Any]) -> tuple[float, float]:
    """Operations and bytes that a position cannot do without."""
    config = ask["config"]
    width, blocks = config["width"], config["blocks"]
    if ask["model"] == "xlstm":
        settings = model_class("xlstm").Config(**config)
        inner = width * settings.proj_factor
        mixing = (blocks - len(settings.slstm_at)) * 4 * inner * inner / settings.heads
    else:
        mixing = blocks * 4 * width * (ask["length"] + 1) / 2
    operations = 6.0 * found["layer_parameters"] + 3 * mixing + 6.0 * width * ask["items"]
    return operations, 2 * found["kept_bytes"] + 40 * found["parameters"] / found["positions"]


def shares(ask: dict[str, Any], found: dict[str, Any], rates: dict[str, Any]) -> dict[str, float]:
    """Of the device's rates, what the positions per second amount to."""
    operations, moved = needed(ask, found)
    pace = found["positions_per_second"]
    return {
        "matmul_share": pace * operations / rates["matmul_tflops"] / 1e12,
        "bandwidth_share": pace * moved / rates["copy_gigabytes"] / 1e9,
    }


def boards(device: str, say: Any, quick: bool) -> list[dict[str, Any]]:
    """Whole runs of every recipe of the boards, SASRec and xLSTM with their defaults where there is none."""
    found = []
    for data in ("simulated?users=80&items=40",) if quick else BOARDS:
        models = sorted(path.stem for path in (recipes_folder() / data).glob("*.toml")) or ["sasrec", "xlstm"]
        for model in models:
            changed = [f"run.device={device}", *(["epochs=1"] if quick else [])]
            folder = run_of(plan({"model": model, "data": data}, changed), say)
            record = read_json(folder / METRICS)
            found.append({"data": data, "model": model, "changed": changed, "record": record})
    return found


def page(found: dict[str, Any]) -> str:
    """Markdown: the models by length, then the boards."""
    rates = found["rates"]
    lines = [
        f"# Training on {rates['name']}",
        "",
        f"bfloat16, width {WIDTH}, {BLOCKS} blocks, {HEADS} heads, full cross-entropy over {ITEMS:,} items, full "
        f"windows. The device: {rates['matmul_tflops']:,.1f} TFLOP/s in a product of bfloat16 matrices, "
        f"{rates['copy_gigabytes']:,.0f} GB/s in a copy.",
        "",
        "| model | length | batch | positions/s | peak, MiB | of the matrix rate | of the copy rate |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        if "failed" in row:
            lines.append(f"| {row['name']} | {row['length']} | | failed: {row['failed']} | | | |")
            continue
        lines.append(
            f"| {row['name']} | {row['length']} | {row['batch']} | {row['positions_per_second']:,.0f} | "
            f"{row['peak_device_mib']:,.0f} | {row['matmul_share']:.1%} | {row['bandwidth_share']:.1%} |"
        )
    lines += ["", "| data | model | HR@10 | NDCG@10 | training, s |", "| --- | --- | ---: | ---: | ---: |"]
    for board in found["boards"]:
        record = board["record"]
        lines.append(
            f"| {board['data']} | {board['model']} | {record['hit_rate@10']:.4f} | {record['ndcg@10']:.4f} | "
            f"{record['cost']['seconds']['train']:,.0f} |"
        )
    lines += ["", "Each model ran in a process of its own; recipes as they are.", "", *told(found["machine"]), ""]
    return "\n".join(lines)
