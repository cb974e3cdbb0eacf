"""The service under load, beside what RecTools and RecBole need for one answer; events, states, and top-k by bandwidth.

Models are as their recipes for MovieLens 1M have them, with the weights that they begin with: what they learn changes
no time. Their catalogues have 10^4 to 10^6 items. ``segue serve`` runs in a process of its own with a store on disk,
and ``wrk`` asks it from another over loopback, each question with a history of 50 items that is drawn anew. One answer
to one user is asked of each library as it stands in memory, by its own call, and of the service over HTTP.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.machine import busy, told, undisturbed
from benchmarks.subprocess_runner import fresh, python_of

__all__ = ["page", "run"]

MODELS = ("sasrec", "xlstm")
CATALOGUES = (10_000, 100_000, 1_000_000)
CONNECTIONS = (1, 8, 64)
HISTORY = 50
USERS = 6_040

SMALL = {"width": 64, "blocks": 2, "heads": 2, "inner": 256, "length": 50, "dropout": 0.2, "learning_rate": 1e-3}
"""SASRec as all three libraries can have it, for one answer to one user."""

SCRIPTS = Path(__file__).parent / "runners"


def run(ask: Any) -> dict[str, Any]:
    """All figures."""
    if shutil.which("wrk") is None:
        raise ValueError("serving: wrk is not installed; on Debian: apt-get install wrk")
    from benchmarks.__main__ import load
    from benchmarks.compare_libraries import histories
    from segue.data.splits import SplitSettings, split

    seconds = 1 if ask.quick else 10
    source, data = load(ask.source or ("simulated" if ask.quick else None))
    found: dict[str, Any] = {"source": source, "busy_before_percent": busy()}
    found["settings"] = {"threads": ask.threads, "seconds": seconds, "history": HISTORY}
    found["one"] = _one(ask, dict(zip(("offsets", "items"), histories(split(data, SplitSettings())), strict=True)))
    base = {"threads": ask.threads, "seed": ask.seed}
    found["index"], _ = fresh("serving_index", Path(sys.executable), base | {"quick": ask.quick}, {})
    found["load"], found["events"] = [], []
    with tempfile.TemporaryDirectory(prefix="segue-serving-") as folder:
        for items in CATALOGUES[:1] if ask.quick else CATALOGUES:
            for model in MODELS:
                place = Path(folder) / f"{model}-{items}"
                made = {"model": model, "items": items, "users": USERS, "out": str(place), "history": HISTORY}
                fresh("serving_publish", Path(sys.executable), base | made, {})
                found["load"] += _load(place, model, items, seconds)
                shutil.rmtree(place)
        place = Path(folder) / "xlstm-events"
        made = {"model": "xlstm", "items": CATALOGUES[0], "users": USERS, "out": str(place), "history": HISTORY}
        fresh("serving_publish", Path(sys.executable), base | made, {})
        found["events"] = _events(place, seconds)
        found["states"], _ = fresh("serving_states", Path(sys.executable), base | {"publication": str(place)}, {})
    return found


def _one(ask: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds for the ten best of one user, by side."""
    job = SMALL | {"model": "sasrec", "threads": ask.threads, "seed": ask.seed, "k": 10, "batch": 128}
    job |= {"calls": 5 if ask.quick else 100, "warm_up": 0, "batches": 3}
    found = {}
    with tempfile.TemporaryDirectory(prefix="segue-serving-") as folder:
        job["out"] = str(Path(folder) / "one")
        for name, library in (("Segue", "segue"), ("RecTools", "rectools"), ("RecBole", "recbole")):
            python = python_of(library)
            if python is not None:
                found[name], _ = fresh(f"serving_one_{library}", python, job, arrays)
        with _served(Path(job["out"])) as address:
            for prefix, route in (("http", "known"), ("nothing", "healthz")):
                told = _wrk(address, route, 1, 1 if ask.quick else 10, 0)
                found["Segue"] |= {f"{prefix}_ms": told["p50_ms"], f"{prefix}_p95_ms": told["p95_ms"]}
    return found


def _load(publication: Path, model: str, items: int, seconds: int) -> list[dict[str, Any]]:
    rows = []
    with _served(publication) as address:
        for connections in CONNECTIONS:
            told = _wrk(address, "recommend", connections, seconds, items)
            rows.append({"model": model, "items": items, "connections": connections, **told})
    return rows


def _events(publication: Path, seconds: int) -> list[dict[str, Any]]:
    rows = []
    with _served(publication) as address:
        for kind, events in (("events", 1), ("events/batch", 100)):
            for connections in CONNECTIONS:
                told = _wrk(address, kind, connections, seconds, CATALOGUES[0])
                per_second = told["per_second"] * events
                rows.append({"events": events, "connections": connections, **told, "events_per_second": per_second})
    return rows


@contextmanager
def _served(publication: Path) -> Iterator[str]:
    """The address of a service of its own."""
    with tempfile.TemporaryDirectory(prefix="segue-store-") as folder:
        store = f"sqlite:///{folder}/store.sqlite"
        command = [sys.executable, "-m", "segue", "serve", str(publication), "--port", "0", "--store", store]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen([*command, "--set", "waiting=4096"], stderr=log)
            try:
                address = None
                for _ in range(1200):
                    time.sleep(0.1)
                    if address is None and (line := re.search(r"(http://\S+)/ ", Path(log.name).read_text())):
                        address = line[1]
                    if address is not None and _ready(address):
                        break
                else:
                    raise RuntimeError(f"the service did not begin:\n{Path(log.name).read_text()[-2000:]}")
                yield address
            finally:
                process.terminate()
                process.wait(60)


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wrk(address: str, route: str, connections: int, seconds: int, items: int) -> dict[str, Any]:
    """Requests per second, and milliseconds by share of requests, after a second to warm up."""
    env = os.environ | {"SEGUE_ROUTE": route, "SEGUE_ITEMS": str(items), "SEGUE_HISTORY": str(HISTORY)}
    for span in (1, seconds):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{span}s", "--timeout", "30s", "-s", str(SCRIPTS / "ask.lua")]
        done = subprocess.run([*command, f"{address}/v1/{route}"], capture_output=True, text=True, check=True, env=env)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def page(found: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    settings, one = found["settings"], found["one"]
    lines = ["# The service under load", "", f"{settings['threads']} cores for service and clients together; "
             f"{settings['seconds']} s each; histories of {HISTORY} items.", ""]  # fmt: skip
    lines += ["## One answer to one user", "", "SASRec of width 64 with two blocks, 50 items, ten best of "
              f"{found['source']}; the median of the calls.", ""]  # fmt: skip
    lines += ["| side | ms | 95 % within | times Segue's, over HTTP |", "| --- | ---: | ---: | ---: |"]
    own = one["Segue"]["http_ms"]
    lines += [f"| Segue, over HTTP | {own:.2f} | {one['Segue']['http_p95_ms']:.2f} | 1.0 |"]
    for prefix, what in (("nothing_", "a request that asks nothing, over HTTP"), ("engine_", "the network alone")):
        ms, p95 = one["Segue"][f"{prefix}ms"], one["Segue"][f"{prefix}p95_ms"]
        lines += [f"| Segue: {what} | {ms:.2f} | {p95:.2f} | {ms / own:.1f} |"]
    for name, figures in one.items():
        lines.append(
            f"| {name}, in memory | {figures['ms']:.2f} | {figures['p95_ms']:.2f} | {figures['ms'] / own:.1f} |"
        )
    lines += [
        "",
        "## Questions",
        "",
        "| model | items | connections | requests/s | p50, ms | p95, ms | p99, ms | errors |",
    ]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['model']} | {row['items']:,} | {row['connections']} | {row['per_second']:,.0f} | {_ms(row)} "
        f"| {row['errors']} |"
        for row in found["load"]
    ]
    lines += ["", "## Events", "", "On disk when they are acknowledged (SQLite, synced).", ""]
    lines += ["| events in a request | connections | events/s | requests/s | p50, ms | p95, ms | p99, ms | errors |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['events']} | {row['connections']} | {row['events_per_second']:,.0f} | {row['per_second']:,.0f} "
        f"| {_ms(row)} | {row['errors']} |"
        for row in found["events"]
    ]
    lines += [
        "",
        "## What an event costs a streaming model",
        "",
        "The state of `xlstm` brought up to date in the store.",
        "",
    ]
    lines += ["| events before | ms | bytes of the state |", "| ---: | ---: | ---: |"]
    lines += [f"| {row['events']:,} | {row['ms']:.2f} | {row['bytes']:,} |" for row in found["states"]["points"]]
    lines += [
        "",
        "## Exact top-k",
        "",
        "Ten best of the whole catalogue, vectors of width 64, beside one plain product with a vector, which reads "
        "them once; those of some 10^5 items stay in the processor's cache.",
        "",
    ]
    lines += ["| items | queries | ms | ms a query | GB/s | plain product, GB/s | share |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['items']:,} | {row['queries']} | {row['ms']:.3f} | {row['ms'] / row['queries']:.3f} "
        f"| {row['gb_per_second']:.1f} | {row['plain_gb_per_second']:.1f} | {row['share']:.0%} |"
        for row in found["index"]["points"]
    ]
    return "\n".join([*lines, "", undisturbed(found), *told(found["machine"]), ""])


def _ms(row: dict[str, Any]) -> str:
    return " | ".join(f"{row[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
