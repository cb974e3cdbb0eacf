"""Speed of click-through models, compared with torch-rechub and DeepCTR-Torch; and latency of 1,000 candidates.

All libraries train the same architecture on the same codes: equal embeddings, layers, batches and epochs, the optimizer
Adam, one process each, in turns. Each is used through the trainer that its documentation shows. ``small`` has few
categories, as Frappe; ``large`` has a million, so that updating all embeddings in each step is most of the work.

The second table is the service: requests over HTTP within the process to a ``ranker`` that orders 1,000 candidates with
30 fields.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import interpreter
from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.speed_ratios import estimate_ratio, format_ratio
from benchmarks.subprocess_runner import Arrays, run_alternating
from benchmarks.table_rows import head_lines, row_line

__all__ = ["MODELS", "examples", "page", "ranker_world", "run"]

ROUNDS = 3
MODELS = ("deepfm", "dcn_v2", "dlrm", "din")
LIBRARIES = {"Segue": "segue", "torch-rechub": "torch_rechub", "DeepCTR-Torch": "deepctr_torch"}
LACKS = {"torch-rechub": ("dlrm",), "DeepCTR-Torch": ("dlrm",)}
"""Models that a library does not have."""

SETTINGS: dict[str, Any] = {
    "embedding_dim": 16,
    "hidden": [256, 128],
    "batch_size": 2048,
    "epochs": 2,
    "learning_rate": 1e-3,
    "num_crosses": 3,
    "attention_hidden": [64, 16],
}
SIZES: dict[str, dict[str, int]] = {
    "small": {"examples": 200_000, "fields": 26, "categories": 200, "numbers": 4, "items": 4_000, "length": 20},
    "large": {"examples": 200_000, "fields": 26, "categories": 40_000, "numbers": 4, "items": 1_000_000, "length": 20},
}
QUICK_SIZES = {"small": {"examples": 4_000, "fields": 4, "categories": 20, "numbers": 2, "items": 50, "length": 5}}
AIM = 5.0
"""Ratio of training speeds that is aimed for."""

N_CANDIDATES, N_FEATURES, N_REQUESTS, MAX_MS = 1_000, 27, 300, 3.0
"""Candidates and features of users and items in the service, besides user, item and history; requests; the aim."""
SERVED = ("deepfm", "dcn_v2", "dlrm", "gradient_boosting")


def run(options: Any) -> dict[str, Any]:
    """Measure training and scoring in all libraries, then the service."""
    for library in ("torch-rechub", "deepctr-torch"):
        interpreter(library, install=True)
    settings = SETTINGS | ({"epochs": 1, "batch_size": 256} if options.quick else {})
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "settings": settings, "threads": options.threads}
    found["tables"] = {}
    for size, sizes in (QUICK_SIZES if options.quick else SIZES).items():
        arrays = examples(sizes, options.seed)
        jobs = [
            (
                f"{model}, {name}",
                library,
                {"part": "clicks", "model": model, "threads": options.threads, "settings": settings, "sizes": sizes},
            )
            for model in MODELS
            for name, library in LIBRARIES.items()
            if model not in LACKS.get(name, ())
        ]
        runs = run_alternating(1 if options.quick else ROUNDS, jobs, arrays)
        found["tables"][size] = summarize({name: figures for name, (figures, _) in runs.items()}, sizes, settings)
    found["service"] = {key: measure_service(key, options.quick) for key in SERVED}
    return found


def examples(sizes: dict[str, int], seed: int = 0) -> Arrays:
    """Draw codes with frequencies as of categories in practice (Zipf), numbers, histories and labels."""
    rng = np.random.default_rng(seed)
    count, width = sizes["examples"], sizes["categories"]

    def draw(shape: Any, n: int) -> Any:
        return np.minimum(np.floor(n ** rng.random(shape)), n - 1).astype(np.int32)

    codes, items = draw((count, sizes["fields"]), width), draw(count, sizes["items"])
    histories = draw((count, sizes["length"]), sizes["items"])
    lengths = rng.integers(1, sizes["length"] + 1, count)
    numbers = rng.normal(size=(count, sizes["numbers"])).astype(np.float32)
    logits = (codes[:, 0] % 3 - 1) + (codes[:, 1] % 2) * numbers[:, 0] + (items % 2) - 0.5
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return {
        "codes": codes,
        "numbers": numbers,
        "labels": labels,
        "items": items,
        "histories": histories,
        "lengths": lengths.astype(np.int32),
    }


def summarize(runs: dict[str, Any], sizes: dict[str, int], settings: dict[str, Any]) -> dict[str, Any]:
    """Compute examples per second, and ratios to the other libraries in wall and processor time."""
    rows = {}
    for name, figures in runs.items():
        model = name.partition(", ")[0]
        speed = sizes["examples"] * settings["epochs"] / figures["fit_seconds"]
        row = figures | {
            "examples_per_second": speed,
            "scored_per_second": sizes["examples"] / figures["score_seconds"],
        }
        own = runs.get(f"{model}, Segue")
        if own is not None and own is not figures:
            row["ratio"] = estimate_ratio(figures["all_fit_seconds"], own["all_fit_seconds"])
            row["cpu_ratio"] = estimate_ratio(figures["all_cpu_seconds"], own["all_cpu_seconds"])
            row["score_ratio"] = figures["score_seconds"] / own["score_seconds"]
        rows[name] = row
    return {"sizes": sizes, "rows": rows}


def ranker_world(key: str, quick: bool = False) -> Any:
    """Train a ``ranker`` with 30 fields; return the model, its data and the folder of its artifact."""
    import polars as pl

    from segue.core import bundle
    from segue.core.run import Run
    from segue.core.types import Dataset, Events, Vocab
    from segue.serving.artifacts.artifact import build_artifact
    from segue.training.settings import Training
    from segue.training.train import train

    rng = np.random.default_rng(0)
    n_users, n_items = (40, 120) if quick else (500, 5_000)

    def features(count: int, prefix: str, n_features: int) -> pl.LazyFrame:
        columns: dict[str, Any] = {"id": [f"{prefix}{code}" for code in range(count)]}
        for index in range(n_features):
            codes = rng.integers(5 + index, size=count)
            columns[f"{prefix}_feature_{index}"] = (
                codes / 7 if index % 5 == 4 else [f"{prefix}{index}:{code}" for code in codes.tolist()]
            )
        return pl.DataFrame(columns).lazy()

    rows = [rng.integers(n_items, size=30).tolist() for _ in range(n_users)]
    data = Dataset(
        "world",
        Vocab([f"u{code}" for code in range(n_users)]),
        Vocab([f"i{code}" for code in range(n_items)]),
        Events.of(rows),
        item_features=features(n_items, "i", N_FEATURES - 12),
        user_features=features(n_users, "u", 12),
    )
    settings = {"iterations": 100, "metric": "ndcg@10"} if key == "gradient_boosting" else {"epochs": 1}
    config: dict[str, Any] = {"retriever": "popular", "ranker": key, "settings": {key: settings}}
    config |= {"num_candidates": N_CANDIDATES, "max_queries": 100}
    model: Any = train("ranker", config, Training(), data, Run(0))
    folder = Path(tempfile.mkdtemp(prefix="segue-bench-")) / "artifact"
    build_artifact("ranker", bundle.create("ranker", model, data), data.histories, folder, n_golden=8)
    return model, data, folder


def measure_service(key: str, quick: bool = False) -> dict[str, float]:
    """Return the latency of requests over HTTP within the process, and their processor time, in milliseconds."""
    import asyncio

    import httpx
    import torch

    from segue.serving.app import create_app
    from segue.serving.server import build_service
    from segue.serving.settings import ServingSettings

    torch.set_num_threads(1)
    model, data, folder = ranker_world(key, quick)
    service = build_service([folder], "memory:", None, ServingSettings(deadline_ms=60_000))
    app = create_app(service)
    count = 10 if quick else N_REQUESTS

    async def measure() -> tuple[list[float], float]:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            seconds, started = [], 0.0
            for number in range(count + 20):
                if number == 20:
                    started = time.process_time()
                start = time.perf_counter()
                response = await client.post("/v1/recommend", json={"user": f"u{number % data.n_users}", "k": 10})
                seconds.append(time.perf_counter() - start)
                assert response.json()["source"] == "model", response.text
            return seconds[20:], (time.process_time() - started) / count

    seconds, cpu = asyncio.run(measure())
    p50, p99 = np.percentile(seconds, [50, 99])
    n_fields = len(model.ranker.schema.fields) if model.ranker is not None else 0
    return {"p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3, "cpu_ms": cpu * 1e3, "fields": n_fields}


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    settings = found["settings"]
    lines = [
        "# Speed of click-through models",
        "",
        f"Equal sizes: embeddings of {settings['embedding_dim']} numbers, layers {settings['hidden']}, "
        f"batches of {settings['batch_size']:,}, {settings['epochs']} epochs, Adam, {found['threads']} thread(s). The "
        "libraries take turns, each in new processes; figures are those of the fastest run, ratios the geometric mean "
        f"over the rounds, with a 95 % interval (t, of the logarithms). The aim in training is {AIM:g}.",
    ]
    labels = ["trained examples/s", "Segue is faster by", "the same, processor time", "scored examples/s",
              "Segue is faster by", "peak MiB"]  # fmt: skip
    for size, table in found["tables"].items():
        sizes = table["sizes"]
        lines += [
            "",
            f"## {size}",
            "",
            f"{sizes['examples']:,} examples, {sizes['fields']} fields of {sizes['categories']:,} categories and "
            f"{sizes['numbers']} numbers; `din`: one of {sizes['items']:,} items and the last {sizes['length']}.",
            "",
            *head_lines(["model", "library", *labels], len(labels)),
        ]
        for name, row in table["rows"].items():
            model, _, library = name.partition(", ")
            ratios = [format_ratio(row[key]) if key in row else "" for key in ("ratio", "cpu_ratio")]
            scored = f"{row['score_ratio']:.2f}" if "score_ratio" in row else ""
            lines.append(
                row_line(
                    [
                        model,
                        library,
                        f"{row['examples_per_second']:,.0f}",
                        *ratios,
                        f"{row['scored_per_second']:,.0f}",
                        scored,
                        f"{row['peak_mib']:,.0f}",
                    ]
                )
            )
    lines += [
        "",
        "## 1,000 candidates in the service",
        "",
        f"`ranker` with `popular` as the first stage, requests over HTTP within the process, one thread; the aim is a "
        f"median of {MAX_MS:g} ms.",
        "",
        *head_lines(["second stage", "fields", "p50, ms", "p99, ms", "CPU, ms"], 4),
    ]
    for key, row in found["service"].items():
        times = [f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms", "cpu_ms")]
        lines.append(row_line([key, f"{row['fields']:.0f}", *times]))
    lines += [
        "",
        "* each library is used through its own trainer, without validation and without regularization",
        "* neither torch-rechub nor DeepCTR-Torch has DLRM; data are simulated, no test part is read",
    ]
    return "\n".join([*lines, load_line(found), *describe_lines(found["machine"]), ""])
