"""Training on a CUDA device: SASRec and xLSTM in bfloat16 by length, then two boards from their recipes.

Every history fills its window, and a batch holds the same number of positions at each length. The device's rates are
measured first: a product of bfloat16 matrices, and a copy. A model's share of these rates counts only what a position
requires:

* operations: six for each number in the matrices of the layers (forward once, backward twice); three times ``4 D C``
  in each block for attention to a mean of C positions, or ``4 E P`` for a matrix memory; and ``6 D I`` for the output
  layer
* bytes: the activations saved for the backward pass, written once and read once; and 40 for each parameter in a batch
  (read forward and backward, its gradient written and read, the optimizer's two moments and the parameter itself read
  and written)

A position is an event that is predicted. Shapes: D width, E inner width, P width of a head, I items.
"""

from __future__ import annotations

import sys
from typing import Any, get_args

import numpy as np

from benchmarks.compare_libraries import run_runner
from benchmarks.machine import describe_lines
from segue.core.registry import model_class
from segue.experiment.compare_runs import ensure_run, read_test_results
from segue.experiment.paths import recipes_folder
from segue.experiment.plan import make_plan

__all__ = ["needed", "page", "run", "variants"]

LENGTHS = (50, 200, 1000)
WIDTH, BLOCKS, HEADS, ITEMS = 128, 2, 2, 3706

FULL = {"side": 8192, "copied": 1 << 31, "repeat": 10, "positions": 51_200, "batches": 40, "epochs": 4}
QUICK = {"side": 256, "copied": 1 << 22, "repeat": 2, "positions": 1_000, "batches": 2, "epochs": 1}

KERNEL = "chunkwise_kernel"
"""Setting of xLSTM that selects the mLSTM kernel in training. All but ``native`` belong to ``mlstm_kernels``."""

BOARDS = ("ml-1m-sasrec", "amazon-beauty")
"""Datasets whose recipes are run."""


def variants(device: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return model and settings by row name; xLSTM without sLSTM once per kernel that ``device`` supports."""
    common = {"embedding_dim": WIDTH, "num_blocks": BLOCKS, "num_heads": HEADS, "dropout": 0.2}
    found: dict[str, tuple[str, dict[str, Any]]] = {"SASRec": ("sasrec", common)}
    found["xLSTM"] = "xlstm", common | {KERNEL: "native"}
    for kernel in get_args(model_class("xlstm").Config.model_fields[KERNEL].annotation):
        if kernel == "native" or (kernel != "auto" and device.startswith("cuda")):
            found[f"xLSTM without sLSTM, {kernel}"] = "xlstm", common | {"slstm_at": [], KERNEL: kernel}
    return found


def run(device: str, log: Any, quick: bool = False) -> dict[str, Any]:
    """Measure the device's rates and each model at each length, and train the boards.

    Raises:
        ValueError: the device does not exist.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("gpu: no CUDA device found; --device cpu --quick checks that everything else runs")
    sizes = QUICK if quick else FULL
    no_events = np.zeros(1, np.int64), np.zeros(0, np.int32)
    rates = run_runner("gpu", sys.executable, sizes | {"device": device}, no_events)
    log(f"{rates['name']}: {rates['matmul_tflops']:.1f} TFLOP/s, {rates['copy_gigabytes']:,.0f} GB/s")
    rows = []
    for name, (model, config) in variants(device).items():
        for length in LENGTHS:
            batch = max(1, sizes["positions"] // length)
            job = sizes | {"model": model, "config": config | {"max_length": length}, "device": device}
            job |= {"length": length, "items": ITEMS, "batch": batch, "users": batch * sizes["batches"]}
            log(f"{name}, length {length} ...")
            try:
                found = run_runner("gpu", sys.executable, job, no_events)
            except RuntimeError as error:  # such as kernels that the device does not support
                rows.append({"name": name, "length": length, "failed": str(error).splitlines()[-1]})
                continue
            rows.append({"name": name, "length": length, "batch": batch} | found | shares(job, found, rates))
    return {"device": device, "rates": rates, "rows": rows, "boards": boards(device, log, quick)}


def needed(job: dict[str, Any], found: dict[str, Any]) -> tuple[float, float]:
    """Count the operations and bytes that a position requires."""
    config = job["config"]
    width, blocks = config["embedding_dim"], config["num_blocks"]
    if job["model"] == "xlstm":
        settings = model_class("xlstm").Config(**config)
        inner = width * settings.proj_factor
        mixing = (blocks - len(settings.slstm_at)) * 4 * inner * inner / settings.num_heads
    else:
        mixing = blocks * 4 * width * (job["length"] + 1) / 2
    operations = 6.0 * found["layer_parameters"] + 3 * mixing + 6.0 * width * job["items"]
    return operations, 2 * found["saved_bytes"] + 40 * found["parameters"] / found["positions"]


def shares(job: dict[str, Any], found: dict[str, Any], rates: dict[str, Any]) -> dict[str, float]:
    """Compute the shares of the device's rates that the positions per second use."""
    operations, moved = needed(job, found)
    rate = found["positions_per_second"]
    return {
        "matmul_share": rate * operations / rates["matmul_tflops"] / 1e12,
        "bandwidth_share": rate * moved / rates["copy_gigabytes"] / 1e9,
    }


def boards(device: str, log: Any, quick: bool) -> list[dict[str, Any]]:
    """Train every recipe of the boards; SASRec and xLSTM with their defaults where there are no recipes."""
    found = []
    for data in ("simulated?users=80&items=40",) if quick else BOARDS:
        models = sorted(path.stem for path in (recipes_folder() / data).glob("*.toml")) or ["sasrec", "xlstm"]
        for model in models:
            changed = [f"run.device={device}", *(["epochs=1"] if quick else [])]
            folder = ensure_run(make_plan({"model": model, "data": data}, changed), log, read_test=True)
            found.append({"data": data, "model": model, "changed": changed, "record": read_test_results(folder)[0]})
    return found


def page(found: dict[str, Any]) -> str:
    """Format the models by length, then the boards."""
    rates = found["rates"]
    lines = [
        f"# Training on {rates['name']}",
        "",
        f"bfloat16, width {WIDTH}, {BLOCKS} blocks, {HEADS} heads, full cross-entropy over {ITEMS:,} items, full "
        f"windows. The device: {rates['matmul_tflops']:,.1f} TFLOP/s in a product of bfloat16 matrices, "
        f"{rates['copy_gigabytes']:,.0f} GB/s in a copy.",
        "",
        "| model | length | batch | positions/s | peak, MiB | share of matrix rate | share of copy rate |",
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
    lines += ["", "| data | model | test HR@10 | test NDCG@10 | training, s |", "| --- | --- | ---: | ---: | ---: |"]
    for board in found["boards"]:
        record = board["record"]
        lines.append(
            f"| {board['data']} | {board['model']} | {record['hit_rate@10']:.4f} | {record['ndcg@10']:.4f} | "
            f"{record['cost']['seconds']['train']:,.0f} |"
        )
    lines += [
        "",
        "Each model ran in a process of its own; the recipes are unchanged; 1 seed. Each run read the test part once.",
        "",
        *describe_lines(found["machine"]),
        "",
    ]
    return "\n".join(lines)
