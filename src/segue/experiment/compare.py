"""Several models on the same questions: each trained in a process of its own, then tested in pairs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from segue.core.config import suggest
from segue.core.files import read_json, write_json
from segue.core.model import LESS_IS_BETTER
from segue.core.run import Interrupted
from segue.evaluation import significance
from segue.experiment.data import check_inputs, load_data
from segue.experiment.paths import SETTINGS, runs_folder
from segue.experiment.plan import Plan, plan
from segue.experiment.run_folder import METRICS, begin, finished, fresh
from segue.experiment.run_history import reusable
from segue.reports.page import write_page

__all__ = ["compare", "plans", "run_of"]

Say = Callable[[str], None]


def compare(
    models: Sequence[str], task: Mapping[str, Any], assignments: Sequence[str], metric: str, *, say: Say
) -> dict[str, Any]:
    """Train, or find again, one run per model; compare them by ``metric``, and write tables and a page.

    Args:
        models: keys of models; ``key@name`` is the same model once more, under a name for ``assignments`` to set apart.
        task: ``data`` and what else :class:`segue.experiment.settings.Task` has, but the model.
        assignments: for all models, or for one as ``model_key.setting=value``.

    Returns:
        ``models`` (the record of each run), ``tests`` (every pair), ``warnings``, ``folder`` and ``page``.
    """
    wanted = plans(models, task, assignments)
    folders = {model: run_of(chosen, say) for model, chosen in wanted.items()}
    records = {model: read_json(folder / METRICS) | {"model": model} for model, folder in folders.items()}
    values = {model: pl.read_parquet(folder / "values.parquet") for model, folder in folders.items()}
    for model, table in values.items():
        if metric not in (names := table.columns[1:]):
            raise ValueError(f"metric: '{metric}' was not measured of {model}{suggest(metric, names)}")
    sign = -1.0 if metric in LESS_IS_BETTER else 1.0
    tests = significance.compare({model: sign * table[metric].to_numpy() for model, table in values.items()})
    out = fresh(runs_folder() / "compare", str(task["data"]))
    pl.concat([table.select(pl.lit(model).alias("model"), pl.all()) for model, table in values.items()]).write_parquet(
        out / "values.parquet"
    )
    result = {
        "data": task["data"],
        "metric": metric,
        "models": records,
        "tests": [asdict(test) | {"significant": test.significant} for test in tests],
        "warnings": sorted({warning for record in records.values() for warning in record["warnings"]}),
        "folder": str(out),
        "page": str(out / "index.html"),
    }
    write_json(out / "comparison.json", result)
    write_page(out / "index.html", result, {model: _history(folder) for model, folder in folders.items()})
    return result


def plans(models: Sequence[str], task: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Plan]:
    """One plan per model, all on the same board.

    Raises:
        ValueError: fewer than two models, one named twice, settings that are not understood, or models that would be
            measured on different questions.
    """
    if len(models) < 2 or len(set(models)) < len(models):
        raise ValueError(f"compare: got {', '.join(models)}, expected two models or more, each once")
    wanted = {}
    for model in models:
        own = [_own(text, model, models) for text in assignments]
        wanted[model] = plan({"model": model.partition("@")[0], **task}, [text for text in own if text is not None])
    boards = {chosen.board() for chosen in wanted.values()}
    if len(boards) > 1:
        told = "\n  ".join(line for model in models[1:] for line in wanted[models[0]].differences(wanted[model]))
        raise ValueError(f"compare: these models' recipes put them on different boards; --set what differs:\n  {told}")
    for chosen in wanted.values():
        check_inputs(chosen, chosen.split.tell_time)
    return wanted


def _own(text: str, model: str, models: Sequence[str]) -> str | None:
    """An assignment as ``model`` sees it: one of another model is none of its."""
    group, dot, rest = text.partition(".")
    if dot and group in models:
        return f"model.{rest}" if group == model else None
    return text


def _history(folder: Path) -> list[dict[str, float]]:
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run_of(chosen: Plan, say: Say) -> Path:
    """The folder of the finished run of a plan; trained now, in a process of its own, if there is none."""
    data = load_data(chosen)
    found = reusable(chosen)
    if found is not None and read_json(found / METRICS)["data_hash"] == data.header.get("hash"):
        say(f"{chosen.task.model}: {found}, trained before with these settings")
        return found
    name = f"{Path(chosen.task.data.partition('?')[0]).stem}-{chosen.task.model}-{chosen.fingerprint()[:10]}"
    folder = runs_folder() / name
    folder = begin(chosen, None if finished(folder) else folder)
    say(f"{chosen.task.model}: {folder}")
    command = [sys.executable, "-m", "segue", "train", "--resume", str(folder), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode == 130:
        raise Interrupted
    if done.returncode:
        raise ValueError(f"training {chosen.task.model} failed with status {done.returncode}; see {folder}")
    assert json.loads(done.stdout)["run"] == folder.name
    assert (folder / SETTINGS).exists()
    return folder
