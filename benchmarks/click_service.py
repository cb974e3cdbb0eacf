"""Latency of a ``ranker`` that orders 1,000 candidates with 30 fields, in a service over HTTP.

``segue serve`` runs in a process of its own. One client sends one request after another over one connection, so that
the latency is that of a request alone. The processor time is that of the process of the service. A service whose model
is the first stage alone shows what HTTP, the store, the response and the retrieval of items cost.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.serving import serve
from benchmarks.table_rows import head_lines, row_line

__all__ = ["MAX_MS", "N_CANDIDATES", "SERVED", "measure_service", "page_lines", "ranker_world"]

N_CANDIDATES, N_FEATURES, N_REQUESTS, MAX_MS = 1_000, 27, 500, 3.0
"""Candidates and features of users and items in the service, besides user, item and history; requests; the aim."""
WARM_UP = 50
"""Requests that are not measured."""

RETRIEVER = "popular"
NETWORK: dict[str, Any] = {"epochs": 1, "embedding_dim": 16, "hidden": [256, 128]}


def _trees(count: int) -> dict[str, Any]:
    """Return settings of exactly so many trees: the only validation is after the last one."""
    return {"iterations": count, "validate_every": count, "num_leaves": 63, "metric": "ndcg@10"}


SERVED: dict[str, tuple[str | None, dict[str, Any]]] = {
    "none": (None, {}),
    "logistic_regression": ("logistic_regression", {}),
    "gradient_boosting, 100 trees of 63 leaves": ("gradient_boosting", _trees(100)),
    "gradient_boosting, 300 trees of 63 leaves": ("gradient_boosting", _trees(300)),
    "deepfm, layers 64 and 32": ("deepfm", NETWORK | {"hidden": [64, 32]}),
    "deepfm, layers 256 and 128": ("deepfm", NETWORK),
    "dlrm, layers 256 and 128": ("dlrm", NETWORK),
    "dcn_v2, layers 256 and 128, 3 crosses of rank 32": ("dcn_v2", NETWORK | {"rank": 32}),
    "dcn_v2, layers 256 and 128, 3 crosses": ("dcn_v2", NETWORK),
}
"""By row the second stage and its settings; ``None``: the first stage alone."""


def ranker_world(key: str | None, settings: dict[str, Any], folder: Path, quick: bool = False) -> tuple[Any, Any]:
    """Train a ``ranker`` with 30 fields, or the first stage alone; return the model and its data.

    Args:
        key: the second stage; ``None``: none.
        settings: those of the second stage.
        folder: receives the artifact.
    """
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
    name, config = RETRIEVER, dict[str, Any]()
    if key is not None:
        name, config = "ranker", {"retriever": RETRIEVER, "ranker": key, "settings": {key: settings}}
        config |= {"num_candidates": N_CANDIDATES, "max_queries": 100}
    model: Any = train(name, config, Training(), data, Run(0))
    build_artifact(name, bundle.create(name, model, data), data.histories, folder, n_golden=8)
    return model, data


def measure_service(row: str, quick: bool = False) -> dict[str, float]:
    """Return the latency of requests over HTTP and the processor time of the service, in milliseconds.

    Raises:
        RuntimeError: the service did not start, or a response does not come from the model.
    """
    with tempfile.TemporaryDirectory(prefix="segue-bench-") as name:
        folder = Path(name) / "artifact"
        model, data = ranker_world(*SERVED[row], folder, quick)
        ranker = getattr(model, "ranker", None)
        found: dict[str, float] = {"fields": len(ranker.schema.fields) if ranker is not None else 0}
        if trees := getattr(ranker, "trees", ()):
            found["trees"] = len(trees)
        with serve(folder) as (address, pid):
            count = 10 if quick else N_REQUESTS
            return found | _send_requests(address, pid, data.n_users, count) | {"health_ms": _check(address, count)}


def _check(address: str, count: int) -> float:
    """Return the median latency of health checks in milliseconds."""
    client, seconds = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60), list[float]()
    for _ in range(WARM_UP + count):
        start = time.perf_counter()
        client.request("GET", "/healthz")
        client.getresponse().read()
        seconds.append(time.perf_counter() - start)
    client.close()
    return float(np.median(seconds[WARM_UP:])) * 1e3


def _send_requests(address: str, pid: int, n_users: int, count: int) -> dict[str, float]:
    """Send requests, one after another, and measure each."""
    client = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    process, seconds, before = psutil.Process(pid), [], 0.0
    for number in range(WARM_UP + count):
        if number == WARM_UP:
            before = sum(process.cpu_times()[:2])
        body = json.dumps({"user": f"u{number % n_users}", "k": 10, "deadline_ms": 60_000})
        start = time.perf_counter()
        client.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
        text = client.getresponse().read()
        seconds.append(time.perf_counter() - start)
        if json.loads(text).get("source") != "model":
            raise RuntimeError(f"expected recommendations of the model, got {text.decode()}")
    cpu_ms = (sum(process.cpu_times()[:2]) - before) / count * 1e3
    client.close()
    p50_ms, p99_ms = (np.percentile(seconds[WARM_UP:], [50, 99]) * 1e3).tolist()
    return {"p50_ms": p50_ms, "p99_ms": p99_ms, "cpu_ms": cpu_ms}


def page_lines(rows: dict[str, dict[str, float]]) -> list[str]:
    """Format the table."""
    lines = [
        f"## {N_CANDIDATES:,} candidates in the service",
        "",
        f"`ranker` with `{RETRIEVER}` as the first stage and embeddings of {NETWORK['embedding_dim']} numbers. "
        "`segue serve` runs in a process of its own; one client on the same machine sends one request after another. "
        f"The row `none` is the first stage alone, so that it shows the cost of the rest of the service: HTTP, "
        "validation of the request, the log of accesses, the response. A health check over HTTP takes "
        f"{min(row['health_ms'] for row in rows.values()):.2f} ms here. [Serving](serving.md) measures it on another "
        "machine, so that figures of the two pages are not comparable.",
        "",
        *head_lines(
            ["second stage", "fields", "p50, ms", "p99, ms", "CPU of the service, ms", "CPU above `none`, ms"], 5
        ),
    ]
    rest = rows.get("none", {}).get("cpu_ms")
    for name, row in rows.items():
        times = [f"{row[key]:.2f}" for key in ("p50_ms", "p99_ms", "cpu_ms")]
        own = "" if rest is None or name == "none" else f"{row['cpu_ms'] - rest:.2f}"
        lines.append(row_line([name, f"{row['fields']:.0f}" if row["fields"] else "", *times, own]))
    return lines
