"""The how-to page on product databases with a million impressions, run command by command.

A PostgreSQL server is filled with the simulated shop of ``examples/product_database.py``. Each command of the page runs
in a process of its own, in a fresh folder. Then the models of the page are compared with simple baselines over several
seeds, and ``segue serve`` answers requests for known users that ``wrk`` sends over several connections.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.serving import run_wrk, serve
from benchmarks.table_rows import head_lines, row_line

__all__ = ["PAGE", "SMALL", "page", "page_steps", "run", "shrink"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guide" / "how-to" / "product-database.md"

SMALL = {
    "--users 5200 --products 2000": "--users 60 --products 30 --seed 1",
    "u0001": "u01",
    "segue clicks train deepfm": "segue clicks train deepfm --set epochs=1 --set embedding_dim=2 --set 'hidden=[4]'",
    "./clicks logistic_regression gradient_boosting": "./clicks gradient_boosting --set iterations=10",
    "segue train ranker": """segue train ranker --set 'settings={"gradient_boosting": {"iterations": 10}}'""",
}
"""Sizes of the page, and small ones, with which everything takes seconds."""

CONNECTIONS = (1, 4, 16, 64)
SERVED = {"ease": "artifacts/ease", "ease, gradient_boosting": "artifacts/shop"}
"""Folders of the services that are loaded, by the stages of their models."""

CLICK_RATE = """
segue clicks train logistic_regression --data "$SHOP" --query "SELECT clicked AS label, product_id, shown_at FROM
impressions" --split time --column shown_at --set 'columns={"shown_at": "ignore"}' --out click_rate --read-test --json
"""
"""A logistic regression of the product alone: its click rate."""

CLICKS = """
segue clicks compare deepfm logistic_regression gradient_boosting --data "$SHOP" --query @impressions.sql --split time
--column shown_at --set 'columns={"age": "number"}' --calibration platt --seeds SEEDS --out seeds --read-test --json
"""

RANKING = """
segue compare shop popular ease ranker --set ranker.retriever=ease --set ranker.ranker=gradient_boosting --seeds SEEDS
--json
"""

RETRIEVAL = ("segue train ease --data shop --out runs/ease", "segue export runs/ease --out artifacts/ease")
"""The first stage alone, to be served."""

CLICK_METRICS = {"auc": "AUC", "log_loss": "log loss", "calibration_error": "calibration error"}
RANKING_METRICS = {"ndcg@10": "NDCG@10", "recall@10": "Recall@10"}


def page_steps() -> list[tuple[str, str]]:
    """Return the commands of the page, with an empty name, and the files that it writes: a name and a content."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        parts = re.split(r"^cat > (\S+) <<'SQL'\n(.*?)^SQL\n", block, flags=re.MULTILINE | re.DOTALL)
        found += [("", line) for line in parts[0].splitlines() if line]
        for name, content, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            found += [(name, content), *(("", line) for line in rest.splitlines() if line)]
    return found


def shrink(text: str) -> str:
    """Replace the sizes in a command of the page by small ones."""
    for large, small in SMALL.items():
        text = text.replace(large, small)
    return text


def run(options: Any) -> dict[str, Any]:
    """Run all commands and the load.

    Raises:
        ValueError: PostgreSQL or ``wrk`` is not installed.
        RuntimeError: a command failed.
    """
    from benchmarks.soaking.service import start_store

    if shutil.which("wrk") is None:
        raise ValueError("product_database: wrk is not installed; on Debian: apt-get install wrk")
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "threads": options.threads}
    seeds = list(range(1 if options.quick else options.seeds))
    with tempfile.TemporaryDirectory(prefix="segue-shop-") as name:
        folder = Path(name)
        server = start_store("postgresql", folder)
        try:
            server.query("CREATE DATABASE shop")
            shop = _Shop(folder, f"postgresql://segue@/shop?host={server.folder}", server.process.pid, options.threads)
            for file, text in page_steps():
                text = shrink(text) if options.quick else text
                if file:
                    (folder / file).write_text(text, encoding="utf-8")
                else:
                    shop.execute(text)
            found["commands"] = list(shop.commands)
            found |= shop.describe_data() | {"seeds": seeds, "world_seed": 1 if options.quick else 0}
            found |= _compare(shop, seeds, options.quick)
        finally:
            server.stop()
        found["load"] = [
            {"stages": stages, **row}
            for stages, artifact in SERVED.items()
            for row in _load(folder / artifact, found["tables"]["users"], options.quick)
        ]
    found["seconds_per_row"] = _seconds(options.quick)
    return found


class _Shop:
    """A folder with the address of the database, in which commands are run and measured."""

    def __init__(self, folder: Path, address: str, server: int, threads: int) -> None:
        self.folder, self.address, self.commands = folder, address, list[dict[str, Any]]()
        self.server = psutil.Process(server)
        self.environment = os.environ | {"SHOP": address, "SEGUE_HOME": str(folder), "OMP_NUM_THREADS": str(threads)}
        self.environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

    def execute(self, text: str) -> str:
        """Run a command, record its cost, and return what it printed.

        Raises:
            RuntimeError: it failed.
        """
        words = [word.replace("$SHOP", self.address) for word in shlex.split(text)]
        program = ["-m", "segue"] if words[0] == "segue" else [str(ROOT / words[1])]
        command = [sys.executable, *program, *words[1 if words[0] == "segue" else 2 :]]
        out, log = self.folder / "out.txt", self.folder / "log.txt"
        before, start = self._server_seconds(), time.perf_counter()
        with out.open("w") as stdout, log.open("w") as stderr:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=stdout, stderr=stderr)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise RuntimeError(f"{text}\n{log.read_text()[-2000:]}")
        self.commands.append(
            {
                "command": label(text),
                "seconds": seconds,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "server_cpu_seconds": self._server_seconds() - before,
                "peak_mib": usage.ru_maxrss / 1024,
            }
        )
        cost = self.commands[-1]
        print("{command}: {seconds:.0f} s, {cpu_seconds:.0f} CPU s, {peak_mib:.0f} MiB".format(**cost), file=sys.stderr)
        return out.read_text()

    def _server_seconds(self) -> float:
        """Return the processor time of connections that were closed."""
        time.sleep(0.2)  # until the server has collected the process of the last one
        used = self.server.cpu_times()
        return float(used.children_user + used.children_system)

    def describe_data(self) -> dict[str, Any]:
        """Return the numbers of rows of the tables, and the data of the recommender."""
        import psycopg

        with psycopg.connect(self.address) as connection:
            counts = {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
                for table in ("users", "products", "impressions", "orders")
            }
        header = json.loads((self.folder / "shop" / "header.json").read_text())
        return {"tables": counts, "data_hash": header.get("hash")}


def label(text: str) -> str:
    """Return a command without its options and the address; with ``--read-test``, which is another command."""
    words = text.split()
    ends = [number for number, word in enumerate(words) if word.startswith(("-", '"'))]
    return " ".join([*words[: ends[0] if ends else None], *(["--read-test"] if "--read-test" in words else [])])


def _compare(shop: _Shop, seeds: Sequence[int], quick: bool) -> dict[str, Any]:
    """Train the models of the page and simple baselines with all seeds; return their metrics and tests."""
    numbers = ",".join(map(str, seeds))
    clicks, ranking = CLICKS.replace("SEEDS", numbers), RANKING.replace("SEEDS", numbers)
    if quick:
        clicks += "--set deepfm.epochs=1 --set gradient_boosting.iterations=10"
        ranking += """ --set 'ranker.settings={"gradient_boosting": {"iterations": 10}}'"""
    rate = json.loads(shop.execute(CLICK_RATE))
    compared = json.loads(shop.execute(clicks))
    ranked = json.loads(shop.execute(ranking))
    for command in RETRIEVAL:
        shop.execute(command)
    rows = {"click rate of the product": rate["test"]}
    rows |= {name: model["metrics"] for name, model in compared["models"].items()}
    return {
        "comparisons": shop.commands[-5:-2],
        "clicks": {"rows": rate["rows"], "models": rows, "tests": compared["tests"]},
        "ranking": {
            "queries": next(iter(ranked["models"].values()))["protocol"]["queries"],
            "models": {
                name: {"means": {key: model[key] for key in RANKING_METRICS}, "intervals": model["intervals"]}
                for name, model in ranked["models"].items()
            },
            "tests": ranked["tests"],
        },
    }


def _seconds(quick: bool) -> int:
    return 1 if quick else 10


def _load(artifact: Path, n_users: int, quick: bool) -> list[dict[str, Any]]:
    """Send requests for known users by number of connections."""
    width = len(str(n_users))
    users = {"SEGUE_FIRST_USER": "1", "SEGUE_LAST_USER": str(n_users), "SEGUE_USER": f"u%0{width}d"}
    rows: list[dict[str, Any]] = []
    with serve(artifact) as (address, process):
        for connections in CONNECTIONS:
            before = _count_responses(address)
            result = run_wrk(address, "known", connections, _seconds(quick), 0, users, process)
            counts = _count_responses(address) - before
            share = counts["model"] / counts.total()
            rows.append({"connections": connections, **result, "model_share": share})
    return rows


def _count_responses(address: str) -> Counter[str]:
    """Return the number of recommendation responses so far, by what computed them."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as response:
        text = response.read().decode()
    found: Counter[str] = Counter()
    for source, value in re.findall(r'^segue_recommend_responses_total{.*source="(\w+)".*} (\S+)$', text, re.MULTILINE):
        found[source] += int(float(value))
    return found


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    tables = found["tables"]
    counts = f"{tables['users']:,} users, {tables['products']:,} products, {tables['impressions']:,} impressions and "
    lines = [
        "# A product database end to end",
        "",
        f"A PostgreSQL server with {counts}{tables['orders']:,} orders of the simulated world. The commands are those "
        "of [From a product database to a service](../guide/how-to/product-database.md), each in a process of its own. "
        f"Server: processor time of PostgreSQL, which runs on the same {found['machine']['cores']} cores. Options are "
        "left out; they "
        "are in the guide and, for the comparisons, in `benchmarks/product_database.py`.",
        "",
    ]
    lines += _command_lines(found["commands"])
    lines += ["", "## Clicks", "", *_click_lines(found)]
    lines += ["", "## Recommendations", "", *_ranking_lines(found)]
    lines += ["", "## The comparisons", "", *_command_lines(found["comparisons"])]
    lines += ["", "## The service under load", "", *_load_lines(found), ""]
    lines += [f"* data hash of the orders {found['data_hash']}; the simulated world has seed {found['world_seed']}"]
    return "\n".join([*lines, load_line(found), *describe_lines(found["machine"]), ""])


def _command_lines(commands: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = head_lines(["command", "s", "CPU, s", "server, CPU s", "peak memory, MiB"], 4)
    for one in commands:
        seconds = [f"{one[key]:,.1f}" for key in ("seconds", "cpu_seconds", "server_cpu_seconds")]
        lines.append(row_line([f"`{one['command']}`", *seconds, f"{one['peak_mib']:,.0f}"]))
    return lines


def _click_lines(found: Mapping[str, Any]) -> list[str]:
    rows = found["clicks"]["rows"]
    lines = [
        f"Split by time: {rows['train']:,} training, {rows['valid']:,} validation and {rows['test']:,} test rows. "
        f"Means of {len(found['seeds'])} seed(s) on the test part, with 95 % intervals over rows; probabilities of the "
        "models are calibrated on validation. The click rate of the product is a logistic regression on the product "
        "alone, not calibrated.",
        "",
        "Each slate has five products and one click; the other four are drawn by popularity. They are sampled "
        "negatives, "
        "not impressions of a real shop, and the click rate of a product says nothing about the label. All models have "
        "default settings.",
        "",
        *head_lines(["model", *CLICK_METRICS.values()], len(CLICK_METRICS)),
    ]
    for name, metrics in found["clicks"]["models"].items():
        lines.append(row_line([name, *(_cell(metrics.get(key)) for key in CLICK_METRICS)]))
    return [
        *lines,
        "",
        "Paired tests of AUC (DeLong), p after Holm's correction:",
        "",
        *_test_lines(found["clicks"]["tests"]["auc"]),
    ]


def _ranking_lines(found: Mapping[str, Any]) -> list[str]:
    ranking = found["ranking"]
    lines = [
        f"Leave-one-out over orders, {ranking['queries']:,} test queries, whole catalog, products of the history "
        f"removed. Means of {len(found['seeds'])} seed(s), with 95 % intervals over users. `ranker`: `ease` retrieves, "
        "`gradient_boosting` orders.",
        "",
        *head_lines(["model", *RANKING_METRICS.values()], len(RANKING_METRICS)),
    ]
    for name, model in ranking["models"].items():
        cells = [_cell([model["means"][key], *model["intervals"][key]]) for key in RANKING_METRICS]
        lines.append(row_line([name, *cells]))
    return [
        *lines,
        "",
        "Paired tests of NDCG@10, p of randomization tests after Holm's correction; intervals are bootstrap "
        "intervals, so "
        "that near 0 the two may disagree:",
        "",
        *_test_lines(ranking["tests"]),
        "",
        "The commands of the guide read the test parts with one seed, and the comparisons with all seeds; no setting "
        "was "
        "chosen in between.",
    ]


def _load_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Ten products for a random known user per request; {found['seconds_per_row']} s per row after a second of "
        "warm-up. `wrk` runs on the same machine. CPU: processor time of the service per request. By the model: the "
        "other responses were fallbacks, as the model would have missed the deadline. Each row is one run, first of "
        "the "
        "first stage alone: small differences are noise.",
        "",
    ]
    numbers = ["connections", "requests/s", "p50, ms", "p95, ms", "p99, ms", "CPU, ms", "by the model", "errors"]
    lines += head_lines(["stages", *numbers], len(numbers))
    for row in found["load"]:
        times = [f"{row[key]:,.2f}" for key in ("p50_ms", "p95_ms", "p99_ms", "cpu_ms")]
        ends = [f"{row['model_share']:.1%}", str(row["errors"])]
        lines.append(row_line([row["stages"], str(row["connections"]), f"{row['per_second']:,.0f}", *times, *ends]))
    return lines


def _cell(estimate: Sequence[float | None] | None) -> str:
    if estimate is None or estimate[0] is None:
        return ""
    mean, low, high = estimate
    return f"{mean:.4f}" if low is None or high is None else f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def _test_lines(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"- {one['first']} - {one['second']}: {one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}], "
        + ("p < 0.0001" if one["p_holm"] < 1e-4 else f"p = {one['p_holm']:.4f}")
        for one in tests
    ]
