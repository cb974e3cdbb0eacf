"""Latency of a ``ranker`` that orders 1,000 candidates with 30 fields, in a service over HTTP.

Each model has a ``segue serve`` in a process of its own. The services take turns: one client sends some requests to one
of them, one after another over one connection, then to the next, so that all meet the same changes of the machine. The
processor time is that of the process of the service. A service whose model is the first stage alone shows what HTTP,
the store, the response and the retrieval of items cost.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from benchmarks.serving import serve
from benchmarks.table_rows import head_lines, row_line

__all__ = ["MAX_MS", "N_CANDIDATES", "SERVED", "measure_services", "page_lines", "ranker_world"]

N_CANDIDATES, N_FEATURES, MAX_MS = 1_000, 27, 3.0
"""Candidates and features of users and items in the service, besides user, item and history; the aim."""
ROUNDS, N_REQUESTS, WARM_UP = 6, 100, 20
"""Turns of each service, its requests in a turn, and those before them that are not measured."""

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


def measure_services(names: Sequence[str] = tuple(SERVED), quick: bool = False) -> dict[str, dict[str, float]]:
    """Return latencies over HTTP and the processor time of the services, in milliseconds by row.

    Raises:
        RuntimeError: a service did not start, or a response does not come from the model.
    """
    rounds, count = (1, 10) if quick else (ROUNDS, N_REQUESTS)
    found: dict[str, dict[str, float]] = {}
    turns: dict[str, list[_Turn]] = {name: [] for name in names}
    with ExitStack() as stack:
        addresses = {}
        for index, name in enumerate(names):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segue-bench-"))) / "artifact"
            model, data = ranker_world(*SERVED[name], folder, quick)
            ranker = getattr(model, "ranker", None)
            found[name] = {"fields": len(ranker.schema.fields) if ranker is not None else 0}
            if trees := getattr(ranker, "trees", ()):
                found[name]["trees"] = len(trees)
            print(f"service {index + 1} of {len(names)}: {name}", file=sys.stderr)
            addresses[name] = stack.enter_context(serve(folder))
        for _ in range(rounds):
            for name, (address, process) in addresses.items():
                turns[name].append(_take_turn(address, process, data.n_users, count))
    for name, row in found.items():
        p50_ms, p99_ms = (np.percentile([ms for turn in turns[name] for ms in turn.request_ms], [50, 99])).tolist()
        health_ms = float(np.median([ms for turn in turns[name] for ms in turn.health_ms]))
        cpu_ms = float(np.mean([turn.cpu_ms for turn in turns[name]]))
        row |= {"p50_ms": p50_ms, "p99_ms": p99_ms, "cpu_ms": cpu_ms, "health_ms": health_ms}
    return found


class _Turn(NamedTuple):
    """What one service took in one turn, in milliseconds."""

    request_ms: list[float]
    cpu_ms: float
    """Processor time per request."""
    health_ms: list[float]


def _take_turn(address: str, pid: int, n_users: int, count: int) -> _Turn:
    """Send requests and health checks, one after another."""
    client, process = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60), psutil.Process(pid)

    def send(method: str, path: str, body: str | None = None) -> tuple[float, bytes]:
        start = time.perf_counter()
        client.request(method, path, body, {"Content-Type": "application/json"})
        text = client.getresponse().read()
        return (time.perf_counter() - start) * 1e3, text

    request_ms, before = list[float](), 0.0
    for number in range(WARM_UP + count):
        if number == WARM_UP:
            before = sum(process.cpu_times()[:2])
        body = json.dumps({"user": f"u{number % n_users}", "k": 10, "deadline_ms": 60_000})
        ms, text = send("POST", "/v1/recommend", body)
        if json.loads(text).get("source") != "model":
            raise RuntimeError(f"expected recommendations of the model, got {text.decode()}")
        request_ms.append(ms)
    cpu_ms = (sum(process.cpu_times()[:2]) - before) / count * 1e3
    health_ms = [send("GET", "/healthz")[0] for _ in range(count)]
    client.close()
    return _Turn(request_ms[WARM_UP:], cpu_ms, health_ms)


def page_lines(rows: dict[str, dict[str, float]]) -> list[str]:
    """Format the table."""
    lines = [
        f"## {N_CANDIDATES:,} candidates in the service",
        "",
        f"`ranker` with `{RETRIEVER}` as the first stage, embeddings of {NETWORK['embedding_dim']} numbers, and 33 "
        f"fields: user, item, history, {N_FEATURES} features, and three numbers of the retrieval. Each `segue serve` "
        "runs in a process of its own; one client on the same machine sends one request after another, and the "
        "services "
        f"take {ROUNDS} turns of {N_REQUESTS} requests. The row `none` is the first stage alone, so that it shows the "
        "cost of the rest of the service: HTTP, validation of the request, the access log, the response. "
        "[Serving](serving.md) was measured on another machine: the figures of the two pages are not comparable.",
        "",
        *head_lines(
            [
                *("second stage", "fields", "p50, ms", "p99, ms", "CPU of the service, ms", "CPU above `none`, ms"),
                "p50 of a health check, ms",
            ],
            6,
        ),
    ]
    rest = rows.get("none", {}).get("cpu_ms")
    for name, row in rows.items():
        times = [f"{row[key]:.2f}" for key in ("p50_ms", "p99_ms", "cpu_ms")]
        own = "" if rest is None or name == "none" else f"{row['cpu_ms'] - rest:.2f}"
        fields = f"{row['fields']:.0f}" if row["fields"] else ""
        lines.append(row_line([name, fields, *times, own, f"{row['health_ms']:.2f}"]))
    return lines
