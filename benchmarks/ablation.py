"""Effect of each setting: one change at a time, several seeds, paired with the base on the same queries.

A file of ``benchmarks/ablations`` names the data, the model, the base settings and the variants. Every run is an
ordinary ``segue train``: an interrupted ablation resumes, and finished runs are reused.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import training_lines
from benchmarks.readings import count_readings, reading_lines
from benchmarks.verdicts import Verdict, compare_figures
from segue.evaluation.bootstrap import estimate
from segue.experiment.compare_runs import ensure_run, read_test_results
from segue.experiment.plan import Plan, make_plan

__all__ = ["STUDIES", "make_variant_plan", "page", "run", "variants"]

STUDIES = Path(__file__).parent / "ablations"
METRIC = "ndcg@10"


def variants(study: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Read a study; return its content, and the changed settings of each variant, the base first.

    Raises:
        ValueError: an unknown study.
    """
    path = STUDIES / f"{study}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in STUDIES.glob("*.toml")))
        raise ValueError(f"study: no '{study}' in {STUDIES}, expected one of {known}")
    study_file = tomllib.loads(path.read_text(encoding="utf-8"))
    return study_file, {"base": [], **study_file["variants"]}


def make_variant_plan(content: dict[str, Any], changed: list[str], seed: int) -> Plan:
    """Plan the training of one variant: the base with its changes, of which ``model=KEY`` changes the model."""
    # of two assignments to a setting the later one wins
    settings = {text.partition("=")[0]: text for text in [f"model={content['model']}", *content["base"], *changed]}
    task = {"model": settings.pop("model").partition("=")[2], "data": content["data"]}
    return make_plan(task, [*settings.values(), f"run.seed={seed}"], "none")


def run(study: str, seeds: int, log: Any, quick: bool = False) -> dict[str, Any]:
    """Train all variants of ``study`` with seeds ``0 .. seeds - 1``.

    Returns:
        per variant its changes; means on validation and test; the interval of the test mean over users (of each
        user's mean over seeds) and its spread over seeds; and the paired difference from the base with its interval.
    """
    content, changes = variants(study)
    if quick:
        content["base"], changes, seeds = [*content["base"], "epochs=1"], dict(list(changes.items())[:2]), 1
    per_user: dict[str, NDArray[np.float64]] = {}
    rows: dict[str, Any] = {}
    every_run: list[Path] = []
    for name, changed in changes.items():
        folders = [ensure_run(make_variant_plan(content, changed, seed), log, read_test=True) for seed in range(seeds)]
        every_run += folders
        read = [read_test_results(folder) for folder in folders]
        records = [record for record, _ in read]
        values = np.stack([table[METRIC].to_numpy() for _, table in read])
        per_user[name] = values.mean(0)
        found = estimate(per_user[name][:, None])[0]
        gain = estimate((per_user[name] - per_user["base"])[:, None])[0]
        means = values.mean(1)
        rows[name] = {
            "changed": changed,
            "valid": [record["valid"][METRIC] for record in records],
            "test": {"mean": found.mean, "low": found.low, "high": found.high, "seeds": means.tolist()},
            "hit_rate@10": float(np.mean([record["hit_rate@10"] for record in records])),
            "gain": {"mean": gain.mean, "low": gain.low, "high": gain.high},
            "seconds": float(np.mean([record["cost"]["seconds"]["train"] for record in records])),
            "parameters": records[0]["cost"]["parameters"],
        }
        log(f"{name}: test {METRIC} {found}, against the base {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
    record = records[0]
    return {
        "study": study,
        "data": content["data"],
        "model": content["model"],
        "base": content["base"],
        "seeds": seeds,
        "rows": rows,
        "test_readings": count_readings(every_run),
        "data_hash": record["data_hash"],
        "queries": record["counts"]["test_queries"],
        "leakage": record["leakage"],
        "date": record["date"],
    }


def page(found: dict[str, Any]) -> str:
    """Format a table with a row per variant."""
    lines = [
        f"# {found['model']} on {found['data']}: one setting changed at a time",
        "",
        f"Command: `python -m benchmarks ablation --study {found['study']}`. Base: `{' '.join(found['base'])}`.",
        f"Each row is the mean of {found['seeds']} seeds; NDCG@10 of the {found['queries']:,} test queries, whole",
        "catalog. Intervals (95 %) are over users, of each user's mean over the seeds; the difference is paired with",
        "the base; ± is the standard deviation over seeds. The table measures the effect of each setting on the test",
        "part; the settings of the recipes were chosen by validation.",
        "",
        "| changed | validation | test | 95 % | ± seeds | HR@10 | difference | 95 % | train, s | parameters |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in found["rows"].items():
        test, gain = row["test"], row["gain"]
        label = name if not row["changed"] else f"{name}: `{' '.join(row['changed'])}`"
        spread = float(np.std(test["seeds"], ddof=1)) if len(test["seeds"]) > 1 else 0.0
        difference = ["", ""]
        if row["changed"]:
            is_clear = compare_figures((gain["low"], gain["high"]), 0.0) is not Verdict.ON_PAR
            difference = [
                f"**{gain['mean']:+.4f}**" if is_clear else f"{gain['mean']:+.4f}",
                f"{gain['low']:+.4f} to {gain['high']:+.4f}",
            ]
        cells = [
            label,
            f"{np.mean(row['valid']):.4f}",
            f"{test['mean']:.4f}",
            f"{test['low']:.4f} to {test['high']:.4f}",
            f"{spread:.4f}",
            f"{row['hit_rate@10']:.4f}",
            *difference,
            f"{row['seconds']:,.0f}",
            f"{row['parameters']:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "The interval of a difference in bold excludes zero; it is not corrected for the number of rows.",
        "",
        *reading_lines(found, f"ablation-{found['study']}", found["seeds"] * len(found["rows"])),
        *training_lines(found),
        "",
    ]
    return "\n".join(lines)
