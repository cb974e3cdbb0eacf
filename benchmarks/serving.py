"""The service under load: requests, events, recurrent states, exact top-k; and single requests of other libraries.

Models have the settings of their recipes for MovieLens 1M and untrained weights, which does not affect the time.
Catalogs have 10^4 to 10^6 items. ``segue serve`` runs in a process of its own with a store on disk; ``wrk`` sends
requests over loopback, each with a new random history of 50 items. A single request for one user is measured in memory
for each library, by its own function, and over HTTP for the service.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.subprocess_runner import RUNNERS, find_python, run_in_subprocess

__all__ = ["page", "run", "run_wrk", "serve"]

MODELS = ("sasrec", "xlstm")
CATALOG_SIZES = (10_000, 100_000, 1_000_000)
CONNECTIONS = (1, 8, 64)
HISTORY = 50
USERS = 6_040

SINGLE_REQUEST = {
    "embedding_dim": 64,
    "num_blocks": 2,
    "num_heads": 2,
    "inner": 256,
    "length": 50,
    "dropout": 0.2,
    "learning_rate": 1e-3,
}
"""Settings of SASRec that all three libraries support, for single requests."""


def run(options: Any) -> dict[str, Any]:
    """Measure everything.

    Raises:
        ValueError: ``wrk`` is not installed.
    """
    if shutil.which("wrk") is None:
        raise ValueError("serving: wrk is not installed; on Debian: apt-get install wrk")
    from benchmarks.__main__ import load
    from benchmarks.compare_libraries import histories
    from segue.data.splits import SplitSettings, split

    seconds = 1 if options.quick else 10
    source, data = load(options.source or ("simulated" if options.quick else None))
    events = dict(zip(("offsets", "items"), histories(split(data, SplitSettings())), strict=True))
    found: dict[str, Any] = {"source": source, "load_before_percent": cpu_load()}
    found["settings"] = {"threads": options.threads, "seconds": seconds, "history": HISTORY}
    found["single_request"] = _measure_single_request(options, events)
    python, base = Path(sys.executable), {"threads": options.threads, "seed": options.seed}
    found["index"], _ = run_in_subprocess("serving_index", python, base | {"quick": options.quick}, {})
    found["load"], found["events"] = [], []
    with tempfile.TemporaryDirectory(prefix="segue-serving-") as name:
        folder = Path(name)
        for items in CATALOG_SIZES[:1] if options.quick else CATALOG_SIZES:
            for model in MODELS:
                artifact = folder / f"{model}-{items}"
                job = {"model": model, "items": items, "users": USERS, "out": str(artifact), "history": HISTORY}
                run_in_subprocess("serving_artifact", python, base | job, {})
                found["load"] += _measure_requests(artifact, model, items, seconds)
                shutil.rmtree(artifact)
        artifact = folder / "xlstm-events"
        job = {"model": "xlstm", "items": CATALOG_SIZES[0], "users": USERS, "out": str(artifact), "history": HISTORY}
        run_in_subprocess("serving_artifact", python, base | job, {})
        found["events"] = _measure_events(artifact, seconds)
        found["states"], _ = run_in_subprocess("serving_states", python, base | {"artifact": str(artifact)}, {})
    return found


def _measure_single_request(options: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Measure milliseconds for the top ten of one user, by library."""
    job = SINGLE_REQUEST | {"model": "sasrec", "threads": options.threads, "seed": options.seed, "k": 10, "batch": 128}
    job |= {"calls": 5 if options.quick else 100, "warm_up": 0, "batches": 3}
    found = {}
    with tempfile.TemporaryDirectory(prefix="segue-serving-") as folder:
        job["out"] = str(Path(folder) / "artifact")
        for name, library in (("Segue", "segue"), ("RecTools", "rectools"), ("RecBole", "recbole")):
            python = find_python(library)
            if python is not None:
                found[name], _ = run_in_subprocess(f"serving_one_{library}", python, job, arrays)
        with serve(Path(job["out"])) as (address, _):
            for prefix, route in (("http", "known"), ("health", "healthz")):
                result = run_wrk(address, route, 1, 1 if options.quick else 10, 0)
                found["Segue"] |= {f"{prefix}_ms": result["p50_ms"], f"{prefix}_p95_ms": result["p95_ms"]}
    return found


def _measure_requests(artifact: Path, model: str, items: int, seconds: int) -> list[dict[str, Any]]:
    """Measure recommendation requests by number of connections."""
    rows = []
    with serve(artifact) as (address, _):
        for connections in CONNECTIONS:
            result = run_wrk(address, "recommend", connections, seconds, items)
            rows.append({"model": model, "items": items, "connections": connections, **result})
    return rows


def _measure_events(artifact: Path, seconds: int) -> list[dict[str, Any]]:
    """Measure the rate of appended events, singly and in batches."""
    rows = []
    with serve(artifact) as (address, _):
        for route, events in (("events", 1), ("events/batch", 100)):
            for connections in CONNECTIONS:
                result = run_wrk(address, route, connections, seconds, CATALOG_SIZES[0])
                per_second = result["per_second"] * events
                rows.append({"events": events, "connections": connections, **result, "events_per_second": per_second})
    return rows


@contextmanager
def serve(artifact: Path) -> Iterator[tuple[str, int]]:
    """Run a service with a store of its own; yield its address and the id of its process.

    Raises:
        RuntimeError: the service did not start.
    """
    with tempfile.TemporaryDirectory(prefix="segue-store-") as folder:
        store = f"sqlite:///{folder}/store.sqlite"
        command = [sys.executable, "-m", "segue", "serve", str(artifact), "--port", "0", "--store", store]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen([*command, "--set", "queue_size=4096"], stderr=log)
            try:
                address = None
                for _ in range(1200):
                    time.sleep(0.1)
                    if address is None and (match := re.search(r"(http://[\w.:]+)/", Path(log.name).read_text())):
                        address = match[1]
                    if address is not None and _is_ready(address):
                        break
                else:
                    raise RuntimeError(f"the service did not start:\n{Path(log.name).read_text()[-2000:]}")
                yield address, process.pid
            finally:
                process.terminate()
                process.wait(60)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def run_wrk(
    address: str,
    route: str,
    connections: int,
    seconds: int,
    items: int,
    users: Mapping[str, str] | None = None,
    process: int | None = None,
) -> dict[str, Any]:
    """Run ``wrk`` after a warm-up of one second; return requests per second and latency quantiles.

    Args:
        users: variables of ``wrk_requests.lua`` that say which users occur.
        process: the service, whose processor time per request is measured too.
    """
    env = os.environ | {"SEGUE_ROUTE": route, "SEGUE_ITEMS": str(items), "SEGUE_HISTORY": str(HISTORY), **(users or {})}
    script = str(RUNNERS / "wrk_requests.lua")
    before = 0.0
    for span in (1, seconds):
        before = 0.0 if process is None else _processor_seconds(process)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{span}s", "--timeout", "30s", "-s", script]
        done = subprocess.run([*command, f"{address}/v1/{route}"], capture_output=True, text=True, check=True, env=env)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if process is not None:
        used = _processor_seconds(process) - before
        result["cpu_ms"] = 1e3 * used / max(1, result["requests"])
    return result


def _processor_seconds(process: int) -> float:
    """Return the processor time of a process and its children so far."""
    parent = psutil.Process(process)
    used = [one.cpu_times() for one in (parent, *parent.children(recursive=True))]
    return float(sum(one.user + one.system for one in used))


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    settings = found["settings"]
    lines = ["# The service under load", "", f"{settings['threads']} cores shared by service and clients; "
             f"{settings['seconds']} s per row; histories of {HISTORY} items.", ""]  # fmt: skip
    lines += _single_request_lines(found)
    lines += ["", "## Recommendation requests", ""]
    lines += ["| model | items | connections | requests/s | p50, ms | p95, ms | p99, ms | errors |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['model']} | {row['items']:,} | {row['connections']} | {row['per_second']:,.0f} | {_latencies(row)} "
        f"| {row['errors']} |"
        for row in found["load"]
    ]
    lines += ["", "## Events", "", "Written to disk before they are acknowledged (SQLite with sync).", ""]
    lines += ["| events per request | connections | events/s | requests/s | p50, ms | p95, ms | p99, ms | errors |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['events']} | {row['connections']} | {row['events_per_second']:,.0f} | {row['per_second']:,.0f} "
        f"| {_latencies(row)} | {row['errors']} |"
        for row in found["events"]
    ]
    lines += ["", "## Cost of an event for a streaming model", "", "Update of the state of `xlstm` in the store.", ""]
    lines += ["| events before | ms | state, bytes |", "| ---: | ---: | ---: |"]
    lines += [f"| {row['events']:,} | {row['ms']:.2f} | {row['bytes']:,} |" for row in found["states"]["points"]]
    lines += [
        "",
        "## Exact top-k",
        "",
        "Top ten of the whole catalog, vectors of width 64, compared with a plain matrix-vector product, which reads "
        "the vectors once; those of up to 10^5 items fit into the CPU cache.",
        "",
    ]
    lines += ["| items | queries | ms | ms per query | GB/s | plain product, GB/s | share |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['items']:,} | {row['queries']} | {row['ms']:.3f} | {row['ms'] / row['queries']:.3f} "
        f"| {row['gb_per_second']:.1f} | {row['plain_gb_per_second']:.1f} | {row['share']:.0%} |"
        for row in found["index"]["points"]
    ]
    return "\n".join([*lines, "", load_line(found), *describe_lines(found["machine"]), ""])


def _single_request_lines(found: dict[str, Any]) -> list[str]:
    """Format the table of single requests."""
    libraries = found["single_request"]
    segue, own = libraries["Segue"], libraries["Segue"]["http_ms"]
    lines = ["## A single request for one user", "", "SASRec of width 64 with two blocks, 50 items, top ten of "
             f"{found['source']}; median over the calls.", ""]  # fmt: skip
    lines += ["| library | ms | p95, ms | ratio to Segue over HTTP |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| Segue, over HTTP | {own:.2f} | {segue['http_p95_ms']:.2f} | 1.0 |"]
    for prefix, what in (("health_", "health check over HTTP"), ("engine_", "the network alone")):
        ms, p95 = segue[f"{prefix}ms"], segue[f"{prefix}p95_ms"]
        lines += [f"| Segue: {what} | {ms:.2f} | {p95:.2f} | {ms / own:.1f} |"]
    for name, figures in libraries.items():
        lines.append(
            f"| {name}, in memory | {figures['ms']:.2f} | {figures['p95_ms']:.2f} | {figures['ms'] / own:.1f} |"
        )
    return lines


def _latencies(row: dict[str, Any]) -> str:
    return " | ".join(f"{row[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
