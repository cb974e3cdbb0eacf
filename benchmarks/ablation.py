"""What each choice is worth: one setting changed at a time, several seeds, paired with the base on the same questions.

A file of ``benchmarks/ablations`` names the data, the model, the base settings and the variants. Every run is an
ordinary ``segue train``: an interrupted ablation goes on where it was, finished runs are used again.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.machine import trainings
from segue.core.files import read_json
from segue.evaluation.bootstrap import estimate
from segue.experiment.compare import run_of
from segue.experiment.plan import Plan, plan
from segue.experiment.run_folder import METRICS

__all__ = ["STUDIES", "page", "planned", "run", "variants"]

STUDIES = Path(__file__).parent / "ablations"
METRIC = "ndcg@10"


def variants(study: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What the file of ``study`` says, and the assignments of each variant, the base first with none.

    Raises:
        ValueError: there is no such file.
    """
    path = STUDIES / f"{study}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in STUDIES.glob("*.toml")))
        raise ValueError(f"study: no '{study}' in {STUDIES}, expected one of {known}")
    asked = tomllib.loads(path.read_text(encoding="utf-8"))
    return asked, {"base": [], **asked["variants"]}


def planned(asked: dict[str, Any], changed: list[str], seed: int) -> Plan:
    """The training of one variant: the base, and what is changed; ``model=KEY`` among it is another model."""
    # the later of two assignments to one setting is the one that counts
    settings = {text.partition("=")[0]: text for text in [f"model={asked['model']}", *asked["base"], *changed]}
    task = {"model": settings.pop("model").partition("=")[2], "data": asked["data"]}
    return plan(task, [*settings.values(), f"run.seed={seed}"], "none")


def run(study: str, seeds: int, say: Any, quick: bool = False) -> dict[str, Any]:
    """All variants of ``study`` (a file of ``benchmarks/ablations``), each with seeds ``0 .. seeds - 1``.

    Returns:
        per variant: its assignments; validation and test means; the test's interval over users (of each user's mean
        over seeds), its spread over seeds; and the paired difference from the base with its interval.
    """
    asked, changes = variants(study)
    if quick:
        asked["base"], changes, seeds = [*asked["base"], "epochs=1"], dict(list(changes.items())[:2]), 1
    per_user: dict[str, NDArray[np.float64]] = {}
    rows: dict[str, Any] = {}
    for name, changed in changes.items():
        folders = [run_of(planned(asked, changed, seed), say) for seed in range(seeds)]
        records = [read_json(folder / METRICS) for folder in folders]
        values = np.stack([pl.read_parquet(folder / "values.parquet")[METRIC].to_numpy() for folder in folders])
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
        say(f"{name}: test {METRIC} {found}, against the base {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
    record = records[0]
    return {
        "study": study,
        "data": asked["data"],
        "model": asked["model"],
        "base": asked["base"],
        "seeds": seeds,
        "rows": rows,
        "data_hash": record["data_hash"],
        "questions": record["counts"]["test_questions"],
        "audit": record["audit"],
        "date": record["date"],
    }


def page(found: dict[str, Any]) -> str:
    """Markdown: one line per variant."""
    lines = [
        f"# {found['model']} on {found['data']}: one choice changed at a time",
        "",
        f"Made by `python -m benchmarks ablation --study {found['study']}`. Base: `{' '.join(found['base'])}`.",
        f"Each line is the mean of {found['seeds']} seeds; NDCG@10 of the {found['questions']:,} test questions, whole",
        "catalogue. The intervals (95 %) are over users, of each user's mean over the seeds; the gain is paired",
        "with the base; ± is the standard deviation over seeds. Settings were chosen on validation; the table is of "
        "the test.",
        "",
        "| changed | validation | test | 95 % | ± seeds | HR@10 | gain | 95 % | train, s | numbers |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in found["rows"].items():
        test, gain = row["test"], row["gain"]
        label = name if not row["changed"] else f"{name}: `{' '.join(row['changed'])}`"
        spread = float(np.std(test["seeds"], ddof=1)) if len(test["seeds"]) > 1 else 0.0
        told = ["", ""]
        if row["changed"]:
            clear = gain["low"] > 0 or gain["high"] < 0
            told = [
                f"**{gain['mean']:+.4f}**" if clear else f"{gain['mean']:+.4f}",
                f"{gain['low']:+.4f} to {gain['high']:+.4f}",
            ]
        cells = [
            label,
            f"{np.mean(row['valid']):.4f}",
            f"{test['mean']:.4f}",
            f"{test['low']:.4f} to {test['high']:.4f}",
            f"{spread:.4f}",
            f"{row['hit_rate@10']:.4f}",
            *told,
            f"{row['seconds']:,.0f}",
            f"{row['parameters']:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "A gain in bold has an interval that leaves zero out; no correction for the number of lines.",
        "",
        *trainings(found),
        "",
    ]
    return "\n".join(lines)
